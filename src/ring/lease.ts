/** A stretch of the outbox lent to the application to fill. */
import { VmringError } from '../errors.js'

export interface LeaseOwner {
  commitLease(lease: SendLease, length: number): void
  abortLease(lease: SendLease): void
}

export class SendLease {
  /** Fill this; its contents are undefined before. It must not be touched after commit() or abort(). */
  readonly data: Uint8Array
  #owner: LeaseOwner | null

  /** Made by Channel.reserve(). */
  constructor(owner: LeaseOwner, data: Uint8Array) {
    this.#owner = owner
    this.data = data
  }

  /** Sends the first `length` bytes, all of them unless told. Throws ERR_VMRING_LEASE when used up. */
  commit(length: number = this.data.length): void {
    if (!Number.isInteger(length) || length < 0 || length > this.data.length) {
      throw new VmringError(
        'ERR_VMRING_ARGUMENT',
        `commit(length): ${length} is no whole number from 0 to ${this.data.length}, the bytes reserved`,
      )
    }
    this.#take().commitLease(this, length)
  }

  /** Sends nothing. Throws ERR_VMRING_LEASE when used up. */
  abort(): void {
    this.#take().abortLease(this)
  }

  /** Aborts unless committed: `using lease = channel.reserve(n)`. */
  [Symbol.dispose](): void {
    if (this.#owner !== null) this.abort()
  }

  #take(): LeaseOwner {
    const owner = this.#owner
    if (owner === null) {
      throw new VmringError('ERR_VMRING_LEASE', 'this lease is used up; reserve() a new one for each message')
    }
    this.#owner = null
    return owner
  }
}
