/** One side of a run: what it measures with, and what it counts. */
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises'
import type { Checker, Writer } from './content.js'
import type { Control } from './control.js'
import type { Job, SideReport } from './job.js'
import type { Link } from './link.js'
import type { PeerSource } from './shm-link.js'

/** After so long without anything, what is missing is lost. */
export const PATIENCE_MS = 2000

export class Side {
  readonly job: Job
  readonly link: Link
  readonly writer: Writer
  readonly checker: Checker
  readonly control: Control
  readonly #source: PeerSource
  /** processor time is that of the process, which two threads share */
  readonly #countsProcessor: boolean
  #begin = { cpu: 0, doorbells: 0, suppressed: 0 }

  constructor(
    job: Job,
    parts: { link: Link; writer: Writer; checker: Checker; control: Control },
    source: PeerSource,
    countsProcessor: boolean,
  ) {
    this.job = job
    this.link = parts.link
    this.writer = parts.writer
    this.checker = parts.checker
    this.control = parts.control
    this.#source = source
    this.#countsProcessor = countsProcessor
  }

  #usage() {
    const { user, system } = this.#countsProcessor ? process.cpuUsage() : { user: 0, system: 0 }
    const { doorbells, suppressed } = this.#source.peer?.counters() ?? { doorbells: 0, suppressed: 0 }
    return { cpu: (user + system) / 1e6, doorbells, suppressed }
  }

  /** The measured time begins. */
  mark(): void {
    this.#begin = this.#usage()
  }

  report(): SideReport {
    const { cpu, doorbells, suppressed } = this.#usage()
    const { received, reordered, duplicated, changed } = this.checker
    return {
      ...{ received, reordered, duplicated, changed },
      sent: this.writer.sent,
      cpuSeconds: cpu - this.#begin.cpu,
      ...(this.#source.peer !== null && {
        doorbells: doorbells - this.#begin.doorbells,
        suppressed: suppressed - this.#begin.suppressed,
      }),
    }
  }

  /** Waits until that many messages have arrived, or nothing comes any more. */
  async settle(count: number): Promise<void> {
    const { checker } = this
    let seen = -1
    let until = 0
    while (checker.received < count) {
      const now = performance.now()
      if (checker.received !== seen) {
        seen = checker.received
        until = now + PATIENCE_MS
      } else if (now > until) {
        return
      }
      await (now < until - PATIENCE_MS + 10 ? turn() : sleep(5))
    }
  }
}
