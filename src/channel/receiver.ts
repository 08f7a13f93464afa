/** Takes records off the inbox and makes messages of them. */
import { VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import { Kind, Status } from '../native/types.js'
import { receiveRecord, receiveRecordWait } from '../ring/hot.js'
import { Message } from '../ring/message.js'
import type { Session } from '../session/session.js'

/** Most bytes to put together before the event loop gets its turn. */
const BYTES_PER_TURN = 8 * 1024 * 1024

export class Receiver {
  receivedMessages = 0
  receivedBytes = 0
  readonly #session: Session
  readonly #onEnd: () => void
  /** a message that is being put together from fragments */
  #parts: Uint8Array | null = null
  #filled = 0
  #budget = 0
  /** a message that readInto() has begun to read, and how far it is */
  #rest: Message | null = null
  #restAt = 0

  constructor(session: Session, onEnd: () => void) {
    this.#session = session
    this.#onEnd = onEnd
  }

  /** The next message, or null when there is none now. */
  next(): Message | null {
    this.#budget = BYTES_PER_TURN
    for (;;) {
      const id = this.#session.receiveId
      if (id < 0) return null
      const kind = receiveRecord(id)
      if (kind === 0) return null
      // @step receive: taken
      const message = this.#take(kind)
      if (message !== undefined) return message
    }
  }

  /**
   * Copies the bytes of the next messages to `target` from `at` up to `end`, as if they were one stream; what does not fit comes
   * with the next call. Returns where it stopped: before `end` when there is nothing more now.
   */
  readInto(target: Uint8Array, at: number, end: number): number {
    const { scratch } = native
    const session = this.#session
    this.#budget = BYTES_PER_TURN
    for (;;) {
      if (this.#rest !== null) at = this.#readRest(this.#rest, target, at, end)
      const id = session.receiveId
      if (at >= end || id < 0) return at
      let records = 0
      if (this.#parts === null) {
        const reached = native.endReadBytes(id, target, at, end)
        records = scratch[6]!
        this.receivedBytes += reached - at
        this.receivedMessages += records
        at = reached
      } else {
        scratch[5] = receiveRecord(id)
      }
      const kind = scratch[5]!
      const message = kind === 0 ? null : this.#take(kind)
      // Whoever waits for releases may make the addon fill `scratch` again.
      if (records > 0) session.end.onRelease?.()
      if (message === null) return at
      if (message !== undefined) this.#rest = message
    }
  }

  /** Of a message that readInto() has begun something is left. */
  get begun(): boolean {
    return this.#rest !== null
  }

  #readRest(rest: Message, target: Uint8Array, at: number, end: number): number {
    const { view } = rest
    const stop = Math.min(this.#restAt + end - at, view.length)
    target.set(view.subarray(this.#restAt, stop), at)
    const reached = at + stop - this.#restAt
    this.#restAt = stop
    if (stop === view.length) {
      this.#rest = null
      this.#restAt = 0
      rest.release()
    }
    return reached
  }

  /** As next(), waiting on this thread up to `timeout` ms. */
  nextWait(timeout: number): Message | null {
    if (!this.#session.end.blocking) return this.next()
    this.#budget = Number.POSITIVE_INFINITY
    // The clock is read for what needs a second look only.
    let deadline = 0
    for (let left = timeout; ; left = deadline - performance.now()) {
      const id = this.#session.receiveId
      if (id < 0) return null
      const kind = left > 0 ? receiveRecordWait(id, left) : receiveRecord(id)
      if (kind === 0 && left <= 0) return null
      if (kind !== 0) {
        const message = this.#take(kind)
        if (message !== undefined) return message
      }
      if (deadline === 0) deadline = performance.now() + (kind === 0 ? 0 : timeout)
    }
  }

  /** Drops what was put together so far. */
  reset(): void {
    this.#parts = null
    this.#rest?.release()
    this.#rest = null
    this.#restAt = 0
  }

  /** A message; null: nothing more now; undefined: the record is dealt with, look for the next. */
  #take(kind: number): Message | null | undefined {
    const { scratch } = native
    const { end } = this.#session
    if ((kind === Kind.DATA || kind === Kind.LARGE) && this.#parts === null) {
      const length = scratch[1]!
      if (length > this.#session.maxMessage)
        return this.#broken(`a message of ${length} bytes, above the limit`)
      this.receivedMessages++
      this.receivedBytes += length
      return new Message(end, scratch[0]!, length, scratch[2]!, null)
    }
    if (kind < 0) return this.#status(kind)
    const sequence = scratch[2]!
    if (kind === Kind.FIN) {
      this.#giveBack(sequence)
      if (this.#parts !== null) return this.#broken('the end of the stream within a message')
      this.#onEnd()
      return null
    }
    if (kind !== Kind.FRAG && kind !== Kind.FRAG_LAST)
      return this.#broken(`a record of kind ${kind} within a message`)
    return this.#fragment(kind, scratch[0]!, scratch[1]!, sequence, scratch[3]!)
  }

  #fragment(
    kind: number,
    offset: number,
    length: number,
    sequence: number,
    total: number,
  ): Message | null | undefined {
    const { end, maxMessage } = this.#session
    if (this.#parts === null) {
      if (total <= 0) return this.#broken('a fragment without a beginning')
      if (total > maxMessage)
        return this.#broken(`a message of ${total} bytes, above the limit of ${maxMessage}`)
      try {
        this.#parts = new Uint8Array(total)
      } catch (cause) {
        this.#session.destroy(
          new VmringError('ERR_VMRING_TOO_LARGE', `no memory for a message of ${total} bytes`, { cause }),
        )
        return null
      }
      this.#filled = 0
    } else if (total > 0) {
      return this.#broken('a message within a message')
    }
    const parts = this.#parts
    if (this.#filled + length > parts.length) return this.#broken('fragments beyond the announced length')
    parts.set(new Uint8Array(end.buffer, offset, length), this.#filled)
    this.#filled += length
    this.#giveBack(sequence)
    if (kind === Kind.FRAG) {
      this.#budget -= length
      // What is left over is reported again in the next turn.
      return this.#budget > 0 ? undefined : null
    }
    if (this.#filled !== parts.length) return this.#broken('fragments that end before the announced length')
    this.#parts = null
    this.receivedMessages++
    this.receivedBytes += parts.length
    return new Message(null, 0, parts.length, 0, parts)
  }

  #giveBack(sequence: number): void {
    const { end } = this.#session
    native.endRelease(end.id, sequence)
    end.onRelease?.()
  }

  #status(status: number): null {
    const session = this.#session
    if (status === Status.FAULT) {
      session.onFault(
        new VmringError(
          'ERR_VMRING_PROTOCOL',
          `the other side broke the protocol: ${native.endFault(session.end.id)}`,
        ),
      )
    } else if (status === Status.LOST) {
      session.outboxLost(
        session.path.name,
        new VmringError('ERR_VMRING_REGION_LOST', 'the memory behind the channel is gone'),
      )
    }
    return null
  }

  #broken(what: string): null {
    this.#parts = null
    this.#session.onFault(
      new VmringError('ERR_VMRING_PROTOCOL', `the other side broke the protocol: it sent ${what}`),
    )
    return null
  }
}
