/** Whole lives of a channel, from connect to the last close, for running under faults. */
import type { Channel } from '../../src/channel/channel.js'
import type { Message } from '../../src/ring/message.js'
import type { Rig } from './memory-path.js'
import { SequenceOracle, sizeOf } from './oracle.js'
import { SLOW } from './slow.js'

export interface Life {
  /** messages each way */
  messages: number
  /** paths to move to, by the number of the message at which a side asks */
  movesA?: Record<number, string>
  movesB?: Record<number, string>
  /** keep every so-many-th message for a while */
  holdEvery?: number
  /** use a lease for every so-many-th message, open over a turn of the loop */
  leaseEvery?: number
  /** close() on one side instead of end() on both */
  close?: 'a' | 'b'
  /** path changes may fail (wires are cut) */
  movesMayFail?: boolean
}

interface Held {
  message: Message
  oracle: SequenceOracle
  sequence: number
}

const LIMIT_MS = 20_000 * SLOW
const HOLD_MS = 12

/** Throws when anything was lost, doubled, reordered or changed, or when something stays behind. */
export async function live(rig: Rig, life: Life): Promise<void> {
  const toB = new SequenceOracle(1, (n) => (n % 7 === 5 ? 9000 + n : sizeOf(1, n, 3000)))
  const toA = new SequenceOracle(2, (n) => (n % 5 === 3 ? 0 : sizeOf(2, n, 3500)))
  const failures: Error[] = []
  const held = new Set<Held>()
  // A message that is kept holds up what lies behind it in the ring, so nothing is kept for ever.
  const letGo = (one: Held): void => {
    if (!held.delete(one)) return
    const wanted = one.oracle.message(one.sequence)
    if (Buffer.compare(one.message.view, wanted) !== 0)
      failures.push(new Error(`held message ${one.sequence} changed`))
    one.message.release()
  }
  const take = (oracle: SequenceOracle, message: Message): void => {
    const sequence = oracle.next
    oracle.accept(message.view)
    if (life.holdEvery !== undefined && sequence % life.holdEvery === 0) {
      const one = { message: message.retain(), oracle, sequence }
      held.add(one)
      setTimeout(() => letGo(one), HOLD_MS)
    }
  }
  const server = await rig.b.peer.listen('orders')
  const moves = (channel: Channel, plan: Record<number, string> | undefined, sequence: number): void => {
    const name = plan?.[sequence]
    if (name === undefined) return
    channel.usePath(name).catch((error) => {
      if (life.movesMayFail !== true) failures.push(error)
    })
  }
  const write = async (
    channel: Channel,
    oracle: SequenceOracle,
    plan?: Record<number, string>,
  ): Promise<void> => {
    for (let sequence = 0; sequence < life.messages; sequence++) {
      moves(channel, plan, sequence)
      const bytes = oracle.message(sequence)
      if (
        life.leaseEvery !== undefined &&
        sequence % life.leaseEvery === 1 &&
        bytes.length <= channel.inlineLimit
      ) {
        let lease = channel.reserve(bytes.length)
        while (lease === null) {
          await new Promise((resolve) => channel.once('drain', () => resolve(undefined)))
          lease = channel.reserve(bytes.length)
        }
        moves(channel, plan, sequence + 0.5)
        await new Promise((resolve) => setTimeout(resolve, 2))
        lease.data.set(bytes)
        lease.commit()
      } else {
        await channel.send(bytes)
      }
      if (sequence % 4 === 3) await new Promise(setImmediate)
    }
  }
  // An attempt that was cut off leaves a channel that is reset; the last one is the one that came about.
  const accepted: Channel[] = []
  server.on('channel', (channel) => accepted.push(channel))
  const channelA = await within(rig.a.peer.connect('orders', { wait: 3000 * SLOW }), 'connect')
  const channelB = accepted.at(-1)!
  const endedA = new Promise<void>((resolve) => channelA.once('end', () => resolve()))
  channelB.on('message', (message) => take(toB, message))
  const readA = (async () => {
    for await (const message of channelA) take(toA, message)
  })()
  readA.catch(() => {})
  const bothWritten = Promise.all([write(channelA, toB, life.movesA), write(channelB, toA, life.movesB)])
  await within(bothWritten, 'sending')
  if (life.close === undefined) {
    channelA.end()
    channelB.end()
    await within(endedA, 'end')
  } else {
    // The one who closes reads no more: let it have had everything first.
    const closer =
      life.close === 'a' ? { channel: channelA, oracle: toA } : { channel: channelB, oracle: toB }
    while (closer.oracle.next < life.messages) await new Promise((resolve) => setTimeout(resolve, 1))
    await within(closer.channel.close(), 'close')
  }
  await within(readA, 'reading')
  const errors = await within(Promise.all([channelA.closed, channelB.closed]), 'closing')
  if (toA.next !== life.messages || toB.next !== life.messages) {
    throw new Error(`lost: ${toA.next} and ${toB.next} of ${life.messages} arrived`)
  }
  for (const one of held) letGo(one)
  for (const error of [...failures, ...errors]) if (error !== null) throw error
  await within(gone(rig), 'taking leave')
}

async function gone(rig: Rig): Promise<void> {
  while (rig.a.hub.sessionCount + rig.b.hub.sessionCount > 0)
    await new Promise((resolve) => setTimeout(resolve, 1))
}

export async function within<T>(promise: Promise<T>, what: string, limit = LIMIT_MS): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took more than ${limit} ms`)), limit)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
