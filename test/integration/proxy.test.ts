import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { attach } from '../../src/index.js'
import { scratch, sleep, startDaemon, until, vmring } from '../support/processes.js'
import { type ProxyProcess, startProxy } from '../support/proxy.js'

const servers = new Set<Server>()
afterEach(() => {
  for (const server of servers) server.close()
  servers.clear()
})

/** An ordinary server in this process; what it is called for `--to`. */
async function target(onSocket: (socket: Socket) => void, path?: string): Promise<string> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {})
    onSocket(socket)
  })
  servers.add(server)
  server.listen(path ?? { host: '127.0.0.1', port: 0 })
  await once(server, 'listening')
  return path === undefined ? `tcp:127.0.0.1:${(server.address() as AddressInfo).port}` : `unix:${path}`
}

/** Both proxies: an ordinary client reaches an ordinary server through a service. */
async function both(to: string, from = 'tcp:127.0.0.1:0', ...args: string[]) {
  const daemon = await startDaemon([])
  const near = await startProxy(daemon.region, '--listen', 'target', '--to', to)
  const far = await startProxy(daemon.region, '--from', from, '--connect', 'target', ...args)
  return { daemon, near, far }
}

const dial = (proxy: ProxyProcess) =>
  connect({ ...proxy.at, allowHalfOpen: true } as never).on('error', () => {})
const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
const memory = (proxy: ProxyProcess, what: 'VmHWM' | 'VmRSS') =>
  Number(new RegExp(`${what}:\\s+(\\d+)`).exec(readFileSync(`/proc/${proxy.process.pid}/status`, 'utf8'))![1])

/** Everything up to the end; unlike that of stream/consumers it leaves the socket as it is. */
const buffer = (socket: Socket): Promise<Buffer> =>
  new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    socket.on('data', (chunk: Buffer) => chunks.push(chunk))
    socket.on('end', () => resolve(Buffer.concat(chunks))).on('error', reject)
    socket.resume()
  })

/** The code that a connection ended with. */
const codeOf = async (socket: Socket): Promise<string> => {
  const errors: string[] = []
  socket.on('error', (error: NodeJS.ErrnoException) => errors.push(error.code!)).resume()
  await new Promise((resolve) => (socket.closed ? resolve(0) : socket.on('close', resolve)))
  return errors.join() || 'none'
}

test('24 MiB each way at once, and half-close each way', async () => {
  const there = randomBytes(24 * 2 ** 20)
  const back = randomBytes(24 * 2 ** 20)
  let received = ''
  const to = await target((socket) => {
    socket.write(back)
    void buffer(socket).then((bytes) => {
      received = sha256(bytes)
      // after the client has ended
      socket.end('that was all')
    })
  })
  const { near, far } = await both(to)
  const socket = dial(far)
  socket.end(there)
  expect(sha256(await buffer(socket))).toBe(sha256(Buffer.concat([back, Buffer.from('that was all')])))
  expect(received).toBe(sha256(there))
  expect([...near.log(), ...far.log()]).toEqual([])
})

test('the server ends first, and still hears the client', async () => {
  const heard: string[] = []
  const to = await target((socket) => {
    socket.end('you first')
    socket.setEncoding('utf8').on('data', (text) => heard.push(String(text)))
  })
  const { far } = await both(to)
  const socket = dial(far)
  expect((await buffer(socket)).toString()).toBe('you first')
  socket.end('thank you')
  await until(() => heard.join('') === 'thank you')
})

test('Unix sockets both sides: channels take the memory; the file goes with the proxy', async () => {
  const directory = scratch()
  const path = join(directory, 'from.sock')
  const to = await target((socket) => void socket.pipe(socket), join(directory, 'to.sock'))
  const { daemon, near, far } = await both(to, `unix:${path}`, '--path', 'shm')
  expect(far).toMatchObject({ from: `unix:${path}`, to: null, service: 'target' })
  const socket = dial(far)
  socket.write('hello')
  expect(String((await once(socket, 'data'))[0])).toBe('hello')

  // a program of vmring meets the same service
  await using peer = await attach({ region: daemon.region })
  const channel = await peer.connect('target')
  channel.trySend(Buffer.from('by channel'))
  for await (const message of channel) {
    expect(message.text()).toBe('by channel')
    break
  }
  channel.destroy()

  const ended = once(socket.resume(), 'end')
  far.process.signal('SIGINT')
  expect((await far.process.finish()).code).toBe(130)
  expect(existsSync(path)).toBe(false)
  await ended
  socket.destroy()
  near.process.signal('SIGTERM')
  expect((await near.process.finish()).code).toBe(143)
})

test('a hundred connections at once', async () => {
  const to = await target((socket) => void socket.pipe(socket))
  const { far } = await both(to)
  const one = async (index: number): Promise<boolean> => {
    const socket = dial(far)
    const bytes = Buffer.alloc(10_000 + index, index)
    socket.end(bytes)
    return bytes.equals(await buffer(socket))
  }
  const answers = await Promise.all(Array.from({ length: 100 }, (_, index) => one(index)))
  expect(answers.filter(Boolean)).toHaveLength(100)
})

test.each(['client', 'server'])(
  'a %s that does not read holds the other back, in bounded memory',
  async (slow) => {
    let stalled: Socket | null = null
    const source = (socket: Socket) => {
      const chunk = Buffer.alloc(256 * 1024)
      let left = 600
      const more = (): void => {
        while (left-- > 0) if (!socket.write(chunk)) return
        socket.end()
      }
      socket.on('drain', more)
      more()
    }
    const to = await target((socket) => {
      if (slow === 'client') source(socket)
      else stalled = socket.pause()
    })
    const { near, far } = await both(to)
    const before = [near, far].map((proxy) => memory(proxy, 'VmRSS'))
    const socket = dial(far)
    if (slow === 'client') stalled = socket.pause()
    else source(socket)
    await sleep(1500)
    await until(() => stalled !== null)
    const counted = buffer(stalled!).then((bytes) => bytes.length)
    // 150 MiB are on their way
    expect(await counted).toBe(600 * 256 * 1024)
    for (const [i, proxy] of [near, far].entries())
      expect(memory(proxy, 'VmHWM') - before[i]!).toBeLessThan(90 * 1024)
    socket.destroy()
  },
)

test('a target that is down: ECONNRESET, and the log says why', async () => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  const { daemon, near, far } = await both(`tcp:127.0.0.1:${port}`)
  expect(await codeOf(dial(far))).toBe('ECONNRESET')
  await until(() => near.log().length > 0)
  expect(near.log()[0]).toMatchObject({
    level: 'warn',
    message: 'turned away',
    code: 'ECONNREFUSED',
    open: 0,
  })
  expect(near.log()[0]!.reason).toContain(`127.0.0.1:${port}`)
  // its own words reach a program of vmring
  await using peer = await attach({ region: daemon.region })
  const channel = await peer.connect('target')
  expect(await channel.closed).toMatchObject({
    code: 'ERR_VMRING_RESET',
    message: expect.stringContaining('ECONNREFUSED'),
  })
})

test('a service that nobody offers: the connection is reset, at once or after --wait', async () => {
  const { region } = await startDaemon()
  const hasty = await startProxy(region, '--from', 'tcp:127.0.0.1:0', '--connect', 'nobody')
  expect(await codeOf(dial(hasty))).toBe('ECONNRESET')
  await until(() => hasty.log().length > 0)
  expect(hasty.log()[0]).toMatchObject({ message: 'turned away', code: 'ECONNREFUSED' })
  const patient = await startProxy(region, '--from', 'tcp:[::1]:0', '--connect', 'late', '--wait', '20')
  const socket = dial(patient)
  await sleep(300)
  const to = await target((peer) => peer.end('here I am'))
  await startProxy(region, '--listen', 'late', '--to', to)
  expect((await buffer(socket)).toString()).toBe('here I am')
})

test('a server that resets, a client that resets, a proxy that is killed: the other side hears of it', async () => {
  const sockets: Socket[] = []
  const to = await target((socket) => {
    sockets.push(socket)
    socket.once('data', () => socket.resetAndDestroy())
  })
  const { near, far } = await both(to)
  const reset = dial(far)
  reset.write('x')
  expect(await codeOf(reset)).toBe('ECONNRESET')

  const client = dial(far)
  await until(() => sockets.length === 2)
  const code = codeOf(sockets[1]!.removeAllListeners('data'))
  client.resetAndDestroy()
  expect(await code).toBe('ECONNRESET')

  const orphan = dial(far)
  await until(() => sockets.length === 3)
  near.process.signal('SIGKILL')
  expect(await codeOf(orphan)).toBe('ECONNRESET')
  await until(() => far.log().length >= 3)
  expect(far.log().map(({ message }) => message)).toEqual(Array(far.log().length).fill('broken off'))
})

test('connections above --max-connections are turned away, on either side', async () => {
  const to = await target((socket) => void socket.pipe(socket))
  const { daemon, far } = await both(to, 'tcp:127.0.0.1:0', '--max-connections', '2')
  const open = [dial(far), dial(far)]
  for (const socket of open) {
    socket.write('x')
    await once(socket, 'data')
  }
  const third = dial(far).end()
  expect(['ECONNRESET', 'none']).toContain(await codeOf(third))
  await until(() => far.log().length > 0)
  expect(far.log()[0]).toMatchObject({ message: 'turned away', code: 'ERR_VMRING_REFUSED', open: 2 })
  for (const socket of open) socket.destroy()
  await startProxy(daemon.region, '--listen', 'narrow', '--to', to, '--max-connections', '1')
  await using peer = await attach({ region: daemon.region })
  const [first, second] = [await peer.connect('narrow'), await peer.connect('narrow')]
  expect(await second.closed).toMatchObject({ message: expect.stringContaining('--max-connections') })
  first.destroy()
})

test('the daemon goes: open connections go on, new ones are turned away until it is back', async () => {
  const to = await target((socket) => void socket.pipe(socket))
  const { daemon, near, far } = await both(to)
  const old = dial(far)
  old.write('before')
  await once(old, 'data')
  daemon.process.signal('SIGKILL')
  await until(() => [near, far].every((proxy) => proxy.log().length > 0), 20_000)
  expect(far.log()[0]).toMatchObject({ level: 'error', code: 'ERR_VMRING_SERVER_CLOSED' })
  old.write('after')
  expect(String((await once(old, 'data'))[0])).toBe('after')
  await startDaemon([], join(daemon.socket, '..'))
  await until(() => far.log().some(({ message }) => message === 'the region is back'), 20_000)
  await until(async () => {
    const socket = dial(far)
    socket.write('again')
    const answer = await Promise.race([
      once(socket, 'data'),
      once(socket, 'close').catch(() => ['']),
      sleep(1000),
    ])
    socket.on('error', () => {}).destroy()
    return String(answer?.[0]) === 'again'
  }, 30_000)
  old.destroy()
})

test('a socket in use, and a stale one', async () => {
  const { region } = await startDaemon()
  const path = join(scratch(), 'taken.sock')
  await target(() => {}, path)
  const { code, stderr } = await vmring([
    'proxy',
    '--region',
    region,
    '--from',
    `unix:${path}`,
    '--connect',
    'x',
  ])
  expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining('(EADDRINUSE)') })
  const stale = join(scratch(), 'stale.sock')
  const first = await startProxy(region, '--from', `unix:${stale}`, '--connect', 'x')
  first.process.signal('SIGKILL')
  await first.process.finish()
  expect(existsSync(stale)).toBe(true)
  await startProxy(region, '--from', `unix:${stale}`, '--connect', 'x')
})

test.each([
  [[], /--listen SERVICE and --to ADDRESS, or --from/],
  [['--listen', 'x'], /--listen SERVICE and --to ADDRESS/],
  [['--listen', 'x', '--to', 'tcp:1.2.3.4:5', '--connect', 'y'], /either --listen/],
  [['--listen', 'x', '--to', '127.0.0.1:5'], /"127.0.0.1:5" is no socket address: use tcp:HOST:PORT/],
  [['--listen', 'x', '--to', 'tcp:127.0.0.1:0'], /the port is a number from 1 to 65535/],
  [['--from', 'tcp:localhost:65536', '--connect', 'x'], /the port is a number from 0 to 65535/],
  [['--from', `unix:/${'x'.repeat(107)}`, '--connect', 'x'], /1 to 107 bytes/],
  [['--from', 'unix:', '--connect', 'x'], /1 to 107 bytes/],
  [['--from', 'tcp:a:1', '--connect', 'x', '--wait', '-1'], /number of seconds/],
  [['--from', 'tcp:a:1', '--connect', 'x', '--max-connections', '0'], /1 to 65536/],
])('usage: %j', async (args, message) => {
  const { code, stderr } = await vmring(['proxy', ...args])
  expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringMatching(message) })
})
