/** What programs, tls and http2 take for granted about sockets of node:net: classes, chunks, alerts, and that nobody else connects. */
import diagnostics from 'node:diagnostics_channel'
import { once } from 'node:events'
import http2 from 'node:http2'
import plain, { type Server } from 'node:net'
import { PassThrough } from 'node:stream'
import tls from 'node:tls'
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest'
import * as net from '../../src/net/index.js'
import { type Daemon, startDaemon, until, vmring } from '../support/processes.js'

let daemon: Daemon
let names = 0

beforeEach(async () => {
  daemon = await startDaemon(['--no-relay'])
  net.usePeer({ region: daemon.region, relay: 'none' })
})
afterEach(() => net.usePeer(null))

async function listening(handler: (socket: plain.Socket) => void): Promise<Server> {
  const server = net.createServer(handler)
  onTestFinished(() => void server.close())
  server.listen(`vmring:like-${process.pid}-${names++}`)
  await once(server, 'listening')
  return server
}

test('a TLSSocket, a socket of http2 and one of node:net are instances of Socket, and not of its subclasses', async () => {
  class Mine extends net.Socket {}
  const own = [new net.Socket(), new Mine()]
  for (const socket of [...own, new plain.Socket(), new tls.TLSSocket(new PassThrough() as never)])
    expect(socket).toBeInstanceOf(net.Socket)
  expect(new PassThrough()).not.toBeInstanceOf(net.Socket)
  expect(own.map((socket) => socket instanceof Mine)).toEqual([false, true])
  expect(new plain.Socket()).not.toBeInstanceOf(Mine)
  expect([plain.createServer() instanceof net.Server, net.createServer() instanceof net.Server]).toEqual([
    true,
    true,
  ])

  const h2 = http2.createServer((request, response) => {
    expect(request.socket).toBeInstanceOf(net.Socket)
    response.end(request.url)
  })
  const server = await listening((socket) => h2.emit('connection', socket))
  const session = http2.connect('http://localhost', {
    createConnection: () => net.connect(server.address() as never as string),
  })
  const stream = session.request({ ':path': '/over' })
  expect(String(await once(stream, 'data'))).toBe('/over')
  session.close()
  await once(session, 'close')
})

test('bytes that wait together come in one piece, up to 64 KiB', async () => {
  const sizes: number[] = []
  const server = await listening((socket) => {
    socket.on('data', (chunk) => sizes.push(chunk.length))
  })
  for (const size of [100, 4096, 5000, 65536, 40, 60_000]) {
    const socket = net.connect(server.address() as never as string)
    socket.end(Buffer.alloc(size))
    await once(socket.resume(), 'close')
  }
  expect(sizes).toEqual([100, 4096, 5000, 65536, 40, 60_000])
})

test('tls: the alert of a client that cannot go on reaches the server, however quick its answer was', async () => {
  const psk = Buffer.alloc(32, 7)
  // the answer that the client refuses comes while what it said first is still on its way out
  const secure = tls.createServer({ ciphers: 'PSK', maxVersion: 'TLSv1.2', pskCallback: () => psk })
  const server = await listening((socket) => secure.emit('connection', socket))
  for (let round = 0; round < 5; round++) {
    const told = once(secure, 'tlsClientError') as Promise<[NodeJS.ErrnoException]>
    const client = tls.connect({
      ciphers: 'PSK',
      maxVersion: 'TLSv1.2',
      socket: net.connect(server.address() as never as string),
      pskCallback: () => null,
      checkServerIdentity: () => undefined,
    })
    client.on('error', () => {})
    const [error] = await told
    expect(error.code).toMatch(/^ERR_SSL_.*ALERT/)
  }
})

test('http2: what is said before a stream or a session is destroyed is heard: a response, the code of the end', async () => {
  const h2 = http2.createServer()
  h2.on('stream', (stream, headers) => {
    stream.on('error', () => {})
    stream.session?.on('error', () => {})
    if (headers[':path'] === '/session') {
      stream.session?.destroy(new Error('refused'), http2.constants.NGHTTP2_REFUSED_STREAM)
      return
    }
    stream.resume().on('end', () => {
      stream.respond({ ':status': 201 })
      stream.write('x')
      stream.destroy()
    })
  })
  const server = await listening((socket) => h2.emit('connection', socket))
  const connect = () =>
    http2.connect('http://localhost', {
      createConnection: () => net.connect(server.address() as never as string),
    })
  const session = connect()
  const stream = session.request({ ':method': 'POST', ':path': '/stream' })
  const closed = once(stream, 'close')
  stream.resume().end('body')
  expect(((await once(stream, 'response')) as [Record<string, unknown>])[0][':status']).toBe(201)
  await closed
  session.close()
  const other = connect()
  const refused = other.request({ ':path': '/session' })
  refused.on('error', () => {})
  const [error] = (await once(other, 'error')) as [Error]
  expect(error.message).toMatch(/error code 7/)
  expect(refused.rstCode).toBe(http2.constants.NGHTTP2_REFUSED_STREAM)
})

test('who watches node:net sees none of the connections of vmring itself', async () => {
  const seen: unknown[] = []
  const { connect } = plain.Socket.prototype
  plain.Socket.prototype.connect = function (this: plain.Socket, ...args: unknown[]) {
    seen.push(args)
    return Reflect.apply(connect, this, args)
  } as typeof connect
  const watch = ({ socket }: { socket?: unknown }) => void (socket instanceof net.Socket || seen.push(socket))
  diagnostics.subscribe('net.client.socket', watch as never)
  onTestFinished(() => {
    plain.Socket.prototype.connect = connect
    diagnostics.unsubscribe('net.client.socket', watch as never)
  })
  const server = await listening((socket) => void socket.pipe(socket))
  // the daemon has been told
  await until(async () => (await vmring(['ls', '--socket', daemon.socket])).text.includes('like-'), 30_000)
  const socket = net.connect(server.address() as never as string)
  socket.end('x')
  expect(String(await once(socket, 'data'))).toBe('x')
  expect(seen).toEqual([])
}, 60_000)
