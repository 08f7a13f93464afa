/** vmring/net as users of node:net know it: events in their order, half-open rules, counters, limits, errors. */
import { once } from 'node:events'
import http from 'node:http'
import plain, { type Server } from 'node:net'
import { join } from 'node:path'
import tls from 'node:tls'
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest'
import { attach } from '../../src/index.js'
import * as net from '../../src/net/index.js'
import { type Daemon, root, startDaemon, startNode } from '../support/processes.js'

let daemon: Daemon
let names = 0

beforeEach(async () => {
  daemon = await startDaemon(['--no-relay'])
  net.usePeer({ region: daemon.region, relay: 'none' })
})
afterEach(() => net.usePeer(null))

const unused = () => `vmring:net-${process.pid}-${names++}`

async function listening(
  handler: (socket: plain.Socket) => void,
  options: plain.ServerOpts = {},
  address = unused(),
): Promise<Server> {
  const server = net.createServer(options, handler)
  onTestFinished(() => void server.close())
  server.listen(address)
  await once(server, 'listening')
  return server
}

const failure = async (socket: plain.Socket) => ((await once(socket, 'error')) as [NodeJS.ErrnoException])[0]

async function text(socket: plain.Socket): Promise<string> {
  let all = ''
  for await (const chunk of socket) all += chunk
  return all
}

test('a client and a server talk; events come in the order of node:net, counters survive the end', async () => {
  const events: string[] = []
  const server = await listening((socket) => {
    expect(socket.address()).toEqual({})
    expect(socket.remoteAddress).toBeUndefined()
    socket.pipe(socket)
  })
  expect(server.listening).toBe(true)
  expect(typeof server.address()).toBe('string')
  const socket = net.connect(server.address() as string)
  expect(socket).toBeInstanceOf(plain.Socket)
  expect([socket.connecting, socket.pending, socket.readyState]).toEqual([true, true, 'opening'])
  for (const name of ['connect', 'ready', 'end', 'finish', 'close']) socket.on(name, () => events.push(name))
  socket.write('before it stands, ')
  socket.end('and behind')
  expect(await text(socket)).toBe('before it stands, and behind')
  await once(socket, 'close')
  expect(events.filter((name) => name !== 'finish')).toEqual(['connect', 'ready', 'end', 'close'])
  expect(events.indexOf('finish')).toBeLessThan(events.indexOf('close'))
  expect([socket.bytesWritten, socket.bytesRead, socket.destroyed]).toEqual([28, 28, true])
})

test("once('connect') on a connected socket waits for ever, as in node:net", async () => {
  const server = await listening((socket) => socket.resume())
  const socket = net.connect(server.address() as string)
  await once(socket, 'connect')
  let told = 0
  socket.once('connect', () => told++)
  socket.end()
  await once(socket, 'close')
  expect(told).toBe(0)
})

test('a megabyte each way arrives whole, whatever the reader does to hold it up', async () => {
  const sent = Buffer.alloc(1_000_003, 'abcdefghi')
  const server = await listening((socket) => void socket.pipe(socket))
  const socket = net.connect({ path: server.address() as string })
  const chunks: Buffer[] = []
  socket.on('data', (chunk) => {
    chunks.push(chunk)
    if (chunks.length % 3 !== 0) return
    socket.pause()
    setTimeout(() => socket.resume(), 1)
  })
  socket.end(sent)
  expect(socket.bytesWritten).toBeLessThanOrEqual(sent.length)
  await once(socket, 'end')
  expect(Buffer.concat(chunks).equals(sent)).toBe(true)
})

test('chunks are private: they keep their bytes when the ring has gone round', async () => {
  const server = await listening((socket) => {
    for (let i = 0; i < 64; i++) socket.write(Buffer.alloc(32_768, i))
    socket.end()
  })
  const socket = net.connect(server.address() as string)
  const all = Buffer.concat(await socket.toArray())
  const kept = Array.from({ length: 64 }, (_, i) => all.subarray(i * 32_768, (i + 1) * 32_768))
  expect(kept.map((part, i) => part.equals(Buffer.alloc(32_768, i)))).toEqual(kept.map(() => true))
})

test('without allowHalfOpen a write behind the end of the other side is EPIPE; with it the answer still goes out', async () => {
  const codes: (string | undefined)[] = []
  let over = (): void => {}
  const closed = new Promise<void>((resolve) => {
    over = resolve
  })
  const server = await listening((socket) => {
    const note = (error?: NodeJS.ErrnoException | null) => void codes.push(error?.code)
    socket.on('error', () => {})
    socket.on('end', () => setImmediate(() => socket.write('too late', note)))
    socket.on('close', () => over())
    socket.resume()
  })
  net.connect(server.address() as string).end()
  await closed
  expect(codes).toEqual(['EPIPE'])

  const open = await listening(
    (socket) => {
      socket.on('end', () => socket.end('an answer to all of it'))
      socket.resume()
    },
    { allowHalfOpen: true },
  )
  const socket = net.connect(open.address() as string)
  socket.end('question')
  expect(await text(socket)).toBe('an answer to all of it')
})

test('many corked writes are one; setTimeout tells, and does nothing else', async () => {
  const server = await listening((socket) => {
    socket.once('data', (chunk) => socket.end(`${chunk.length}`))
  })
  const socket = net.connect(server.address() as string)
  await once(socket, 'connect')
  socket.setTimeout(20)
  await once(socket, 'timeout')
  expect(socket.destroyed).toBe(false)
  socket.cork()
  for (let i = 0; i < 50; i++) socket.write(i % 2 === 0 ? 'x' : Buffer.from('y'))
  socket.uncork()
  expect(await text(socket)).toBe('50')
})

test('onread puts the bytes into a buffer of the program; false stops it', async () => {
  const server = await listening((socket) => void socket.end('0123456789'))
  const seen: string[] = []
  const socket = net.connect({
    path: server.address() as string,
    onread: {
      buffer: Buffer.alloc(4),
      callback(bytes: number, buffer: Uint8Array) {
        seen.push(Buffer.from(buffer.subarray(0, bytes)).toString())
        if (seen.length === 1) setTimeout(() => socket.resume(), 20)
        return seen.length > 1
      },
    },
  })
  await once(socket, 'end')
  expect(seen).toEqual(['0123', '4567', '89'])
})

test('maxConnections drops what is too much; getConnections counts; close waits for the last', async () => {
  const server = await listening((socket) => socket.resume())
  server.maxConnections = 1
  const first = net.connect(server.address() as string)
  await once(first, 'connect')
  const drop = once(server, 'drop')
  const second = net.connect(server.address() as string)
  await drop
  expect(await text(second)).toBe('')
  const count = await new Promise((resolve) => server.getConnections((_error, count) => resolve(count)))
  expect(count).toBe(1)
  let closed = false
  server.close(() => {
    closed = true
  })
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect(closed).toBe(false)
  first.end()
  await once(server, 'close')
})

test('pauseOnConnect: nothing is read until resume()', async () => {
  const server = await listening(
    (socket) => {
      socket.on('data', (chunk) => socket.end(chunk))
      setTimeout(() => {
        expect(socket.bytesRead).toBe(0)
        socket.resume()
      }, 50)
    },
    { pauseOnConnect: true },
  )
  const socket = net.connect(server.address() as string)
  socket.write('patience')
  expect(await text(socket)).toBe('patience')
})

test('a signal ends a socket and a server', async () => {
  const controller = new AbortController()
  const server = net.createServer().listen({ path: unused(), signal: controller.signal })
  await once(server, 'listening')
  const socket = net.connect({
    path: server.address() as string,
    signal: controller.signal,
  } as plain.NetConnectOpts)
  await once(socket, 'connect')
  const failed = failure(socket)
  controller.abort()
  expect((await failed).name).toBe('AbortError')
  await once(server, 'close')
})

test('resetAndDestroy is ECONNRESET at the other side, with the reason underneath', async () => {
  const server = await listening((socket) => {
    socket.resetAndDestroy()
  })
  const error = await failure(net.connect(server.address() as string))
  expect(error).toMatchObject({
    code: 'ECONNRESET',
    syscall: 'read',
    errno: -104,
    message: 'read ECONNRESET',
  })
  expect(error.cause).toMatchObject({ code: 'ERR_VMRING_RESET' })
})

test('bad addresses and states have the errors of node:net', async () => {
  const nobody = unused()
  const refused = await failure(net.connect(nobody))
  expect(refused).toMatchObject({
    code: 'ECONNREFUSED',
    syscall: 'connect',
    errno: -111,
    address: nobody,
    message: `connect ECONNREFUSED ${nobody}`,
  })
  expect(refused.cause).toMatchObject({ code: 'ECONNREFUSED' })

  const server = await listening(() => {})
  const address = server.address() as string
  expect(() => server.listen(address)).toThrow(expect.objectContaining({ code: 'ERR_SERVER_ALREADY_LISTEN' }))
  const second = net.createServer().listen(address)
  const [used] = await once(second, 'error')
  expect(used).toMatchObject({ code: 'EADDRINUSE', syscall: 'listen', errno: -98, address })
  expect(used.cause).toMatchObject({ code: 'EADDRINUSE' })
  expect(second.listening).toBe(false)
  const [stopped] = await new Promise<unknown[]>((resolve) => second.close((...args) => resolve(args)))
  expect(stopped).toMatchObject({ code: 'ERR_SERVER_NOT_RUNNING' })

  expect(() => net.connect('vmring:')).toThrow(expect.objectContaining({ code: 'ERR_VMRING_ARGUMENT' }))
  expect(() => net.connect(`vmring:${'x'.repeat(1000)}`)).toThrow('names no service')
  expect(() => net.connect({} as plain.NetConnectOpts)).toThrow(
    expect.objectContaining({ code: 'ERR_MISSING_ARGS' }),
  )

  const early = net.connect(address)
  const written = new Promise((resolve) => early.write('x', resolve))
  early.destroy()
  expect(await written).toMatchObject({ code: 'ERR_SOCKET_CLOSED_BEFORE_CONNECTION' })
})

test('addresses that nothing leads to vmring are those of node:net; routes change that, and node:net in place', async () => {
  const real = net.createServer((socket) => socket.end('tcp')).listen(0, '127.0.0.1')
  await once(real, 'listening')
  const { port } = real.address() as plain.AddressInfo
  expect(await text(net.connect(port, '127.0.0.1'))).toBe('tcp')

  const service = `routed-${process.pid}`
  await listening((socket) => void socket.end('ring'), {}, `vmring:${service}`)
  const unroute = net.addRoute((at) => (at.port === port ? service : null))
  const uninstall = net.install()
  try {
    expect(await text(plain.connect(port, '127.0.0.1'))).toBe('ring')
    expect(await text(new plain.Socket().connect(port, 'localhost'))).toBe('ring')
  } finally {
    uninstall()
    unroute()
  }
  expect(await text(plain.connect(port, '127.0.0.1'))).toBe('tcp')
  real.close()
})

test('http over a service, a hundred requests at once', async () => {
  const uninstall = net.install()
  onTestFinished(uninstall)
  const server = http.createServer((request, response) => request.pipe(response))
  onTestFinished(() => void server.close())
  const address = unused()
  server.listen(address)
  await once(server, 'listening')
  const body = 'b'.repeat(10_000)
  const ask = () =>
    new Promise<string>((resolve, reject) => {
      const request = http.request({ socketPath: address, method: 'POST' }, (response) => {
        response.toArray().then((chunks) => resolve(Buffer.concat(chunks).toString()), reject)
      })
      request.on('error', reject)
      request.end(body)
    })
  for (const answer of await Promise.all(Array.from({ length: 100 }, ask))) expect(answer).toBe(body)
  server.closeAllConnections()
})

test('another process: what it has ended with arrives; its death is ECONNRESET; an idle socket holds nobody', async () => {
  const sockets: plain.Socket[] = []
  const server = await listening((socket) => sockets.push(socket))
  const program = `
    import * as net from ${JSON.stringify(join(root, 'dist/net/index.js'))}
    const socket = net.connect(process.argv[1])
    socket.on('connect', () => process.argv[2] === 'die' ? socket.write('x', () => process.kill(process.pid, 'SIGKILL')) : socket.end('last words'))
    if (process.argv[2] === 'idle') socket.unref()
  `
  const start = (how: string) =>
    startNode(['--input-type=module', '-e', program, server.address() as string, how], {
      env: { VMRING_REGION: daemon.region, VMRING_RELAY: 'none' },
    })
  const orderly = start('end')
  const [first] = (await once(server, 'connection')) as [plain.Socket]
  expect(await text(first)).toBe('last words')
  expect((await orderly.ended).code).toBe(0)

  start('die')
  const [second] = (await once(server, 'connection')) as [plain.Socket]
  second.resume()
  const error = await failure(second)
  expect(error).toMatchObject({ code: 'ECONNRESET' })
  expect(error.cause).toMatchObject({ code: 'ERR_VMRING_PEER_GONE' })
})

test('what a process wrote before it was gone is read to the end, however late: then the end, or ECONNRESET', async () => {
  const sockets: plain.Socket[] = []
  const server = await listening((socket) => sockets.push(socket), { pauseOnConnect: true })
  const program = `
    import * as net from ${JSON.stringify(join(root, 'dist/net/index.js'))}
    const socket = net.connect(process.argv[1])
    const words = Buffer.alloc(200_000, 'last words ')
    socket.on('connect', () => {
      if (process.argv[2] === 'end') socket.end(words)
      else socket.write(words)
      process.exit()
    })
  `
  for (const how of ['end', 'write']) {
    const accepted = once(server, 'connection') as Promise<[plain.Socket]>
    const child = startNode(['--input-type=module', '-e', program, server.address() as string, how], {
      env: { VMRING_REGION: daemon.region, VMRING_RELAY: 'none' },
    })
    const [socket] = await accepted
    await child.ended
    await new Promise((resolve) => setTimeout(resolve, 100))
    const seen: string[] = []
    let bytes = 0
    for (const name of ['end', 'close', 'error']) socket.on(name, () => seen.push(name))
    socket.on('data', (chunk: Buffer) => {
      bytes += chunk.length
    })
    socket.resume()
    await new Promise((resolve) => socket.once('close', resolve))
    expect(bytes).toBe(200_000)
    expect(seen).toEqual(how === 'end' ? ['end', 'close'] : ['error', 'close'])
  }
})

test('a peer of the program is used and left open', async () => {
  const peer = await attach({ region: daemon.region, relay: 'none' })
  onTestFinished(() => peer.close())
  const server = await listening((socket) => void socket.end('x'))
  const socket = net.connect({ path: server.address() as string, peer })
  expect(await text(socket)).toBe('x')
  expect(peer.peers().length).toBeGreaterThan(0)
})

test.each([
  ['ends', (socket: tls.TLSSocket) => socket.end('bye')],
  ['is gone', (socket: tls.TLSSocket) => socket.write('bye', () => socket.destroy())],
])('tls: the other side %s, and the goodbye that answers it is no error', async (_, leave) => {
  const psk = Buffer.alloc(32, 7)
  const common = { ciphers: 'PSK', maxVersion: 'TLSv1.2' as const }
  const secure = tls.createServer({ ...common, pskCallback: () => psk })
  const over: Promise<unknown>[] = []
  secure.on('secureConnection', (socket) => {
    over.push(once(socket, 'close'))
    socket.resume()
    leave(socket)
  })
  const server = await listening((socket) => secure.emit('connection', socket))
  for (let round = 0; round < 10; round++) {
    const client = tls.connect({
      ...common,
      socket: net.connect(server.address() as string),
      pskCallback: () => ({ psk, identity: 'us' }),
      checkServerIdentity: () => undefined,
    })
    const closed = once(client, 'close')
    expect(await text(client)).toBe('bye')
    expect(await closed).toEqual([false])
  }
  await Promise.all(over)
})

test('a socket that is paused until its own bytes have gone hears that the other process is gone', async () => {
  const accepted = new Promise<plain.Socket>(
    (resolve) => void listening(resolve, { pauseOnConnect: true }, 'vmring:flood'),
  )
  const code = `require('net').connect({ path: 'vmring:flood', wait: 20000 }).on('connect', function () { this.write(Buffer.alloc(100)) }).pause()`
  const execArgv = ['--require', join(root, 'dist/register/index.js')]
  const child = startNode(['-e', code], { execArgv, env: { VMRING_REGION: daemon.region } })
  const socket = await accepted
  while (socket.write(Buffer.alloc(64 * 1024))) await new Promise(setImmediate)
  const broken = failure(socket)
  child.signal('SIGKILL')
  expect((await broken).code).toMatch(/^(EPIPE|ECONNRESET)$/)
}, 120_000)
