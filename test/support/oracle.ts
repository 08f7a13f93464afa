/** Numbered, checksummed messages, and the judge that says whether a stream of them is whole and in order. */

const HEAD = 12

function mix(value: number): number {
  let x = value | 0
  x = Math.imul(x ^ (x >>> 16), 0x45d9f3b)
  x = Math.imul(x ^ (x >>> 16), 0x45d9f3b)
  return (x ^ (x >>> 16)) >>> 0
}

export function checksum(bytes: Uint8Array): number {
  let sum = 0x811c9dc5
  for (let i = 0; i < bytes.length; i++) sum = Math.imul(sum ^ bytes[i]!, 0x01000193)
  return sum >>> 0
}

/** Message `sequence` of a stream: its contents follow from both numbers. Below 12 bytes it carries its number only in part. */
export function makeMessage(stream: number, sequence: number, size: number): Uint8Array {
  const bytes = new Uint8Array(size)
  for (let i = 0; i < size; i++) bytes[i] = (sequence * 31 + stream * 7 + i * 13) & 0xff
  if (size >= HEAD) {
    const view = new DataView(bytes.buffer)
    view.setUint32(0, stream, true)
    view.setUint32(4, sequence, true)
    view.setUint32(8, 0, true)
    view.setUint32(8, checksum(bytes), true)
  }
  return bytes
}

/** Sizes that repeat themselves for a seed, 0 up to `limit`. */
export function sizeOf(seed: number, sequence: number, limit: number): number {
  return mix(seed * 0x9e3779b1 + sequence) % (limit + 1)
}

export class SequenceOracle {
  readonly stream: number
  readonly #size: (sequence: number) => number
  next = 0

  constructor(stream: number, size: (sequence: number) => number) {
    this.stream = stream
    this.#size = size
  }

  message(sequence: number): Uint8Array {
    return makeMessage(this.stream, sequence, this.#size(sequence))
  }

  /** Throws unless `bytes` is exactly the next message. */
  accept(bytes: Uint8Array): void {
    const wanted = this.message(this.next)
    if (bytes.length !== wanted.length || Buffer.compare(bytes, wanted) !== 0) {
      const carried = bytes.length >= HEAD ? new DataView(bytes.slice().buffer).getUint32(4, true) : 'unknown'
      throw new Error(
        `stream ${this.stream}: expected message ${this.next} (${wanted.length} bytes), got number ${carried} (${bytes.length} bytes)`,
      )
    }
    this.next++
  }
}
