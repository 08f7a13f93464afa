import { native } from '../native/binding.js'
import type { FdSocket } from '../native/socket-types.js'
import type { IdLease } from './ids.js'

/** Messages for one client sent in one go, before the event loop has its turn. */
const MESSAGES_PER_TURN = 256

/** Descriptors that several queues refer to. They are closed when the last reference has gone. */
export class SharedFds {
  readonly fds: readonly number[]
  #references = 1

  constructor(fds: readonly number[]) {
    this.fds = fds
  }

  retain(): void {
    this.#references++
  }

  release(): void {
    if (--this.#references > 0) return
    for (const fd of this.fds) native.closeFd(fd)
  }
}

/** New eventfds, one per vector. Throws EMFILE and the like, and keeps none then. */
export function createEventfds(vectors: number): SharedFds {
  const fds: number[] = []
  try {
    while (fds.length < vectors) fds.push(native.eventfd())
  } catch (error) {
    for (const fd of fds) native.closeFd(fd)
    throw error
  }
  return new SharedFds(fds)
}

/** `value` once with each descriptor, or once alone. The same object stands in the queues of all clients. */
export interface Announcement {
  readonly value: number
  readonly fds: SharedFds | null
}

/**
 * One connected client and its queue. What the socket does not take waits here, with a reference to the descriptors, so a
 * client that does not read delays nobody and misses nothing, even about peers that have come and gone meanwhile.
 */
export class Client {
  readonly socket: FdSocket
  readonly lease: IdLease
  /** its own eventfds */
  readonly eventfds: SharedFds
  /** null: no section was free, it has no entry in the peer table */
  readonly seat: { section: number; generation: number } | null
  readonly since = Date.now()
  /** set when the daemon has decided to close it; nothing is queued any more */
  doomed = false
  /** how many messages may wait before the daemon gives this client up */
  limit = Number.POSITIVE_INFINITY
  /** 8-byte messages that wait in the queue */
  queued = 0
  sent = 0
  #queue: Announcement[] = []
  #head = 0
  /** position within the announcement at the head */
  #vector = 0
  #blocked = false

  constructor(socket: FdSocket, lease: IdLease, eventfds: SharedFds, seat: Client['seat']) {
    this.socket = socket
    this.lease = lease
    this.eventfds = eventfds
    this.seat = seat
  }

  get id(): number {
    return this.lease.id
  }

  push(announcement: Announcement): void {
    if (this.doomed) return
    announcement.fds?.retain()
    this.#queue.push(announcement)
    this.queued += announcement.fds?.fds.length ?? 1
    if (!this.#blocked) this.flush()
  }

  /** Sends until the socket is full, but never so much that others wait. */
  flush(): void {
    this.#blocked = false
    for (let budget = MESSAGES_PER_TURN; this.#head < this.#queue.length; budget--) {
      const { value, fds } = this.#queue[this.#head]!
      if (budget === 0 || !this.socket.send(value, fds?.fds[this.#vector] ?? -1)) {
        this.#blocked = true
        this.socket.wantWritable()
        break
      }
      this.sent++
      this.queued--
      if (++this.#vector < (fds?.fds.length ?? 1)) continue
      this.#vector = 0
      this.#head++
      fds?.release()
    }
    this.#compact()
  }

  /** Closes the socket and drops what is queued. */
  destroy(): void {
    this.doomed = true
    this.socket.close()
    for (let i = this.#head; i < this.#queue.length; i++) this.#queue[i]!.fds?.release()
    this.#queue = []
    this.#head = 0
    this.queued = 0
    this.eventfds.release()
  }

  #compact(): void {
    if (this.#head === this.#queue.length) {
      this.#queue.length = 0
      this.#head = 0
    } else if (this.#head >= 1024 && this.#head * 2 >= this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head)
      this.#head = 0
    }
  }
}
