/** Channels that are over: for a while late duplicates of their frames are answered as the first were. */

const MAX_KEPT = 4096
const KEPT_MS = 60_000

export class Tombstones {
  /** the oldest first */
  readonly #stones = new Map<string, { orderly: boolean; at: number }>()

  /** `orderly`: false when it ended by force. */
  add(key: string, orderly: boolean): void {
    const now = performance.now()
    this.#stones.delete(key)
    this.#stones.set(key, { orderly, at: now })
    for (const [old, { at }] of this.#stones) {
      if (this.#stones.size <= MAX_KEPT && now - at < KEPT_MS) break
      this.#stones.delete(old)
    }
  }

  has(key: string): boolean {
    return this.#stones.has(key)
  }

  /** False too when there is none. */
  orderly(key: string): boolean {
    return this.#stones.get(key)?.orderly === true
  }
}
