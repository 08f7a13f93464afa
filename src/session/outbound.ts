/**
 * The sending half of a session: the end of the current epoch, what has to be sent again after a path change before
 * anything new, the open lease, and the FIN.
 */
import { native } from '../native/binding.js'
import { Kind, Status } from '../native/types.js'
import type { PathEnd } from '../path/path.js'
import type { Session } from './session.js'

export interface PendingRecord {
  kind: number
  total: number
  bytes: Uint8Array
}

const EMPTY = new Uint8Array(0)

export class Outbound {
  /** Native id to send on directly, −1 while sending has to wait or is over. */
  sendId = -1
  /** a send lease is open on this end */
  leaseEnd: PathEnd | null = null
  /** records that have to go out again, in order, before anything new */
  backlog: PendingRecord[] = []
  finWanted = false
  finSent = false
  readonly #session: Session

  constructor(session: Session) {
    this.#session = session
  }

  /** Finds out anew whether sending is possible. */
  update(): void {
    const { state, end, peerClosing } = this.#session
    const open = state === 'open' && !end.path.lost
    const usable = open && this.backlog.length === 0 && !this.finWanted && !peerClosing
    this.sendId = usable ? end.id : -1
  }

  /** Nothing more will be sent. */
  stop(): void {
    this.sendId = -1
    this.backlog = []
  }

  /** 1 or a Status. */
  put(bytes: Uint8Array, kind: number, total: number): number {
    if (this.sendId < 0) return this.refusal()
    return native.endSend(this.sendId, bytes, kind, total)
  }

  putLarge(bytes: Uint8Array): number {
    if (this.sendId < 0) return this.refusal()
    return this.#session.end.large ? this.#session.end.sendLarge(bytes) : Status.TOO_LARGE
  }

  /** Why `sendId` is not there: WOULD_BLOCK passes, CLOSED does not. */
  refusal(): number {
    return this.#session.state === 'closed' || this.finWanted || this.#session.peerClosing
      ? Status.CLOSED
      : Status.WOULD_BLOCK
  }

  /** Asks for onWritable once `length` bytes fit. True: they fit now. While the end is changing, onWritable comes by itself. */
  wantSpace(length: number): boolean {
    return this.sendId >= 0 && native.endWantSpace(this.sendId, length)
  }

  reserve(length: number): number {
    if (this.leaseEnd !== null) return Status.LEASE
    if (this.sendId < 0) return this.refusal()
    const offset = native.endReserve(this.sendId, length)
    // @step send: reserved
    if (offset >= 0) this.leaseEnd = this.#session.end
    return offset
  }

  /** Publishes the open lease: on its own end, or, when that has been retired meanwhile, after the backlog of the next. */
  commitLease(data: Uint8Array, length: number): number {
    const end = this.leaseEnd
    if (end === null) return Status.LEASE
    this.leaseEnd = null
    // @step send: lease given
    if (end === this.#session.end && this.#session.state === 'open') return native.endCommit(end.id, length)
    if (this.#session.state === 'closed') {
      this.#closeLease(end)
      return Status.CLOSED
    }
    this.backlog.push({ kind: Kind.DATA, total: 0, bytes: data.slice(0, length) })
    this.#closeLease(end)
    if (this.#session.state === 'open') this.drain()
    this.update()
    return 1
  }

  abortLease(): number {
    const end = this.leaseEnd
    if (end === null) return Status.LEASE
    this.leaseEnd = null
    if (end === this.#session.end && this.#session.state === 'open') return native.endAbort(end.id)
    this.#closeLease(end)
    return 1
  }

  #closeLease(end: PathEnd): void {
    if (end.id >= 0) native.endAbort(end.id)
    this.#session.retired.leaseClosed(end)
  }

  /** Sends the backlog again, as far as there is room. */
  drain(): void {
    const { end } = this.#session
    let done = 0
    while (done < this.backlog.length) {
      const { kind, total, bytes } = this.backlog[done]!
      if (kind === Kind.LARGE || bytes.length > end.inlineLimit) {
        this.backlog.splice(done, 1, ...fragments(bytes, end.inlineLimit))
        continue
      }
      const status = native.endSend(end.id, bytes, kind, total)
      if (status > 0) done++
      else if (status !== Status.WOULD_BLOCK || !native.endWantSpace(end.id, bytes.length + 8)) break
    }
    this.backlog.splice(0, done)
    if (this.backlog.length === 0) {
      this.update()
      this.#session.maybeClose()
    }
  }

  /** Puts the last record of this direction, once everything else is in the ring. */
  putFin(): void {
    if (this.finSent || this.leaseEnd !== null) return
    for (;;) {
      const status = native.endSend(this.#session.end.id, EMPTY, Kind.FIN, 0)
      if (status > 0) {
        this.finSent = true
        // @step close: FIN put
        this.#session.maybeClose()
        return
      }
      if (status !== Status.WOULD_BLOCK || !native.endWantSpace(this.#session.end.id, 8)) return
    }
  }
}

/** Cuts a message that no longer fits in one record. */
export function fragments(bytes: Uint8Array, inlineLimit: number): PendingRecord[] {
  const step = inlineLimit - 8
  const records: PendingRecord[] = []
  for (let at = 0; at < bytes.length; at += step) {
    const last = at + step >= bytes.length
    records.push({
      kind: last ? Kind.FRAG_LAST : Kind.FRAG,
      total: at === 0 ? bytes.length : 0,
      bytes: bytes.subarray(at, at + step),
    })
  }
  return records
}
