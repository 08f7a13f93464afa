/**
 * A connection that cuts, stalls and splits at every byte of a whole conversation, and of the handshake with the relay: nothing is
 * lost, nothing doubled, nothing hangs, and who cannot go on says so with a code.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { startHost } from '../../src/host/daemon.js'
import { attach, type Channel, type Peer } from '../../src/index.js'
import { type Break, BrokenSocket } from '../support/broken-socket.js'
import { SequenceOracle, sizeOf } from '../support/oracle.js'
import { streamRig } from '../support/stream-path.js'

const MESSAGES = 4
/** Beyond the handshake, where records and acknowledgements repeat themselves, every so-many-th byte; VMRING_LONG: each. */
const DENSE = 200
const LONG = process.env.VMRING_LONG !== undefined
const STRIDE = LONG ? 1 : 9
const LIMIT_MS = LONG ? 3_600_000 : 300_000

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean()
})

const PATIENT = { openLimit: 10_000, openMax: 60_000, pathGrace: 20_000, moveLimit: 20_000 }

/** A whole conversation over a broken connection, and a whole one that comes when the first is gone. How many bytes went which way. */
async function conversation(plan: Break | null): Promise<{ to: number; from: number }> {
  const rig = streamRig({ capacity: 16 * 1024, timing: PATIENT })
  let socket: BrokenSocket | null = null
  const broken = await rig.link('unix', async (path) => {
    socket = await BrokenSocket.before(path)
    if (plan !== null) socket.plans.push(plan)
    return socket.path
  })
  try {
    const server = await rig.b.peer.listen('orders')
    const accepted: Channel[] = []
    server.on('channel', (channel) => accepted.push(channel))
    const gone = new Promise<void>((resolve) => {
      const look = setInterval(() => {
        if (!broken.near.lost && !broken.far.lost) return
        clearInterval(look)
        resolve()
      }, 1)
      cleanups.push(() => clearInterval(look))
    })
    if (plan?.how === 'cut') void gone.then(() => rig.link('vsock'))
    // an attempt that was cut off says so, and the next one comes about
    const open = () => rig.a.peer.connect('orders', { wait: 20_000 })
    const a = await open().catch((error: { code?: string }) => {
      expect(error.code).toMatch(/^ERR_VMRING_|^ECONN/)
      return open()
    })
    await expect.poll(() => accepted.length, { interval: 1, timeout: 20_000 }).toBeGreaterThan(0)
    // whoever waits for a channel whose opening was cut off has two; the last one is the one
    const b = accepted.at(-1)!
    const size = (n: number) => sizeOf(3, n, 80)
    const [toA, toB] = [new SequenceOracle(1, size), new SequenceOracle(2, size)]
    a.on('message', (message) => toA.accept(message.view))
    b.on('message', (message) => toB.accept(message.view))
    for (let n = 0; n < MESSAGES; n++) await Promise.all([a.send(toB.message(n)), b.send(toA.message(n))])
    await expect
      .poll(() => [toA.next, toB.next], { interval: 1, timeout: 20_000 })
      .toEqual([MESSAGES, MESSAGES])
    await a.close()
    expect([await a.closed, await b.closed]).toEqual([null, null])
    return { ...socket!.bytes }
  } finally {
    await rig.close()
    socket!.close()
  }
}

/** Eight at a time: they mostly wait for each other. */
async function all<T>(list: readonly T[], one: (item: T) => Promise<unknown>): Promise<void> {
  const waiting = [...list]
  const lane = async () => {
    for (let item = waiting.shift(); item !== undefined; item = waiting.shift()) await one(item)
  }
  await Promise.all(Array.from({ length: 8 }, lane))
}

const places = (bytes: number) =>
  Array.from({ length: bytes }, (_, at) => at).filter((at) => at < DENSE || at % STRIDE === 0)

test.each(['to', 'from'] as const)(
  'cut at every byte, %s',
  async (way) => {
    const whole = await conversation(null)
    expect(whole[way]).toBeGreaterThan(DENSE)
    await all(places(whole[way]), (at) =>
      conversation({ way, at, how: 'cut' }).catch((error) => {
        throw new Error(`cut ${way} at byte ${at}: ${error.message}`, { cause: error })
      }),
    )
  },
  LIMIT_MS,
)

test.each(['to', 'from'] as const)(
  'every byte by itself, and a stall at every tenth, %s',
  async (way) => {
    const whole = await conversation({ way, at: 0, how: 'split' })
    const tenths = Array.from({ length: Math.ceil(whole[way] / 10) }, (_, i) => i * 10)
    await all(tenths, (at) => conversation({ way, at, how: 'stall', ms: 2 }))
  },
  LIMIT_MS,
)

test(
  'the handshake with the relay, cut at every byte: attach() says so, or another connection does',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'vmring-broken-relay-'))
    cleanups.push(() => rmSync(folder, { recursive: true, force: true }))
    const host = await startHost({ socket: join(folder, 'host'), size: 2 ** 20, sections: 2 })
    cleanups.push(() => host.close())
    const relay = join(folder, 'host.relay')
    const listening = await attach({ region: null, relay: `unix:${relay}` })
    cleanups.push(() => listening.close())
    const server = await listening.listen('orders')
    server.on('channel', (channel) => channel.on('message', (message) => void channel.send(message.copy())))

    /** Attaches, opens a channel and asks once; the first `connections` are broken. */
    const ask = async (...plans: Break[]) => {
      const socket = await BrokenSocket.before(relay)
      socket.plans.push(...plans)
      let peer: Peer | null = null
      try {
        const start = () => attach({ region: null, relay: `unix:${socket.path}` })
        peer = await start().catch((error: { code?: string }) => {
          expect(error.code).toMatch(/^ERR_VMRING_|^E[A-Z]+$/)
          return start()
        })
        const open = () => peer!.connect('orders', { wait: 10_000 })
        const channel = await open().catch((error: { code?: string }) => {
          expect(error.code).toMatch(/^ERR_VMRING_|^ECONN/)
          return open()
        })
        const answer = new Promise<string>((resolve) =>
          channel.once('message', (message) => resolve(message.text())),
        )
        await channel.send(Buffer.from('whole'))
        expect(await answer).toBe('whole')
        await channel.close()
      } finally {
        await peer?.close()
        socket.close()
      }
      return socket
    }
    const whole = await ask()
    expect(whole.bytes.to).toBeGreaterThan(100)
    const none: Break = { way: 'to', at: Number.POSITIVE_INFINITY, how: 'cut' }
    // the control connection, then the one that dials; a later byte than there is breaks nothing
    const step = STRIDE === 1 ? 1 : 3
    const bytes = Array.from({ length: Math.ceil(64 / step) }, (_, i) => i * step)
    const plans = (['to', 'from'] as const).flatMap((way) =>
      bytes.flatMap((at): Break[][] => [[{ way, at, how: 'cut' }], [none, { way, at, how: 'cut' }]]),
    )
    await all(plans, (plan) => ask(...plan))
  },
  LIMIT_MS,
)
