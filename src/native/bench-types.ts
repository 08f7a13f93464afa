/** What `vmring bench` needs of the addon (native/linux/floor.hpp). */

/** What a floor measures; the numbers are those of floor::Kind. */
export const FloorKind = { CACHE_LINE: 0, RING: 1, EVENTFD: 2, MEMCPY: 3, FILL: 4 } as const
export type FloorKind = (typeof FloorKind)[keyof typeof FloorKind]

export interface BenchFunctions {
  /** Sum over every byte at its place, mod 2^32; pieces of a message add up, `offset` being where a piece begins. */
  benchChecksum(bytes: Uint8Array, offset: number): number
  /** Moves this thread to one processor. Throws the system's error. */
  benchPin(cpu: number): void
  /**
   * Blocks for `nanoseconds`; the median: nanoseconds of a round trip, or bytes per second. A processor of −1: anywhere. `gap`:
   * nanoseconds of sleep before each round trip (EVENTFD). `footprint`: bytes, a power of two.
   */
  benchFloor(
    kind: FloorKind,
    cpu: number,
    otherCpu: number,
    nanoseconds: number,
    gap: number,
    size: number,
    footprint: number,
  ): number
  /** Who runs this machine (cpuid): 'KVMKVMKVM', 'TCGTCGTCGTCG', …; '' for nobody */
  benchHypervisor(): string
  /** Puts milliseconds on a clock that goes on steadily into benchTime[0]. */
  benchClock(): void
  readonly benchTime: Float64Array
}
