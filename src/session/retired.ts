/**
 * Ends that a channel no longer uses, from closings and path changes. Each one stays until nobody looks at it any more:
 * the own application has given its last lease back, and, where the other side reads our outbox in place, it has said
 * RETIRE for that epoch. The owner asks until it is told; a side that never knew the epoch says so at once.
 */
import { native } from '../native/binding.js'
import { encodeFrame, Flag, FrameType } from '../path/frames.js'
import type { Path, PathEnd } from '../path/path.js'
import { Repeat, type Timing } from './repeat.js'

interface Retired {
  epoch: number
  end: PathEnd
  remoteDone: boolean
  told: boolean
  /** an open send lease still writes here */
  leased: boolean
}

export interface RetiredOwner {
  readonly id: Uint8Array
  sendControl(frame: Uint8Array): void
  /** the last end has gone */
  onAllRetired(): void
}

export class RetiredEnds {
  readonly #owner: RetiredOwner
  readonly #asking: Repeat
  #ends: Retired[] = []

  constructor(owner: RetiredOwner, timing: Timing) {
    this.#owner = owner
    this.#asking = new Repeat(timing)
  }

  get size(): number {
    return this.#ends.length
  }

  /** The other side has not said of all of them that it is done. */
  get remotePending(): boolean {
    return this.#ends.some((retired) => !retired.remoteDone)
  }

  add(epoch: number, end: PathEnd, leased: boolean): void {
    end.events = null
    const retired = { epoch, end, remoteDone: !end.shared || end.path.lost, told: false, leased }
    this.#ends.push(retired)
    end.onRelease = () => this.#check(retired)
    this.#check(retired)
    if (!retired.remoteDone && !this.#asking.running) this.#asking.start(() => this.#ask())
  }

  /** The lease that was open when `end` was retired has been given back. */
  leaseClosed(end: PathEnd): void {
    const retired = this.#ends.find((r) => r.end === end)
    if (retired === undefined) return
    retired.leased = false
    this.#check(retired)
  }

  /** RETIRE with DONE: the other side is through with the ring of that epoch. */
  onDone(epoch: number): void {
    const retired = this.#ends.find((r) => r.epoch === epoch)
    if (retired === undefined) return
    retired.remoteDone = true
    this.#check(retired)
  }

  /** RETIRE as a question. True: it is about one of these, and answered as soon as that is possible. */
  onAsked(epoch: number): boolean {
    const retired = this.#ends.find((r) => r.epoch === epoch)
    if (retired === undefined) return false
    retired.told = false
    this.#check(retired)
    return true
  }

  onPathLost(path: Path): void {
    for (const retired of [...this.#ends]) {
      if (retired.end.path !== path) continue
      retired.remoteDone = true
      this.#check(retired)
    }
  }

  /** The other process is gone: nobody reads, nobody answers. */
  destroyAll(): void {
    const ends = this.#ends
    this.#ends = []
    this.#asking.stop()
    for (const { end, leased } of ends) end.destroy(leased)
  }

  #idle(retired: Retired): boolean {
    return !retired.leased && native.endIdle(retired.end.id)
  }

  #check(retired: Retired): void {
    if (retired.end.id < 0 || !this.#idle(retired)) return
    if (retired.end.shared && !retired.told) {
      retired.told = true
      this.#say(retired.epoch, Flag.DONE)
      // @step retire: answered
    }
    if (!retired.remoteDone) return
    this.#ends = this.#ends.filter((r) => r !== retired)
    retired.end.destroy()
    // @step retire: memory free
    if (!this.#ends.some((r) => !r.remoteDone)) this.#asking.stop()
    if (this.#ends.length === 0) this.#owner.onAllRetired()
  }

  #ask(): void {
    for (const retired of this.#ends) if (!retired.remoteDone) this.#say(retired.epoch, 0)
    // @step retire: asked
  }

  #say(epoch: number, flags: number): void {
    this.#owner.sendControl(encodeFrame({ type: FrameType.RETIRE, flags, epoch, channel: this.#owner.id }))
  }
}
