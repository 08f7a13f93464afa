import type { NativeStream, StreamHandlers } from '../native/socket-types.js'
import { SPLICE_BYTES } from './relay-limits.js'

/** One of the two streams, and how its events come here. */
export interface Leg {
  readonly stream: NativeStream
  /** bytes that it has sent already */
  readonly early: Uint8Array
  handle(handlers: Omit<StreamHandlers, 'onConnect'>): void
}

/**
 * Two streams joined: what one side sends, the other receives. Each direction has one buffer, which is read into only while
 * nothing of it waits to be written: that is the bound, and the back-pressure. An end of one direction is passed on behind
 * the bytes before it; a stream that breaks resets the other.
 */
export class Splice {
  readonly #forth: Direction
  readonly #back: Direction
  readonly #onOver: () => void
  #over = false

  /** Takes both streams over; `onOver` is called once, when both are closed. */
  constructor(a: Leg, b: Leg, onOver: () => void) {
    this.#onOver = onOver
    this.#forth = new Direction(a.stream, b.stream)
    this.#back = new Direction(b.stream, a.stream)
    this.#listen(a, this.#forth, this.#back)
    this.#listen(b, this.#back, this.#forth)
    this.#forth.start(a.early)
    this.#back.start(b.early)
  }

  /** bytes from the first stream to the second, and back */
  get bytes(): { forth: number; back: number } {
    return { forth: this.#forth.bytes, back: this.#back.bytes }
  }

  /** Ends both at once. */
  reset(): void {
    if (this.#over) return
    this.#forth.from.reset()
    this.#back.from.reset()
    this.#finish()
  }

  #listen(leg: Leg, out: Direction, into: Direction): void {
    leg.handle({
      onRead: (length) => out.read(length),
      onEnd: () => out.end(),
      onDrain: () => into.resume(),
      onFinish: () => {
        into.finished = true
        this.#check()
      },
      onClose: (error) => {
        // through on this side: the other may still have to write what it was given
        if (error === null && out.ended && into.finished) this.#check()
        else this.reset()
      },
    })
  }

  #check(): void {
    if (this.#over || !this.#forth.finished || !this.#back.finished) return
    this.#forth.from.close()
    this.#back.from.close()
    this.#finish()
  }

  #finish(): void {
    if (this.#over) return
    this.#over = true
    this.#onOver()
  }
}

class Direction {
  readonly from: NativeStream
  readonly to: NativeStream
  bytes = 0
  /** the source has said everything */
  ended = false
  /** and the sink has been told */
  finished = false
  // not filled: pages that no byte has passed through cost nothing
  readonly #buffer = Buffer.allocUnsafeSlow(SPLICE_BYTES)
  #reading = false

  constructor(from: NativeStream, to: NativeStream) {
    this.from = from
    this.to = to
  }

  start(early: Uint8Array): void {
    if (early.length > 0) {
      this.bytes += early.length
      this.to.write([early])
    }
    // also the greeting that was written before may still wait
    if (this.to.queued === 0) this.resume()
  }

  read(length: number): void {
    this.bytes += length
    this.to.write([this.#buffer.subarray(0, length)])
    if (this.to.queued === 0) return
    this.#reading = false
    this.from.pause()
  }

  resume(): void {
    if (this.ended || this.#reading) return
    this.#reading = true
    this.from.readInto(this.#buffer)
  }

  end(): void {
    if (this.ended) return
    this.ended = true
    this.to.end()
  }
}
