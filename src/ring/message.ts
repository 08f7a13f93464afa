/**
 * A received message: a lease on ring memory, until it is released.
 *
 * The view shows memory that the other machine can change at any time. Everything that decodes therefore copies first:
 * UTF-8 decoders size in one pass and write in another.
 */
import { VmringError } from '../errors.js'
import type { EndHandle } from './ends.js'
import { giveBack } from './hot.js'

const decoder = new TextDecoder('utf-8')

export class Message {
  /** bytes */
  readonly length: number
  readonly #offset: number
  readonly #sequence: number
  #end: EndHandle | null
  #private: Uint8Array | null
  #view: Uint8Array | null = null
  #released = false
  #retained = false

  /** Made by channels. With `bytes` the message lives in private memory; else it is lent by `end`. */
  constructor(
    end: EndHandle | null,
    offset: number,
    length: number,
    sequence: number,
    bytes: Uint8Array | null,
  ) {
    this.#end = end
    this.#offset = offset
    this.length = length
    this.#sequence = sequence
    this.#private = bytes
  }

  /** The bytes where they lie. Another machine can change them. Throws ERR_VMRING_RELEASED once released. */
  get view(): Uint8Array {
    if (this.#view !== null) return this.#view
    if (this.#released) throw released()
    this.#view = this.#private ?? new Uint8Array(this.#end!.buffer, this.#offset, this.length)
    return this.#view
  }

  get released(): boolean {
    return this.#released
  }

  get retained(): boolean {
    return this.#retained
  }

  /** The bytes in private memory. */
  copy(): Uint8Array {
    return this.view.slice()
  }

  /** The bytes, copied and decoded as UTF-8. */
  text(): string {
    return decoder.decode(this.#private ?? this.copy())
  }

  /** The bytes, copied, decoded and parsed. Throws SyntaxError. */
  json(): unknown {
    return JSON.parse(this.text())
  }

  /**
   * Keeps the message beyond its handler or loop turn, until release(). When more than a quarter of the ring is kept,
   * the message moves to private memory instead. A kept message holds up the ring behind it: the sender gets at most one
   * ring further until it is released, so copy() what has to stay for long. Returns the message.
   */
  retain(): this {
    if (this.#released) throw released()
    if (this.#retained) return this
    this.#retained = true
    const end = this.#end
    if (end === null) return this
    if (end.retained + this.length > end.capacity / 4) {
      this.#private = this.copy()
      this.#view = null
      this.#giveBack(end)
    } else {
      end.retained += this.length
    }
    return this
  }

  /** Gives the memory back; the view throws from now on. A second time: no effect. */
  release(): void {
    if (this.#released) return
    this.#released = true
    this.#view = null
    this.#private = null
    const end = this.#end
    if (end === null) return
    if (this.#retained) end.retained -= this.length
    this.#giveBack(end)
  }

  [Symbol.dispose](): void {
    this.release()
  }

  #giveBack(end: EndHandle): void {
    this.#end = null
    if (end.id < 0) return
    giveBack(end, this.length, this.#sequence)
  }
}

function released(): VmringError {
  return new VmringError(
    'ERR_VMRING_RELEASED',
    'this message has been released; call retain() to keep it after its handler, or copy() what you need',
  )
}
