/** Private memory for what arrives. Large chunks are cut from slabs; small ones are copied once more, so that they pin no slab. */

const SLAB = 256 * 1024
const SMALL = 4 * 1024
/** Most bytes of one chunk: what a socket of the system reads at once. */
export const CHUNK = 64 * 1024

let slab = Buffer.allocUnsafeSlow(SLAB)
let used = 0

/** Fills a chunk by `read`, which copies into `target` from `at` up to `end` and returns where it stopped; null if nothing came. */
export function readChunk(read: (target: Uint8Array, at: number, end: number) => number): Buffer | null {
  if (SLAB - used < CHUNK) {
    slab = Buffer.allocUnsafeSlow(SLAB)
    used = 0
  }
  const stop = read(slab, used, used + CHUNK)
  const start = used
  if (stop === start) return null
  if (stop - start <= SMALL) {
    const small = Buffer.allocUnsafe(stop - start)
    slab.copy(small, 0, start, stop)
    return small
  }
  used = (stop + 7) & ~7
  return slab.subarray(start, stop)
}
