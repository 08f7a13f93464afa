/**
 * Private memory for what arrives: chunks are cut from slabs, small ones from slabs of their own, so that a program that keeps a few
 * bytes keeps little else with them. Slabs grow while they are used up quickly, because new memory costs a page fault every 4 KiB.
 */

const SMALL = 4 * 1024
const SMALL_SLAB = 16 * 1024
/** Most bytes of one chunk: what a socket of the system reads at once. */
export const CHUNK = 64 * 1024
const LEAST_SLAB = 2 * CHUNK
const MOST_SLAB = 16 * CHUNK
/** ms in which a slab is used up that should have been larger */
const QUICK_MS = 10
/** The largest block that malloc takes from the heap if it has freed one of that size: just below what mallopt(3) calls the upper limit. */
const LARGEST_HEAP_BLOCK = 31 * 1024 * 1024

type Read = (target: Uint8Array, at: number, end: number) => number

let size = LEAST_SLAB
let slab = Buffer.allocUnsafeSlow(size)
let used = 0
let since = 0
let smallSlab = Buffer.allocUnsafeSlow(SMALL_SLAB)
let smallUsed = 0
let keeps = false

/** Chunks of one connection: as a rule the next is about as large as the last. */
export class Chunks {
  #small = true

  /** Fills a chunk by `read`, which copies into `target` from `at` up to `end` and returns where it stopped; null if nothing came. */
  next(read: Read): Buffer | null {
    if (!this.#small) return this.#large(read)
    if (SMALL_SLAB - smallUsed < SMALL) {
      smallSlab = Buffer.allocUnsafeSlow(SMALL_SLAB)
      smallUsed = 0
    }
    const start = smallUsed
    const stop = read(smallSlab, start, start + SMALL)
    if (stop === start) return null
    if (stop - start === SMALL) {
      // there may be more, and a socket of the system cuts nothing at 4 KiB
      this.#small = false
      return this.#large(read, smallSlab.subarray(start, stop))
    }
    smallUsed = (stop + 7) & ~7
    return smallSlab.subarray(start, stop)
  }

  /** `head`: what has been read already, to stand before the rest. */
  #large(read: Read, head?: Buffer): Buffer | null {
    if (size - used < CHUNK) renew()
    const start = used
    if (head !== undefined) slab.set(head, start)
    const stop = read(slab, start + (head?.length ?? 0), start + CHUNK)
    if (stop === start) return null
    if (stop - start <= SMALL) {
      this.#small = true
      return Buffer.from(slab.subarray(start, stop))
    }
    used = (stop + 7) & ~7
    return slab.subarray(start, stop)
  }
}

function renew(): void {
  const now = performance.now()
  const quick = now - since < QUICK_MS
  if (quick && size === MOST_SLAB / 2 && !keeps) keepFreedMemory()
  size = quick ? Math.min(size * 2, MOST_SLAB) : Math.max(size / 2, LEAST_SLAB)
  since = now
  slab = Buffer.allocUnsafeSlow(size)
  used = 0
}

/**
 * A stream leaves some 32 MiB of slabs to each garbage collection. malloc would give them back to the system and take them anew, a page
 * fault for every 4 KiB; after it has freed a block of this size once, it keeps up to twice as much (M_MMAP_THRESHOLD in mallopt(3)).
 * Nobody touches the block, so it is address space and not memory.
 */
function keepFreedMemory(): void {
  keeps = true
  try {
    Buffer.allocUnsafeSlow(LARGEST_HEAP_BLOCK)
  } catch {
    // a limit on address space: it works without, at the price of the faults
  }
}
