/** Sizes of the pieces of memory that reads go into: it starts small, so that many idle connections cost little. */
const SMALLEST = 8 * 1024
const LARGEST = 64 * 1024
const empty = Buffer.alloc(0)

/**
 * Memory that reads go into and that is then handed on without a copy. What is left behind a short read serves the next one,
 * so many small reads share one piece, as with Buffer's own pool.
 */
export class ReadBuffer {
  #target: Buffer = empty
  #size = SMALLEST

  /** where the next read goes; never empty */
  get target(): Buffer {
    if (this.#target.length < this.#size >> 2) {
      this.#target = Buffer.allocUnsafeSlow(this.#size)
    }
    return this.#target
  }

  /** The first `length` bytes of the target, which are nobody's but the caller's from now on. */
  take(length: number): Buffer {
    const target = this.#target
    if (length === target.length) this.#size = Math.min(LARGEST, this.#size * 2)
    else if (length < this.#size >> 3) this.#size = Math.max(SMALLEST, this.#size >> 1)
    this.#target = target.subarray(length)
    return target.subarray(0, length)
  }
}
