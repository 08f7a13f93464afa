/**
 * What is in a message, and whether it is what was sent. A message begins with its number and a sum, both 32 bits little endian;
 * the rest is noise. The sum is over every byte behind it (native.benchChecksum), plus the number.
 */
import { native } from '../../native/binding.js'
import type { Fill, Touch } from './job.js'
import type { Link } from './link.js'

export const HEADER = 8
export const MIN_SIZE = 16
/** of numbers remembered as missing: what comes late is told from what comes twice */
const MAX_MISSING = 1_000_000
/** with a sum to check, neighbours differ */
const VARIANTS = 4

function noise(size: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(size)
  let state = seed * 2654435761 + 1
  for (let i = HEADER; i < size; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    bytes[i] = state >>> 24
  }
  return bytes
}

function put(bytes: Uint8Array, sequence: number, sum: number): void {
  bytes[0] = sequence
  bytes[1] = sequence >>> 8
  bytes[2] = sequence >>> 16
  bytes[3] = sequence >>> 24
  const total = sequence + sum
  bytes[4] = total
  bytes[5] = total >>> 8
  bytes[6] = total >>> 16
  bytes[7] = total >>> 24
}

/** Makes messages and sends them: copied in from a buffer, or filled in place. */
export class Writer {
  sent = 0
  readonly #link: Link
  readonly #size: number
  readonly #buffers: Uint8Array[] = []
  readonly #sums: number[] = []
  readonly #reserve: boolean
  #turn = 0

  constructor(link: Link, size: number, fill: Fill, touch: Touch) {
    this.#link = link
    this.#size = size
    this.#reserve = fill === 'reserve'
    if (this.#reserve) {
      const bytes = new Uint8Array(size - HEADER)
      for (let value = 0; value < (touch === 'all' ? 256 : 0); value++) {
        this.#sums.push(native.benchChecksum(bytes.fill(value), 0))
      }
      return
    }
    // a link that keeps what it was given until it has gone out must not be given the same buffer again before
    const count = Math.max(link.pool(size), touch === 'all' ? VARIANTS : 1)
    for (let i = 0; i < count; i++) {
      const bytes = i < VARIANTS ? noise(size, i) : this.#buffers[i % VARIANTS]!.slice()
      this.#buffers.push(bytes)
      this.#sums.push(touch === 'all' ? native.benchChecksum(bytes.subarray(HEADER), 0) : 0)
    }
  }

  /** Link.send() of message `sequence`. */
  send(sequence: number): number {
    if (this.#reserve) return this.#fill(sequence)
    const turn = this.#turn
    const bytes = this.#buffers[turn]!
    put(bytes, sequence, this.#sums[turn]!)
    const result = this.#link.send(bytes)
    if (result >= 0) {
      this.sent++
      this.#turn = turn + 1 === this.#buffers.length ? 0 : turn + 1
    }
    return result
  }

  #fill(sequence: number): number {
    const lease = this.#link.reserve!(this.#size)
    if (lease === null) return -1
    const { data } = lease
    const value = sequence & 255
    data.fill(value, HEADER)
    put(data, sequence, this.#sums[value] ?? 0)
    lease.commit()
    this.sent++
    return 1
  }
}

/** Takes messages, whole or in pieces, and counts what is not as it should be. */
export class Checker {
  /** distinct messages */
  received = 0
  reordered = 0
  duplicated = 0
  changed = 0
  /** called after each message that was there for the first time and unchanged */
  onMessage: (sequence: number) => void = () => {}
  readonly #size: number
  readonly #all: boolean
  #expected = 0
  readonly #missing = new Set<number>()
  #at = 0
  #sequence = 0
  #total = 0
  #sum = 0

  constructor(size: number, touch: Touch) {
    this.#size = size
    this.#all = touch === 'all'
  }

  whole(bytes: Uint8Array): void {
    if (bytes.length !== this.#size) {
      this.changed++
      return
    }
    const sequence = (bytes[0]! | (bytes[1]! << 8) | (bytes[2]! << 16) | (bytes[3]! << 24)) >>> 0
    if (this.#all) {
      const total = (bytes[4]! | (bytes[5]! << 8) | (bytes[6]! << 16) | (bytes[7]! << 24)) >>> 0
      const sum = native.benchChecksum(bytes.subarray(HEADER), 0)
      if ((sequence + sum) >>> 0 !== total) {
        this.changed++
        return
      }
    }
    this.#count(sequence)
  }

  /** A piece of a stream of messages. */
  piece(bytes: Uint8Array): void {
    const { length } = bytes
    let offset = 0
    while (offset < length) {
      if (this.#at === 0 && length - offset >= this.#size) {
        if (this.#all) {
          this.whole(bytes.subarray(offset, offset + this.#size))
        } else {
          const o = offset
          this.#count(
            (bytes[o]! | (bytes[o + 1]! << 8) | (bytes[o + 2]! << 16) | (bytes[o + 3]! << 24)) >>> 0,
          )
        }
        offset += this.#size
      } else {
        offset = this.#part(bytes, offset)
      }
    }
  }

  #part(bytes: Uint8Array, from: number): number {
    let offset = from
    for (; this.#at < HEADER && offset < bytes.length; this.#at++, offset++) {
      const value = bytes[offset]! << ((this.#at & 3) * 8)
      if (this.#at < 4) this.#sequence = (this.#sequence | value) >>> 0
      else this.#total = (this.#total | value) >>> 0
    }
    const count = Math.min(this.#size - this.#at, bytes.length - offset)
    if (this.#all && count > 0) {
      const sum = native.benchChecksum(bytes.subarray(offset, offset + count), this.#at - HEADER)
      this.#sum = (this.#sum + sum) >>> 0
    }
    this.#at += count
    if (this.#at === this.#size) {
      const right = !this.#all || (this.#sequence + this.#sum) >>> 0 === this.#total
      const sequence = this.#sequence
      this.#at = this.#sequence = this.#total = this.#sum = 0
      if (right) this.#count(sequence)
      else this.changed++
    }
    return offset + count
  }

  #count(sequence: number): void {
    if (sequence === this.#expected) {
      this.#expected++
    } else if (sequence > this.#expected) {
      for (let n = this.#expected; n < sequence && this.#missing.size < MAX_MISSING; n++) this.#missing.add(n)
      this.#expected = sequence + 1
    } else if (this.#missing.delete(sequence)) {
      this.reordered++
    } else {
      this.duplicated++
      return
    }
    this.received++
    this.onMessage(sequence)
  }
}
