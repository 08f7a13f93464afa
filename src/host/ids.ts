/**
 * Peer ids: 0 to 65535, and none comes back while a connected client was ever told of it (QEMU writes to freed memory
 * when it does).
 *
 * Every client is told of everybody who is there when it joins and of everybody who joins later. So a client knows an id
 * that has left exactly when it joined before that id left, and the whole question "who knows this id" is one comparison:
 * the moment the id was given back against the joining moment of the oldest client that is connected. Ids are given back
 * in time order, so only the head of a queue is ever looked at.
 */

const ALL_IDS = 65536

export interface IdLease {
  readonly id: number
  /** moment of joining, on the allocator's own clock */
  readonly since: number
}

export class PeerIds {
  readonly #limit: number
  #fresh = 0
  /** ticks at every join and every leave */
  #clock = 0
  /** connected clients by joining moment; the first one is the oldest */
  readonly #connected = new Map<number, IdLease>()
  // ids given back, oldest first: a circular queue
  readonly #ids: Uint16Array
  readonly #leftAt: Float64Array
  #head = 0
  #count = 0

  /** @param limit number of ids, for tests; the protocol has 65,536 */
  constructor(limit = ALL_IDS) {
    this.#limit = limit
    this.#ids = new Uint16Array(limit)
    this.#leftAt = new Float64Array(limit)
  }

  /** An id for a new client; null when every id is in use or known to somebody who is connected. */
  join(): IdLease | null {
    const id = this.#fresh < this.#limit ? this.#fresh++ : this.#takeOld()
    if (id === -1) return null
    const lease = { id, since: ++this.#clock }
    this.#connected.set(lease.since, lease)
    return lease
  }

  /** The client is gone. A lease is given back once. */
  leave(lease: IdLease): void {
    if (!this.#connected.delete(lease.since)) return
    const at = (this.#head + this.#count++) % this.#limit
    this.#ids[at] = lease.id
    this.#leftAt[at] = ++this.#clock
  }

  /** How many more clients could join now. */
  available(): number {
    const oldest = this.#oldest()
    // times in the queue ascend
    let low = 0
    let high = this.#count
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#leftAt[(this.#head + middle) % this.#limit]! < oldest) low = middle + 1
      else high = middle
    }
    return this.#limit - this.#fresh + low
  }

  #oldest(): number {
    for (const since of this.#connected.keys()) return since
    return Number.POSITIVE_INFINITY
  }

  #takeOld(): number {
    if (this.#count === 0 || this.#leftAt[this.#head]! > this.#oldest()) return -1
    const id = this.#ids[this.#head]!
    this.#head = (this.#head + 1) % this.#limit
    this.#count--
    return id
  }
}
