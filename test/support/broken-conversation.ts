/**
 * Whole conversations over a connection that breaks at bytes that are named: Unix sockets, and virtio sockets in a guest, where
 * this runs without vitest (test/vm/broken.ts).
 */
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Channel } from '../../src/index.js'
import type { Timing } from '../../src/session/repeat.js'
import { type Break, BrokenSocket } from './broken-socket.js'
import { SequenceOracle, sizeOf } from './oracle.js'
import { streamFamily, streamRig } from './stream-path.js'

/** An emulated processor. */
const GUEST = streamFamily === 'vsock'
const PATIENCE = GUEST ? 300_000 : 20_000
const TICK_MS = GUEST ? 10 : 1
const MESSAGES = GUEST ? 1 : 4
const OTHER = GUEST ? 'unix' : 'vsock'
/** What leaves a connection whole happens to it as often as this, bytes; each conversation begins at another one of them. */
const EVERY = 48

const patient: Partial<Timing> = {
  openLimit: PATIENCE / 2,
  openMax: PATIENCE,
  pathGrace: PATIENCE,
  moveLimit: PATIENCE,
  ...(GUEST ? { retryFirst: 50, retryMax: 500 } : {}),
}
/** A connection that stays whole loses nothing: nothing needs to be said twice, and each byte by itself there is no time for it. */
const once: Partial<Timing> = { ...patient, retryFirst: 10 * PATIENCE, retryMax: 10 * PATIENCE }

export const ways = ['to', 'from'] as const
export const kinds = ['cut', 'split', 'stall', 'delay', 'each byte by itself'] as const

export interface Sample {
  /** a cut at each of the first so many bytes, and at every so-many-th */
  dense: number
  stride: number
  /** of the places where the others begin, every so-many-th */
  shifts: number
}

/** Every byte. */
export const whole: Sample = { dense: 0, stride: 1, shifts: 1 }

export interface Came {
  conversations: number
  /** how often a connection was broken */
  breaks: number
  seconds: number
}

async function until(done: () => boolean, what: string): Promise<void> {
  for (const limit = performance.now() + PATIENCE; !done(); await sleep(TICK_MS)) {
    if (performance.now() > limit) throw new Error(`${what}: not within ${PATIENCE / 1000} s`)
  }
}

/** A whole conversation over a broken connection, and a whole one that comes when the first is gone. What went through the first. */
export async function conversation(plan: Break | null): Promise<BrokenSocket> {
  const cut = plan?.how === 'cut'
  const rig = streamRig({ capacity: 16 * 1024, timing: cut ? patient : once })
  let socket: BrokenSocket | undefined
  let look: NodeJS.Timeout | undefined
  try {
    const broken = await rig.link(streamFamily, async (target) => {
      socket = await BrokenSocket.before(target)
      if (plan !== null) socket.plans.push(plan)
      return socket.address
    })
    const server = await rig.b.peer.listen('orders')
    const accepted: Channel[] = []
    server.on('channel', (channel) => accepted.push(channel))
    if (cut) {
      look = setInterval(() => {
        if (!broken.near.lost && !broken.far.lost) return
        clearInterval(look)
        void rig.link(OTHER)
      }, TICK_MS)
    }
    // an attempt that was cut off says so, and the next one comes about
    const open = () => rig.a.peer.connect('orders', { wait: PATIENCE })
    const a = await open().catch((error: { code?: string }) => {
      if (!cut) throw error
      assert.match(error.code ?? '', /^ERR_VMRING_|^ECONN/)
      return open()
    })
    await until(() => accepted.length > 0, 'the channel on the other side')
    // whoever waits for a channel whose opening was cut off has two; the last one is the one
    const b = accepted.at(-1)!
    const size = (n: number) => sizeOf(3, n, 80)
    const [toA, toB] = [new SequenceOracle(1, size), new SequenceOracle(2, size)]
    a.on('message', (message) => toA.accept(message.view))
    b.on('message', (message) => toB.accept(message.view))
    for (let n = 0; n < MESSAGES; n++) await Promise.all([a.send(toB.message(n)), b.send(toA.message(n))])
    await until(() => toA.next >= MESSAGES && toB.next >= MESSAGES, 'all messages, both ways')
    await a.close()
    assert.deepEqual([await a.closed, await b.closed], [null, null])
    assert.deepEqual([toA.next, toB.next], [MESSAGES, MESSAGES])
    return socket!
  } finally {
    clearInterval(look)
    await rig.close()
    socket?.close()
  }
}

/** Many at a time: they mostly wait for each other. */
export async function all<T>(list: readonly T[], one: (item: T) => Promise<unknown>): Promise<void> {
  const waiting = [...list]
  const lane = async () => {
    for (let item = waiting.shift(); item !== undefined; item = waiting.shift()) await one(item)
  }
  await Promise.all(Array.from({ length: GUEST ? 16 : 8 }, lane))
}

async function plansOf(kind: (typeof kinds)[number], way: Break['way'], sample: Sample): Promise<Break[]> {
  if (kind === 'each byte by itself') return [{ way, at: 0, every: 1, how: 'split' }]
  const bytes = kind === 'cut' ? (await conversation(null)).bytes[way] : EVERY
  const { dense, stride } = kind === 'cut' ? sample : { dense: 0, stride: sample.shifts }
  return Array.from({ length: bytes }, (_, at) => at)
    .filter((at) => at < dense || at % stride === 0)
    .map((at) => ({ way, at, how: kind, ms: 2, ...(kind === 'cut' ? {} : { every: EVERY }) }))
}

/** All conversations of one kind, broken in one direction. Rejects with the one that did not come about. */
export async function breakAll(
  kind: (typeof kinds)[number],
  way: Break['way'],
  sample: Sample,
  progress: (came: Came) => void = () => {},
): Promise<Came> {
  const started = performance.now()
  const came: Came = { conversations: 0, breaks: 0, seconds: 0 }
  const plans = await plansOf(kind, way, sample)
  await all(plans, async (plan) => {
    const socket = await conversation(plan).catch((error) => {
      throw new Error(`${kind} ${way} at byte ${plan.at}: ${error.message}`, { cause: error })
    })
    came.conversations++
    came.breaks += socket.breaks
    came.seconds = Math.round((performance.now() - started) / 1000)
    if (kind === 'each byte by itself') assert.equal(socket.breaks, socket.bytes[way])
    if (came.conversations % 50 === 0) progress(came)
  })
  // the last places may be behind the end of a shorter conversation
  assert.ok(came.breaks > (kind === 'cut' ? 0.7 : 4) * plans.length, `broken ${came.breaks} times only`)
  return came
}
