/**
 * vmring/vsock over Unix sockets, as on the host of Firecracker and Cloud Hypervisor: the same Socket and Server as with AF_VSOCK, which is
 * opened in guests only (test/vm/vsock.test.ts).
 */
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, statSync, writeFileSync } from 'node:fs'
import { createServer as httpServer, request } from 'node:http'
import { type Socket as NetSocket, createServer as netServer } from 'node:net'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  type ConnectOptions,
  connect,
  createServer,
  type Server,
  type Socket,
} from '../../src/vsock/index.js'
import { StandInMonitor } from '../support/monitor.js'
import { root, scratch, sleep, startNode, until, within } from '../support/processes.js'

const MiB = 1024 * 1024
let uds: string
let monitor: StandInMonitor
let server: Server | undefined

beforeEach(async () => {
  uds = join(scratch(), 'v.sock')
  monitor = await StandInMonitor.start(uds)
})
afterEach(async () => {
  server?.close()
  server = undefined
  await monitor.close()
})

const soon = <T>(promise: Promise<T>, what: string) => within(promise, 15_000, what)

async function listening(port: number, handler: (socket: Socket) => void, options = {}): Promise<Server> {
  server = createServer(options, handler)
  server.listen({ uds, port })
  await soon(once(server, 'listening'), 'listening')
  return server
}

/** A connection to a guest that does as told. */
function dial(
  port: number,
  guest: (socket: NetSocket) => void,
  options: Partial<ConnectOptions> = {},
): Socket {
  monitor.guest.set(port, guest)
  return connect({ uds, port, ...options } as ConnectOptions)
}

/** The error that ends it, with 'close' behind. */
async function failed(socket: Socket): Promise<NodeJS.ErrnoException & { port?: number }> {
  let error: NodeJS.ErrnoException | undefined
  socket.once('error', (it_) => {
    error = it_
  })
  const hadError = await soon(new Promise((resolve) => socket.once('close', resolve)), 'close')
  expect(hadError).toBe(true)
  return error!
}

/** A guest that ends when the host does. */
const quiet = (guest: NetSocket) => void guest.resume().on('end', () => guest.end())

async function text(stream: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}

describe('to a guest: CONNECT and OK', () => {
  test('bytes both ways, addresses, counters, states', async () => {
    const socket = dial(52, (guest) => guest.on('data', (data) => guest.end(`you said ${data}`)))
    expect(socket).toMatchObject({
      connecting: true,
      pending: true,
      readyState: 'opening',
      localPort: undefined,
    })
    socket.write('hello')
    expect(socket.bytesWritten).toBe(5)
    await soon(once(socket, 'connect'), 'connect')
    expect(socket).toMatchObject({ connecting: false, pending: false, readyState: 'open', remotePort: 52 })
    expect(socket).toMatchObject({ localCid: 2, localPort: 1 << 30, remoteCid: undefined })
    expect(socket.address()).toEqual({ cid: 2, port: 1 << 30 })
    expect(await soon(text(socket), 'the answer')).toBe('you said hello')
    if (!socket.closed) await soon(once(socket, 'close'), 'close')
    expect(socket).toMatchObject({ readyState: 'closed', bytesRead: 14, bytesWritten: 5, pending: true })
    expect(monitor.asked).toEqual(['CONNECT 52\n'])
  })

  test.each([
    ['in single bytes', ['O', 'K', ' ', '7', '\n']],
    ['with the first bytes of the guest behind it', ['OK 7\nfirst, ']],
    ['in two pieces, the second with bytes of the guest', ['OK 42949', '67295\nfirst, ']],
  ])('the answer comes %s', async (_name, pieces) => {
    monitor.answer = () => pieces
    const events: string[] = []
    const socket = dial(1, (guest) => guest.end('last'))
    socket.on('data', () => events.push('data'))
    socket.on('connect', () => events.push('connect'))
    const all = pieces.join('').split('\n')[1] ?? ''
    expect(await soon(text(socket), 'all of it')).toBe(`${all}last`)
    expect(events[0]).toBe('connect')
    expect(socket.bytesRead).toBe(all.length + 4)
  })

  test.each([
    ['another protocol', ['HTTP/1.1 400 Bad Request\r\n\r\n']],
    ['OK without a port', ['OK\n']],
    ['a port out of range', ['OK 4294967296\n']],
    ['a line without end', [`OK ${'1'.repeat(1000)}`]],
    ['half an answer, and the end', ['OK 12']],
  ])('%s instead: ERR_VMRING_VSOCK_HANDSHAKE', async (_name, pieces) => {
    monitor.answer = () => pieces
    const error = await failed(dial(5, (guest) => guest.end()))
    expect(error).toMatchObject({ code: 'ERR_VMRING_VSOCK_HANDSHAKE', port: 5 })
    expect(error.message).toContain(JSON.stringify(pieces[0]!.slice(0, 32)))
  })

  test('no answer: ETIMEDOUT after connectTimeout', async () => {
    monitor.answer = () => []
    const started = Date.now()
    const error = await failed(dial(5, quiet, { connectTimeout: 200 }))
    expect(error).toMatchObject({ code: 'ETIMEDOUT', syscall: 'connect', address: uds, port: 5 })
    expect(error.message).toMatch(/no answer to CONNECT in time/)
    expect(Date.now() - started).toBeGreaterThanOrEqual(190)
    await until(() => monitor.sockets.size === 0, 5000, 'the connection is closed')
  })

  test('nobody listens in the guest: ECONNREFUSED', async () => {
    const written: unknown[] = []
    const socket = connect({ uds, port: 99 })
    socket.write('lost', (error) => written.push(error))
    expect(await failed(socket)).toMatchObject({ code: 'ECONNREFUSED', errno: -111, address: uds, port: 99 })
    expect(written).toEqual([expect.objectContaining({ code: 'ECONNREFUSED' })])
    expect(socket.bytesWritten).toBe(0)
  })

  test('no monitor: ENOENT, ECONNREFUSED', async () => {
    expect(await failed(connect({ uds: `${uds}.none`, port: 1 }))).toMatchObject({
      code: 'ENOENT',
      errno: -2,
    })
    const child = startNode([
      '-e',
      `require('net').createServer().listen('${uds}.stale', () => process.kill(process.pid, 9))`,
    ])
    await child.finish()
    const error = await failed(connect({ uds: `${uds}.stale`, port: 1 }))
    expect(error).toMatchObject({
      code: 'ECONNREFUSED',
      message: expect.stringMatching(/virtual machine runs/),
    })
  })

  test('an AbortSignal ends it, before and after it stands', async () => {
    monitor.answer = () => []
    const controller = new AbortController()
    const waiting = dial(1, () => {}, { signal: controller.signal })
    setTimeout(() => controller.abort(), 20)
    expect(await failed(waiting)).toMatchObject({ name: 'AbortError' })
    expect(await failed(dial(1, () => {}, { signal: AbortSignal.abort() }))).toMatchObject({
      name: 'AbortError',
    })
    monitor.answer = () => ['OK 1\n']
    const later = new AbortController()
    const standing = dial(1, () => {}, { signal: later.signal })
    await soon(once(standing, 'connect'), 'connect')
    later.abort()
    expect(await failed(standing)).toMatchObject({ name: 'AbortError' })
  })

  test('destroyed while it connects: silent, and what waits is told', async () => {
    monitor.answer = () => []
    const socket = dial(1, quiet)
    const told = new Promise((resolve) => socket.write('x', resolve))
    await until(() => monitor.asked.length === 1, 5000, 'asked')
    socket.destroy()
    expect(await soon(told, 'callback')).toMatchObject({ code: 'ERR_SOCKET_CLOSED_BEFORE_CONNECTION' })
    expect(socket.readyState).toBe('closed')
    await until(() => monitor.sockets.size === 0, 5000, 'closed')
  })
})

describe('from a guest: a server at uds_PORT', () => {
  test('accepts, knows the port, and takes its file along', async () => {
    const path = `${uds}_8000`
    const sockets: Socket[] = []
    const it_ = await listening(8000, (socket) => {
      sockets.push(socket)
      socket.pipe(socket)
    })
    expect(it_.address()).toEqual({ uds, port: 8000 })
    expect(statSync(path).mode & 0o777).toBe(0o660)
    const guest = await monitor.guestConnect(8000)
    guest.end('echo')
    expect(await soon(text(guest), 'the echo')).toBe('echo')
    expect(sockets[0]).toMatchObject({ localCid: 2, localPort: 8000, remoteCid: undefined, bytesRead: 4 })
    await soon(new Promise((done) => it_.close(done)), 'close')
    expect(existsSync(path)).toBe(false)
    expect(it_.address()).toBe(null)
  })

  test('EADDRINUSE, a stale socket, a file in the way, no such directory', async () => {
    await listening(8000, () => {})
    const second = createServer().listen({ uds, port: 8000 })
    const [error] = await soon(once(second, 'error'), 'an error')
    expect(error).toMatchObject({
      code: 'EADDRINUSE',
      errno: -98,
      syscall: 'listen',
      address: uds,
      port: 8000,
    })
    expect(second.listening).toBe(false)
    expect(existsSync(`${uds}_8000`)).toBe(true)
    const child = startNode([
      '-e',
      `require('net').createServer().listen('${uds}_1', () => process.kill(process.pid, 9))`,
    ])
    await child.finish()
    second.listen({ uds, port: 1, mode: 0o600 })
    await soon(once(second, 'listening'), 'in place of the stale one')
    expect(statSync(`${uds}_1`).mode & 0o777).toBe(0o600)
    second.close()
    writeFileSync(`${uds}_2`, '')
    const third = createServer().listen({ uds, port: 2 })
    expect((await soon(once(third, 'error'), 'an error'))[0]).toMatchObject({ code: 'EEXIST', port: 2 })
    third.listen({ uds: join(uds, 'x'), port: 2 })
    expect((await soon(once(third, 'error'), 'an error'))[0].code).toMatch(/ENOTDIR|ENOENT/)
  })

  test('listens once, closes once, waits for its connections', async () => {
    const it_ = await listening(1, () => {})
    expect(() => it_.listen({ uds, port: 2 })).toThrow(
      expect.objectContaining({ code: 'ERR_SERVER_ALREADY_LISTEN' }),
    )
    const guest = await monitor.guestConnect(1)
    await until(
      async () => (await new Promise((done) => it_.getConnections((_, count) => done(count)))) === 1,
      5000,
    )
    let closed = false
    const close = once(it_, 'close').then(() => {
      closed = true
    })
    it_.close()
    await sleep(50)
    expect(closed).toBe(false)
    guest.end()
    await soon(close, 'close')
    const error = await soon(new Promise((done) => it_.close(done)), 'an answer')
    expect(error).toMatchObject({ code: 'ERR_SERVER_NOT_RUNNING' })
    await soon(it_[Symbol.asyncDispose](), 'nothing to do')
    it_.listen({ uds, port: 3 })
    await soon(once(it_, 'listening'), 'again')
    await soon(it_[Symbol.asyncDispose](), 'disposed of')
    expect(existsSync(`${uds}_3`)).toBe(false)
  })

  test('an AbortSignal closes it', async () => {
    const controller = new AbortController()
    const it_ = createServer().listen({ uds, port: 1, signal: controller.signal })
    await soon(once(it_, 'listening'), 'listening')
    const close = once(it_, 'close')
    controller.abort()
    await soon(close, 'close')
    const aborted = createServer().listen({ uds, port: 1, signal: AbortSignal.abort() })
    await soon(once(aborted, 'close'), 'close')
  })

  test('maxConnections turns the rest away', async () => {
    const it_ = await listening(1, (socket) => socket.resume())
    it_.maxConnections = 2
    const dropped = once(it_, 'drop')
    const guests = await Promise.all([1, 2, 3].map(() => monitor.guestConnect(1)))
    await soon(dropped, 'drop')
    await soon(Promise.race(guests.map((guest) => once(guest.resume(), 'end'))), 'one is closed')
    const open = guests.filter((guest) => !guest.readableEnded)
    expect(open).toHaveLength(2)
    for (const guest of open) guest.end()
  })

  test('pauseOnConnect reads nothing before resume()', async () => {
    const accepted: Socket[] = []
    await listening(1, (socket) => accepted.push(socket), { pauseOnConnect: true })
    const guest = await monitor.guestConnect(1)
    guest.end('waits')
    await sleep(50)
    expect(accepted[0]).toMatchObject({ bytesRead: 0, readableLength: 0 })
    expect(await soon(text(accepted[0]!), 'it')).toBe('waits')
  })

  test('http over it', async () => {
    const http = httpServer((incoming, response) => incoming.pipe(response))
    await listening(80, (socket) => http.emit('connection', socket))
    monitor.guest.set(80, (guest) => {
      void monitor.guestConnect(80).then((on) => guest.pipe(on).pipe(guest))
    })
    const asked = request({ method: 'POST', createConnection: () => connect({ uds, port: 80 }) as never })
    asked.end('a body')
    const [response] = await soon(once(asked, 'response'), 'the response')
    expect(await soon(text(response), 'its body')).toBe('a body')
    http.close()
  })
})

describe('load', () => {
  test('64 MiB both ways at once, checksums right', async () => {
    const size = 64 * MiB
    const block = randomBytes(MiB)
    const hash = () => createHash('sha256')
    async function talk(socket: Socket | NetSocket): Promise<{ sent: string; received: string }> {
      const [sent, received] = [hash(), hash()]
      const send = (async () => {
        for (let at = 0; at < size; ) {
          // uneven pieces of a changing block
          const chunk = Buffer.from(
            block.subarray(at % 4096, (at % 4096) + 1 + (at % 300_000)).subarray(0, size - at),
          )
          chunk[0] = at & 0xff
          sent.update(chunk)
          at += chunk.length
          if (!socket.write(chunk)) await once(socket, 'drain')
        }
        socket.end()
      })()
      socket.on('data', (chunk) => received.update(chunk))
      await once(socket, 'end')
      await send
      return { sent: sent.digest('hex'), received: received.digest('hex') }
    }
    const far = new Promise((resolve) => monitor.guest.set(1, (guest) => resolve(talk(guest))))
    const socket = connect({ uds, port: 1, allowHalfOpen: true })
    const near = await within(talk(socket), 50_000, 'all of it')
    const other = (await far) as Awaited<ReturnType<typeof talk>>
    expect(near.received).toBe(other.sent)
    expect(near.sent).toBe(other.received)
    expect(socket).toMatchObject({ bytesRead: size, bytesWritten: size })
  })

  test('a slow reader holds the writer back, and costs bounded memory', async () => {
    const size = 64 * MiB
    const chunk = Buffer.alloc(64 * 1024, 'x')
    let wrote = 0
    const write = (guest: NetSocket) => {
      while (wrote < size) {
        wrote += chunk.length
        if (!guest.write(chunk)) {
          guest.once('drain', () => write(guest))
          return
        }
      }
      guest.end()
    }
    const socket = dial(1, write)
    await soon(once(socket, 'connect'), 'connect')
    socket.pause()
    await sleep(300)
    // kernel buffers, the guest's queue, ours
    expect(wrote).toBeLessThan(4 * MiB)
    expect(socket.readableLength).toBeLessThanOrEqual(socket.readableHighWaterMark + 64 * 1024)
    let most = 0
    let got = 0
    for await (const piece of socket) {
      got += piece.length
      if (got % (4 * MiB) < piece.length) await sleep(5)
      most = Math.max(most, socket.readableLength)
    }
    expect(got).toBe(size)
    expect(most).toBeLessThanOrEqual(socket.readableHighWaterMark + 64 * 1024)
  })

  test('writes are not copied, and wait for a reader', async () => {
    let guest!: NetSocket
    const socket = dial(1, (it_) => {
      guest = it_
    })
    await soon(once(socket, 'connect'), 'connect')
    await until(() => guest !== undefined, 5000)
    const big = Buffer.alloc(8 * MiB, 'a')
    const done = new Promise((resolve) => socket.write(big, resolve))
    expect(socket.write('z')).toBe(false)
    expect(socket.bytesWritten).toBe(big.length + 1)
    await sleep(100)
    // still in the queue: whoever changes it changes what is sent, because there is no other copy
    big[big.length - 1] = 98
    let last = ''
    let got = 0
    guest.on('data', (data: Buffer) => {
      got += data.length
      last = (last + data.subarray(-2).toString()).slice(-2)
    })
    await soon(done, 'the first write')
    await until(() => got === big.length + 1, 10_000, 'all')
    expect(last).toBe('bz')
    socket.destroy()
  })

  test('what has been read stays as it is while more is read', async () => {
    const pieces = Array.from({ length: 300 }, (_, index) =>
      Buffer.alloc(1 + ((index * 977) % 20_000), index),
    )
    const socket = dial(1, async (guest) => {
      for (const piece of pieces) {
        guest.write(piece)
        await turn()
      }
      guest.end()
    })
    const chunks: Buffer[] = []
    socket.on('data', (chunk) => chunks.push(chunk))
    await soon(once(socket, 'end'), 'the end')
    expect(Buffer.concat(chunks).equals(Buffer.concat(pieces))).toBe(true)
    expect(chunks.length).toBeGreaterThan(50)
  })

  test('1,000 connections at once', async () => {
    let open = 0
    await listening(1, (socket) => {
      open++
      socket.pipe(socket)
    })
    const started: NetSocket[] = []
    while (started.length < 1000) {
      // node:net does not wait for room in the backlog
      started.push(...(await Promise.all(Array.from({ length: 100 }, () => monitor.guestConnect(1)))))
      await until(() => open === started.length, 20_000, 'accepted')
    }
    const answers = started.map(async (guest, index) => {
      guest.end(`number ${index}`)
      expect(await text(guest)).toBe(`number ${index}`)
    })
    await within(Promise.all(answers), 40_000, 'all answered')
    await soon(server![Symbol.asyncDispose](), 'no connection is left')
  })
})

describe('the event loop', () => {
  const module = JSON.stringify(pathToFileURL(join(root, 'dist/vsock/index.js')).href)
  const program = (code: string) =>
    startNode(['--input-type=module', '-e', `import * as vsock from ${module}\n${code}`])

  test('unref() lets the process end; ref() and nothing keep it', async () => {
    monitor.guest.set(1, () => {})
    const address = `{ uds: ${JSON.stringify(uds)}, port: 1 }`
    const free = program(`
      vsock.createServer().listen(${address}).unref()
      vsock.connect(${address}).unref()
      vsock.connect(${address}).on('connect', function () { this.unref() })
    `)
    expect(await free.finish(20_000)).toMatchObject({ code: 0, stderr: '' })
    const held = program(
      `vsock.connect(${address}).unref().ref().on('connect', () => console.log('connected'))`,
    )
    await until(() => held.stdout.length > 0, 20_000, 'connected')
    await sleep(200)
    expect(held.alive).toBe(true)
    await held.stop()
  })
})

test('a plain net server is no monitor, but hurts nobody', async () => {
  const path = `${uds}.plain`
  const plain = netServer((socket) => socket.end('220 mail ready\r\n').on('error', () => {})).listen(path)
  await soon(once(plain, 'listening'), 'listening')
  expect(await failed(connect({ uds: path, port: 25 }))).toMatchObject({ code: 'ERR_VMRING_VSOCK_HANDSHAKE' })
  plain.close()
})
