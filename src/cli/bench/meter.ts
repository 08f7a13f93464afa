/** When a run begins to count, when it is over, and what was measured in between. */
import { build, encodeIntoCompressedBase64, type Histogram } from 'hdr-histogram-js'
import type { Job } from './job.js'

const CHUNK = 65_536
const PER_MS = 1e6
/** A warm-up with pauses begins without them: the engine compiles what runs often, and pauses leave it nothing that does. */
const LIVELY_SHARE = 4
const MOST_LIVELY_MS = 500

/** Three significant digits, up to an hour. */
export function newHistogram(): Histogram {
  return build({
    bitBucketSize: 64,
    numberOfSignificantValueDigits: 3,
    lowestDiscernibleValue: 1,
    highestTrackableValue: 3_600_000_000_000,
  })
}

export class Meter {
  samples = 0
  measuring = false
  /** of performance.now() */
  startedAt = 0
  endedAt = 0
  readonly #job: Job
  readonly #onMeasure: () => void
  readonly #histogram = newHistogram()
  // What the clock said is kept as it is, and sorted into the histogram now and then: between two samples, not within one.
  readonly #chunk = new Float64Array(CHUNK)
  #filled = 0
  #edge = Number.POSITIVE_INFINITY
  #lively = 0

  constructor(job: Job, onMeasure: () => void) {
    this.#job = job
    this.#onMeasure = onMeasure
  }

  begin(now: number): void {
    this.#edge = now + this.#job.warmup
    this.#lively = now + Math.min(this.#job.warmup / LIVELY_SHARE, MOST_LIVELY_MS)
    if (this.#job.warmup === 0) this.tick(now)
  }

  /** The pause before the next message, ms: before the measured time none at first, then no longer than until it begins. */
  pause(now: number): number {
    const { idleGap } = this.#job
    if (this.measuring || idleGap === 0) return idleGap
    return now < this.#lively ? 0 : Math.max(1, Math.min(idleGap, this.#edge - now))
  }

  /** False: the run is over. Costs one comparison most of the time. */
  tick(now: number): boolean {
    if (now < this.#edge) return true
    if (this.measuring) {
      // a run without a single sample says nothing
      if (this.samples === 0 && now < this.#edge + this.#job.idleGap + this.#job.duration) return true
      this.endedAt = now
      return false
    }
    this.measuring = true
    this.startedAt = now
    this.#edge = now + this.#job.duration
    this.#onMeasure()
    return true
  }

  /** A round trip in milliseconds. */
  record(milliseconds: number): void {
    if (!this.measuring) return
    this.samples++
    this.#chunk[this.#filled++] = milliseconds
    if (this.#filled === CHUNK) this.#flush()
  }

  /** For tests that count and take no times. */
  count(): void {
    if (this.measuring) this.samples++
  }

  #flush(): void {
    for (let i = 0; i < this.#filled; i++) {
      this.#histogram.recordValue(Math.max(1, Math.round(this.#chunk[i]! * PER_MS)))
    }
    this.#filled = 0
  }

  get seconds(): number {
    return (this.endedAt - this.startedAt) / 1000
  }

  encoded(): string {
    this.#flush()
    return encodeIntoCompressedBase64(this.#histogram)
  }
}
