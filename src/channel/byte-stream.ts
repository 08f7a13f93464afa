/** The channel as a stream of bytes in each direction, for sockets: the boundaries of messages do not count, calls into the addon do. */
import { native } from '../native/binding.js'
import { Status } from '../native/types.js'
import type { Session } from '../session/session.js'
import type { Receiver } from './receiver.js'
import { closedError, type Sender, sendError } from './sender.js'

/** What a stream tells whoever uses it. */
export interface ByteSink {
  /** There is something to read: again with each turn of the loop until it has been read, or is not wanted. */
  onReadable(): void
  /** write() may get further than the last time, or throws why it never will. */
  onDrain(): void
}

/** Most bytes of one message, which is read in one go then; and of one piece that is kept. */
const MOST_AT_ONCE = 64 * 1024

export class ByteStream {
  readonly #session: Session
  readonly #sender: Sender
  readonly #receiver: Receiver
  /** most bytes of one message */
  readonly #limit: number
  readonly #sink: ByteSink
  #drainDue = false
  /** what has come and stands in private memory already */
  #kept: Uint8Array[] = []
  #whenRead: (() => void)[] = []

  constructor(session: Session, sender: Sender, receiver: Receiver, limit: number, sink: ByteSink) {
    this.#session = session
    this.#sender = sender
    this.#receiver = receiver
    this.#limit = Math.min(limit, MOST_AT_ONCE)
    this.#sink = sink
  }

  /** Whether `onReadable` is of any use now. */
  wantReadable(wanted: boolean): void {
    this.#session.wantReadable(wanted)
  }

  /** Copies to `target` from `at` up to `end` and returns where it stopped; before `end` when there is nothing more now. */
  read(target: Uint8Array, at: number, end: number): number {
    if (this.#kept.length > 0) at = this.#readKept(target, at, end)
    return at < end ? this.#receiver.readInto(target, at, end) : at
  }

  #readKept(target: Uint8Array, at: number, end: number): number {
    const kept = this.#kept
    while (kept.length > 0 && at < end) {
      const part = kept[0]!.subarray(0, end - at)
      target.set(part, at)
      at += part.length
      if (part.length === kept[0]!.length) kept.shift()
      else kept[0] = kept[0]!.subarray(part.length)
    }
    if (kept.length === 0) this.#allRead()
    return at
  }

  #allRead(): void {
    for (const callback of this.#whenRead.splice(0)) process.nextTick(callback)
  }

  /** Takes what has come into private memory, because where it stands may soon be another's. The most is what a ring holds. */
  keep(): void {
    for (let filled = MOST_AT_ONCE; filled === MOST_AT_ONCE; ) {
      const chunk = new Uint8Array(MOST_AT_ONCE)
      filled = this.#receiver.readInto(chunk, 0, chunk.length)
      if (filled > 0) this.#kept.push(chunk.slice(0, filled))
    }
    if (this.#kept.length > 0) process.nextTick(() => this.#sink.onReadable())
  }

  /** Nobody will read. */
  drop(): void {
    this.#kept = []
    this.#allRead()
  }

  /** Calls back once everything that was kept has been read. */
  whenRead(callback: () => void): void {
    if (this.#kept.length === 0) callback()
    else this.#whenRead.push(callback)
  }

  /** Sends a copy of what `bytes` has from `at` on, and returns where it stopped: before the end when `onDrain` follows. */
  write(bytes: Uint8Array, at: number): number {
    const { out } = this.#session
    for (let tries = 0; tries < 2; tries++) {
      if (out.sendId < 0) {
        if (out.refusal() === Status.CLOSED) throw closedError(this.#session)
        break
      }
      const reached = native.endWriteBytes(out.sendId, bytes, at, this.#limit)
      if (reached < 0) throw sendError(this.#session, reached, bytes.length)
      this.#count(reached - at)
      at = reached
      if (at === bytes.length) return at
      // A sender of bytes waits for half of the ring, so that the two sides take turns less often.
      const half = this.#session.end.capacity / 2 - 16
      if (!out.wantSpace(Math.max(Math.min(bytes.length - at, this.#limit), half))) break
    }
    this.#drainDue = true
    return at
  }

  /** Sends a string, if it is short, without a Buffer in between. Its length in bytes; −1: not sent, write() may do it. */
  writeText(text: string, utf8: boolean): number {
    const { sendId } = this.#session.out
    if (sendId < 0) return -1
    const length = native.endWriteText(sendId, text, utf8, this.#limit)
    if (length > 0) this.#count(length)
    return length > 0 ? length : -1
  }

  #count(bytes: number): void {
    this.#sender.sentBytes += bytes
    this.#sender.sentMessages += Math.ceil(bytes / this.#limit)
  }

  onReadable(): void {
    if (!this.#receiver.begun && this.#session.onlyFinLeft()) this.#receiver.next()
    else this.#sink.onReadable()
  }

  /** There may be room, or never any more. */
  onWritable(): void {
    if (!this.#drainDue) return
    this.#drainDue = false
    this.#sink.onDrain()
  }
}
