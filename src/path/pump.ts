/**
 * The frame pump: paths that copy. The application's end (`near`) and the pump's end (`far`) lie back to back in private
 * memory; the pump moves records from near's outbox onto a wire and from the wire into near's inbox.
 *
 * A record stays in the outbox until the other application has released it, so the outbox is the retransmission buffer
 * (go-back-N), and the other inbox has room for whatever the outbox holds: both rings have the same capacity and hold
 * the same records. On a wire that loses nothing the timers never run.
 *
 * Sequence numbers are unsigned 32-bit and compared by distance:
 *
 *   remoteReleased <= acked <= sent     what the other application released, what its inbox has, what went out
 *   cursor                              next record that endReceive(far) gives; behind `acked` after a rewind
 *   expected                            next record for the own inbox
 */
import { watchPairs } from '../ring/ends.js'
import { ACK_BODY, DATA_BODY, FRAME_VERSION, FrameType, HEADER_BYTES } from './frames.js'
import {
  CHANNEL_ID_BYTES,
  type EndSpec,
  type Path,
  type PathEnd,
  type PathEvents,
  type PeerRef,
} from './path.js'
import { endKey, PumpEnd } from './pump-end.js'

/** What a pump needs of a connection. Frames keep their borders; order and arrival are not needed. */
export interface Wire {
  readonly name: string
  /** true when frames arrive exactly once and in order: nothing is ever sent again */
  readonly reliable: boolean
  /**
   * Sends head and payload as one frame. The head is the caller's again when this returns. The payload is a view of the outbox: it stays as it is until the wire is lost or
   * the other side has it. False: accepted, but wait for onWritable before the next record.
   */
  send(head: Uint8Array, payload: Uint8Array | null): boolean
  /** Says with as little as possible that there is something to look at elsewhere. */
  ring?(): void
  events: WireEvents | null
  close(): void
}

export interface WireEvents {
  /** One frame; the bytes are only looked at during the call. */
  onFrame(frame: Uint8Array): void
  onWritable(): void
  /**
   * The beginning of a DATA frame of `length` bytes, at least DATA_OVERHEAD of them. Returns where the rest of its payload is to be
   * put, or null when nobody wants it. No other frame may come before onWhole(), or the wire is lost.
   */
  onPart(frame: Uint8Array, length: number): Uint8Array | null
  /** The rest stands where onPart() said. */
  onWhole(): void
  /** The other side asks to be looked at. */
  onBell?(): void
  onLost(error: Error): void
}

export interface FramePathOptions {
  /** bytes of each ring that new channels get */
  capacity?: number
  /** first and longest retransmission interval, ms */
  retryFirst?: number
  retryMax?: number
  allows?: (service: string) => boolean
}

/** How long an acknowledgement waits for company on a wire that loses nothing. */
const LAZY_ACK_MS = 2
/** Longest session frame on a wire, bytes; DATA may be longer. */
export const MAX_SESSION_FRAME = 2048
export class FramePath implements Path {
  readonly name: string
  readonly remote: PeerRef
  readonly keepsOutbox = true
  readonly maxFrame = MAX_SESSION_FRAME
  stalled = false
  lost = false
  congested = false
  events: PathEvents | null = null
  readonly allows?: (service: string) => boolean
  /** the other side has rung on this wire */
  onBell: (() => void) | null = null
  readonly retryFirst: number
  readonly retryMax: number
  readonly #wire: Wire
  readonly #capacity: number
  readonly #ends = new Map<string, PumpEnd>()
  readonly #acksDue = new Set<PumpEnd>()
  #ackTurn: NodeJS.Immediate | null = null
  #ackTimer: NodeJS.Timeout | null = null
  /** where the last frame went, and where the rest of a frame is going */
  #last: PumpEnd | null = null
  #filling: PumpEnd | null = null

  constructor(wire: Wire, remote: PeerRef, options: FramePathOptions = {}) {
    watchPairs()
    this.name = wire.name
    this.remote = remote
    if (options.allows !== undefined) this.allows = options.allows
    this.#wire = wire
    this.#capacity = options.capacity ?? 256 * 1024
    this.retryFirst = options.retryFirst ?? 50
    this.retryMax = options.retryMax ?? 1000
    wire.events = {
      onFrame: (frame) => this.#onFrame(frame),
      onPart: (frame, length) => this.#onPart(frame, length),
      onWhole: () => {
        const end = this.#filling
        this.#filling = null
        end?.endData()
      },
      onBell: () => this.onBell?.(),
      onWritable: () => this.#onWritable(),
      onLost: (error) => this.close(error),
    }
  }

  get reliable(): boolean {
    return this.#wire.reliable
  }

  defaultCapacity(): number {
    return this.#capacity
  }

  send(frame: Uint8Array): void {
    if (!this.lost) this.transmit(frame, null)
  }

  transmit(head: Uint8Array, payload: Uint8Array | null): void {
    if (this.#wire.send(head, payload) || this.congested) return
    this.congested = true
    for (const end of this.#ends.values()) end.pause(true)
  }

  createEnd(spec: EndSpec): PathEnd {
    const end = new PumpEnd(this, spec)
    this.#ends.set(end.key, end)
    return end
  }

  /** Asks the other side to look at the memory that both share. False: this wire cannot carry that. */
  ring(): boolean {
    if (this.lost || this.#wire.ring === undefined) return false
    this.#wire.ring()
    return true
  }

  /** Tells the sessions that this path is gone; their outboxes stay. */
  close(error: Error): void {
    if (this.lost) return
    this.lost = true
    this.#wire.close()
    this.#stopAcks()
    for (const end of this.#ends.values()) end.halt()
    this.events?.onLost(this, error)
  }

  forget(end: PumpEnd): void {
    this.#ends.delete(end.key)
    this.#acksDue.delete(end)
    if (this.#last === end) this.#last = null
    if (this.#filling === end) this.#filling = null
  }

  /** The ends take turns: each goes to the back once it has been let on. */
  #onWritable(): void {
    this.congested = false
    if (this.#acksDue.size > 0) this.#acknowledge()
    for (const end of [...this.#ends.values()]) {
      if (this.congested) return
      if (this.#ends.delete(end.key)) this.#ends.set(end.key, end)
      end.pause(false)
    }
  }

  /**
   * Acknowledgements of one loop turn go out together; those that nobody waits for wait themselves, for a DATA frame that
   * takes them along. On a wire that is full all wait, and each takes the place of the last.
   */
  acknowledgeSoon(end: PumpEnd, urgent = true): void {
    this.#acksDue.add(end)
    if (this.congested) return
    if (urgent) this.#acknowledge()
    else this.#ackTimer ??= setTimeout(() => this.#sendAcks(), LAZY_ACK_MS).unref()
  }

  #acknowledge(): void {
    this.#ackTurn ??= setImmediate(() => this.#sendAcks())
  }

  #sendAcks(): void {
    this.#stopAcks()
    if (this.congested || this.lost) return
    const due = [...this.#acksDue]
    this.#acksDue.clear()
    for (const one of due) one.sendAck()
  }

  #stopAcks(): void {
    if (this.#ackTurn !== null) clearImmediate(this.#ackTurn)
    if (this.#ackTimer !== null) clearTimeout(this.#ackTimer)
    this.#ackTurn = null
    this.#ackTimer = null
  }

  acknowledged(end: PumpEnd): void {
    this.#acksDue.delete(end)
  }

  #onFrame(frame: Uint8Array): void {
    if (this.lost || frame.length < HEADER_BYTES || frame[0] !== FRAME_VERSION) return
    const type = frame[1]
    if (type !== FrameType.DATA && type !== FrameType.ACK) {
      this.events?.onFrame(this, frame)
      return
    }
    const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength)
    const body = view.getUint32(32, true)
    if (body > frame.length - HEADER_BYTES) return
    const end = this.#find(frame, view)
    if (end === null) return
    const flags = view.getUint16(2, true)
    if (type === FrameType.ACK && body >= ACK_BODY) end.onAck(view, flags)
    else if (type === FrameType.DATA && body >= DATA_BODY) {
      end.onData(view, flags, frame.subarray(HEADER_BYTES + DATA_BODY, HEADER_BYTES + body))
    }
  }

  #onPart(frame: Uint8Array, length: number): Uint8Array | null {
    if (this.lost) return null
    const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength)
    const end = this.#find(frame, view)
    if (end === null) return null
    const rest = end.beginData(
      view,
      view.getUint16(2, true),
      frame.subarray(HEADER_BYTES + DATA_BODY),
      length - HEADER_BYTES - DATA_BODY,
    )
    if (rest !== null) this.#filling = end
    return rest
  }

  /** Frames come in runs for one end: its name is compared before it is looked up. */
  #find(frame: Uint8Array, view: DataView): PumpEnd | null {
    const epoch = view.getUint32(4, true)
    if (this.#last?.isNamed(view, epoch) === true) return this.#last
    const end = this.#ends.get(endKey(frame.subarray(8, 8 + CHANNEL_ID_BYTES), epoch))
    if (end === undefined) return null
    this.#last = end
    return end
  }
}
