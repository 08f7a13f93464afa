/** What a transport has to offer to be measured. A module of one's own can be named in place of a transport (docs/guides/bench.md). */
import type { Channel } from '../../index.js'
import type { Checker } from './content.js'
import type { Job } from './job.js'

/** One conversation. */
export interface Link {
  /**
   * Sends one message. 1: accepted; 0: accepted, but wait for onDrain before the next; −1: not accepted, try again after
   * onDrain. The bytes may be used again once `pool()` − 1 further messages were accepted, or after onDrain.
   */
  send(bytes: Uint8Array): number
  onDrain: () => void
  /** how many buffers of that size the one who sends has to use in turn */
  pool(size: number): number
  /** Begins to hand what arrives to the checker. */
  receive(checker: Checker): void
  close(): Promise<void> | void
  /** memory to fill in place */
  reserve?(size: number): { data: Uint8Array; commit(): void } | null
  /** vmring's own: for the interfaces that only it has */
  readonly channel?: Channel
}

export interface Acceptor {
  /** for connect() on the other side */
  readonly address: string
  /** the links in the order in which they were opened */
  accept(): Promise<Link>
  close(): Promise<void> | void
}

/** Where a run takes place. */
export interface Site {
  job: Job
  /** of the bench's own, for sockets; null between machines */
  directory: string | null
  /** of service names, so that runs do not meet */
  prefix: string
}

export interface Transport {
  listen(site: Site): Promise<Acceptor>
  connect(site: Site, address: string): Promise<Link>
}

/** Hands out what arrives in the order of arrival, to whoever asks. */
export class Queue<T> {
  readonly #items: T[] = []
  readonly #askers: ((item: T) => void)[] = []

  push(item: T): void {
    const asker = this.#askers.shift()
    if (asker === undefined) this.#items.push(item)
    else asker(item)
  }

  next(): Promise<T> {
    const item = this.#items.shift()
    return item === undefined ? new Promise((resolve) => this.#askers.push(resolve)) : Promise.resolve(item)
  }
}
