/** Timers that run when somebody says so. Immediates and ticks stay real. */

export interface FakeTimer {
  readonly due: number
  readonly delay: number
  readonly serial: number
  readonly label: string
  readonly callback: () => void
}

/** First interval of the pump: retransmission fires in the calm, like all others, but is not worth a deviation of its own. */
const PUMP_FIRST = 50

export class FakeTimers {
  now = 0
  #serial = 0
  readonly #timers = new Set<FakeTimer>()
  readonly #real = { setTimeout: globalThis.setTimeout, clearTimeout: globalThis.clearTimeout }

  install(): void {
    const set = (callback: () => void, delay = 0): unknown => {
      const timer = {
        callback,
        delay,
        due: this.now + delay,
        serial: this.#serial++,
        label: `${delay}ms`,
        ref: () => timer,
        unref: () => timer,
        hasRef: () => false,
      }
      this.#timers.add(timer)
      return timer
    }
    globalThis.setTimeout = set as typeof globalThis.setTimeout
    globalThis.clearTimeout = ((timer: unknown) =>
      this.#timers.delete(timer as FakeTimer)) as typeof globalThis.clearTimeout
  }

  uninstall(): void {
    Object.assign(globalThis, this.#real)
  }

  /** In the order in which they are due. */
  pending(): FakeTimer[] {
    return [...this.#timers].sort((x, y) => x.due - y.due || x.serial - y.serial)
  }

  isRetransmission(timer: FakeTimer): boolean {
    return timer.delay === PUMP_FIRST
  }

  fire(timer: FakeTimer): void {
    if (!this.#timers.delete(timer)) return
    this.now = Math.max(this.now, timer.due)
    timer.callback()
  }
}
