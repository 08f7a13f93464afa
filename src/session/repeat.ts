/** Says something again, at growing intervals, until it is answered. */
export interface Timing {
  /** first and longest interval between two sendings of an unanswered frame, ms */
  retryFirst: number
  retryMax: number
  /** how long an OPEN may go unanswered on one path, ms: while none is answered, and at most */
  openLimit: number
  openMax: number
  /** how long a MOVE may go unanswered before another path is tried, ms */
  moveLimit: number
  /** how long a channel without any path waits for a new one, ms: a DIAL that the other side answers late is within it */
  pathGrace: number
  /** how long a peer may be stalled on a path before its channels try another one, ms */
  stallLimit: number
  /** how long a better path must have been good before a channel returns to it, ms: at first, and at most */
  returnAfter: number
  returnMax: number
  /** how long connect() waits for peers that live to tell their services, before it says that nobody listens, ms */
  helloLimit: number
  /** how long listen() of a socket waits for the same, before it takes a name for free, ms */
  introductionLimit: number
}

export const defaultTiming: Timing = {
  retryFirst: 100,
  retryMax: 1000,
  openLimit: 10_000,
  openMax: 60_000,
  moveLimit: 3000,
  pathGrace: 15_000,
  stallLimit: 1000,
  returnAfter: 2000,
  returnMax: 60_000,
  helloLimit: 5000, // a live process may be in the middle of something, or on a slow machine
  introductionLimit: 1000,
}

export class Repeat {
  #timer: NodeJS.Timeout | null = null
  #interval = 0
  #action: (() => void) | null = null
  readonly #timing: Timing

  constructor(timing: Timing) {
    this.#timing = timing
  }

  get running(): boolean {
    return this.#action !== null
  }

  /** Calls `action` now and then again until stop(). */
  start(action: () => void): void {
    this.stop()
    this.#action = action
    action()
    if (this.#action === action) this.again(action)
  }

  /** As start(), where it has been said for the first time already. */
  again(action: () => void): void {
    this.stop()
    this.#action = action
    this.#interval = this.#timing.retryFirst
    this.#arm()
  }

  stop(): void {
    this.#action = null
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
  }

  #arm(): void {
    this.#timer = setTimeout(() => {
      this.#interval = Math.min(this.#interval * 2, this.#timing.retryMax)
      this.#arm()
      this.#action?.()
    }, this.#interval).unref()
  }
}
