/**
 * The calls of every message. An argument or a result costs as much as the call itself, so they go through words that both languages see;
 * what the addon finds there it checks, as it checks arguments.
 */
import { native } from '../native/binding.js'
import { Kind, Status } from '../native/types.js'
import type { EndHandle } from './ends.js'

const { hot, scratch, staging, releases, hotSend, hotReceive, hotReceiveWait } = native
const STAGED = staging.length
/** Found once: each `staging.set` is a search along the prototypes to the engine, a third of what the call costs. */
const { set } = Uint8Array.prototype
const MOST_RELEASES = (releases.length - 1) / 2
/** A note is left for messages so small that all notes together are no more of the ring than may wait anyway. */
const SMALL_SHARE = 4 * MOST_RELEASES

/** One copy into the outbox: 1, or a Status. */
export function sendData(id: number, bytes: Uint8Array): number {
  const { length } = bytes
  if (length > STAGED) return native.endSend(id, bytes, Kind.DATA, 0)
  set.call(staging, bytes)
  hot[0] = id
  hot[1] = length
  hot[2] = Status.CLOSED
  hotSend()
  return hot[2]!
}

/** Next record without waiting: its Kind, 0 for none, or a Status below 0. Fills `native.scratch`. */
export function receiveRecord(id: number): number {
  hot[0] = id
  hot[2] = Status.CLOSED
  hotReceive()
  return hot[2]!
}

/** As receiveRecord(), but waits up to `timeout` ms on this thread. */
export function receiveRecordWait(id: number, timeout: number): number {
  hot[0] = id
  hot[2] = Status.CLOSED
  scratch[4] = timeout
  hotReceiveWait()
  return hot[2]!
}

/**
 * Gives a record back to the sender. Of a small one a note is left, which the addon reads with one of its next calls or before the event loop sleeps:
 * the sender would hear of it hardly sooner.
 */
export function giveBack(end: EndHandle, length: number, sequence: number): void {
  const count = releases[0]!
  if (end.onRelease === null && count < MOST_RELEASES && length * SMALL_SHARE <= end.capacity) {
    releases[2 * count + 1] = end.id
    releases[2 * count + 2] = sequence
    releases[0] = count + 1
    return
  }
  native.endRelease(end.id, sequence)
  if (end.onRelease !== null) end.onRelease()
}
