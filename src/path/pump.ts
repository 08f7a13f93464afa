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
import { type RecordCounts, VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import { Kind, Ready, Status } from '../native/types.js'
import { unwatchEnd, watchEnd, watchPairs } from '../ring/ends.js'
import { ACK_BODY, DATA_BODY, Flag, FrameType, HEADER_BYTES, readHeader, writeHeader } from './frames.js'
import type { EndEvents, EndSpec, Path, PathEnd, PathEvents, PeerRef } from './path.js'

/** What a pump needs of a connection. Frames keep their borders; order and arrival are not needed. */
export interface Wire {
  readonly name: string
  /** true when frames arrive exactly once and in order: nothing is ever sent again */
  readonly reliable: boolean
  /**
   * Sends head and payload as one frame. The payload is a view of the outbox: it stays as it is until the wire is lost or
   * the other side has it. False: accepted, but wait for onWritable before the next record.
   */
  send(head: Uint8Array, payload: Uint8Array | null): boolean
  events: WireEvents | null
  close(): void
}

export interface WireEvents {
  /** One frame; the bytes are only looked at during the call. */
  onFrame(frame: Uint8Array): void
  onWritable(): void
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

const MAX_SESSION_FRAME = 2048
const RECORDS_PER_TURN = 256
const EMPTY = new Uint8Array(0)

const before = (a: number, b: number): boolean => ((a - b) | 0) < 0

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
  readonly retryFirst: number
  readonly retryMax: number
  readonly #wire: Wire
  readonly #capacity: number
  readonly #ends = new Map<string, PumpEnd>()
  readonly #acksDue = new Set<PumpEnd>()
  #ackTurn: NodeJS.Immediate | null = null

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
      onWritable: () => {
        this.congested = false
        for (const end of this.#ends.values()) end.pause(false)
      },
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

  /** Tells the sessions that this path is gone; their outboxes stay. */
  close(error: Error): void {
    if (this.lost) return
    this.lost = true
    this.#wire.close()
    if (this.#ackTurn !== null) clearImmediate(this.#ackTurn)
    for (const end of this.#ends.values()) end.halt()
    this.events?.onLost(this, error)
  }

  forget(end: PumpEnd): void {
    this.#ends.delete(end.key)
    this.#acksDue.delete(end)
  }

  /** Acknowledgements of one loop turn go out together. */
  acknowledgeSoon(end: PumpEnd): void {
    this.#acksDue.add(end)
    this.#ackTurn ??= setImmediate(() => {
      this.#ackTurn = null
      const due = [...this.#acksDue]
      this.#acksDue.clear()
      for (const one of due) one.sendAck()
    })
  }

  acknowledged(end: PumpEnd): void {
    this.#acksDue.delete(end)
  }

  #onFrame(frame: Uint8Array): void {
    if (this.lost) return
    const header = readHeader(frame)
    if (header === null) return
    const { type } = header
    if (type !== FrameType.DATA && type !== FrameType.ACK) {
      this.events?.onFrame(this, frame)
      return
    }
    const end = this.#ends.get(endKey(header.channel, header.epoch))
    if (end === undefined) return
    const body = header.end - HEADER_BYTES
    if (type === FrameType.ACK && body >= ACK_BODY) end.onAck(header.view, header.flags)
    else if (type === FrameType.DATA && body >= DATA_BODY) {
      end.onData(header.view, header.flags, frame.subarray(HEADER_BYTES + DATA_BODY, header.end))
    }
  }
}

function endKey(channel: Uint8Array, epoch: number): string {
  return `${Buffer.from(channel.buffer, channel.byteOffset, channel.byteLength).toString('latin1')}:${epoch}`
}

class PumpEnd implements PathEnd {
  readonly key: string
  readonly path: FramePath
  readonly offer: Uint8Array = EMPTY
  readonly large = false
  readonly blocking = false
  readonly shared = false
  readonly buffer: ArrayBuffer
  readonly capacity: number
  readonly inlineLimit: number
  id: number
  retained = 0
  onRelease: (() => void) | null = null
  events: EndEvents | null = null
  #channel: Uint8Array
  #epoch: number
  #far: number
  #running = false
  #blocked = false
  #gap = false
  #cursor = 0
  #sent = 0
  #acked = 0
  #remoteNext = 0
  #remoteReleased = 0
  #expected = 0
  /** what the own application has delivered and released, as of the last look */
  #next = 0
  #released = 0
  #looked = true
  #rewoundAt = -1
  #timer: NodeJS.Timeout | null = null
  #interval: number
  #progress = false

  constructor(path: FramePath, spec: EndSpec) {
    this.path = path
    this.capacity = spec.capacity
    this.inlineLimit = spec.capacity / 4
    this.#channel = spec.channel
    this.#epoch = spec.epoch
    this.key = endKey(spec.channel, spec.epoch)
    this.#interval = path.retryFirst
    const pair = native.createPair(spec.capacity, 0, 0)
    this.id = pair.near
    this.#far = pair.far
    this.buffer = pair.buffer
    this.onRelease = this.released
    watchEnd(pair.near, (bits) => {
      if ((bits & Ready.FAULT) !== 0) this.#fail(native.endFault(this.id))
      if ((bits & Ready.READABLE) !== 0) this.events?.onReadable()
      if ((bits & Ready.WRITABLE) !== 0) this.events?.onWritable()
    })
    watchEnd(pair.far, (bits) => {
      if ((bits & Ready.FAULT) !== 0) this.#fail(native.endFault(this.#far))
      if ((bits & Ready.READABLE) !== 0) this.pumpOut()
      if ((bits & Ready.WRITABLE) !== 0) this.#unblock()
    })
  }

  attach(_offer: Uint8Array): void {
    this.#running = true
    this.pumpOut()
  }

  /** The application has released something: the other side wants to know. */
  readonly released = (): void => {
    this.#looked = false
    if (this.#running) this.path.acknowledgeSoon(this)
  }

  pumpOut(): void {
    if (!this.#running || this.path.lost) return
    this.#skip()
    // What is left over is reported again in the next turn.
    for (let budget = RECORDS_PER_TURN; budget > 0 && !this.path.congested; budget--) {
      const kind = native.endReceive(this.#far)
      if (kind <= 0) {
        if (kind < 0) this.#fail(native.endFault(this.#far))
        break
      }
      const { scratch } = native
      this.#cursor = (scratch[2]! + 1) >>> 0
      this.#sendRecord(kind, scratch[0]!, scratch[1]!, scratch[2]!, scratch[3]!)
      if (before(this.#sent, this.#cursor)) this.#sent = this.#cursor
    }
    this.#armTimer()
  }

  /** The wire takes no more for now, or takes more again. */
  pause(paused: boolean): void {
    if (!this.#running) return
    native.endWantReadable(this.#far, !paused)
    if (!paused) this.pumpOut()
  }

  /** Passes over records that the other inbox already has. */
  #skip(): void {
    while (before(this.#cursor, this.#acked)) {
      if (native.endReceive(this.#far) <= 0) return
      this.#cursor = (native.scratch[2]! + 1) >>> 0
    }
  }

  #sendRecord(kind: number, offset: number, length: number, sequence: number, total: number): void {
    const first = total > 0
    const head = new Uint8Array(HEADER_BYTES + DATA_BODY + (first ? 8 : 0))
    const body = head.length - HEADER_BYTES + length
    this.#look()
    const view = writeHeader(head, FrameType.DATA, first ? Flag.FIRST : 0, this.#epoch, this.#channel, body)
    view.setUint32(40, sequence, true)
    view.setUint32(44, this.#released, true)
    view.setUint32(48, this.#expected, true)
    view.setUint32(52, this.#next, true)
    head[56] = kind
    if (first) {
      view.setUint32(60, total >>> 0, true)
      view.setUint32(64, Math.floor(total / 2 ** 32), true)
    }
    this.path.acknowledged(this)
    this.path.transmit(head, length > 0 ? new Uint8Array(this.buffer, offset, length) : null)
  }

  #look(): void {
    if (this.#looked) return
    this.#looked = true
    const counters = native.endCounters(this.#far)
    this.#next = counters.remoteNext
    this.#released = counters.remoteReleased
  }

  sendAck(flags = 0): void {
    if (!this.#running || this.path.lost) return
    this.#looked = false
    this.#look()
    const frame = new Uint8Array(HEADER_BYTES + ACK_BODY)
    const gap = this.#gap ? Flag.GAP : 0
    const view = writeHeader(frame, FrameType.ACK, flags | gap, this.#epoch, this.#channel, ACK_BODY)
    this.#gap = false
    view.setUint32(40, this.#expected, true)
    view.setUint32(44, this.#next, true)
    view.setUint32(48, this.#released, true)
    this.path.transmit(frame, null)
  }

  onAck(view: DataView, flags: number): void {
    if (!this.#running) return
    const expected = view.getUint32(40, true)
    if (!this.#learn(expected, view.getUint32(44, true), view.getUint32(48, true))) return
    if ((flags & Flag.ASK) !== 0) this.path.acknowledgeSoon(this)
    if ((flags & Flag.GAP) === 0 || expected !== this.#acked || this.#rewoundAt === expected) return
    this.#rewoundAt = expected
    this.#rewind()
  }

  onData(view: DataView, flags: number, payload: Uint8Array): void {
    if (!this.#running) return
    const sequence = view.getUint32(40, true)
    if (!this.#learn(view.getUint32(48, true), view.getUint32(52, true), view.getUint32(44, true))) return
    const distance = (sequence - this.#expected) | 0
    if (distance !== 0) {
      // Beyond a full inbox everything is out of order, and it asks by itself once there is room.
      if (distance > 0 && !this.#blocked) this.#gap = true
      this.path.acknowledgeSoon(this)
      return
    }
    const kind = view.getUint8(56)
    if (kind !== Kind.DATA && kind !== Kind.FRAG && kind !== Kind.FRAG_LAST && kind !== Kind.FIN) {
      this.#fail(`record of unknown kind ${kind}`)
      return
    }
    let total = 0
    if ((flags & Flag.FIRST) !== 0) {
      if (payload.length < 8) {
        this.#fail('first fragment without its total')
        return
      }
      total = view.getUint32(60, true) + view.getUint32(64, true) * 2 ** 32
      payload = payload.subarray(8)
    }
    this.#deliver(payload, kind, total)
  }

  #deliver(payload: Uint8Array, kind: number, total: number): void {
    let status = native.endSend(this.#far, payload, kind, total)
    if (status === Status.WOULD_BLOCK && native.endWantSpace(this.#far, payload.length + 8)) {
      status = native.endSend(this.#far, payload, kind, total)
    }
    if (status > 0) {
      this.#expected = (this.#expected + 1) >>> 0
      this.#blocked = false
      this.path.acknowledgeSoon(this)
    } else if (status === Status.WOULD_BLOCK) {
      this.#blocked = true
      this.path.acknowledgeSoon(this)
    } else if (status !== Status.CLOSED) {
      this.#fail(status === Status.TOO_LARGE ? 'record above the inline limit' : native.endFault(this.#far))
    }
  }

  /** There is room in the inbox again: ask for what was turned away. */
  #unblock(): void {
    if (!this.#blocked) return
    this.#blocked = false
    this.#gap = true
    this.path.acknowledgeSoon(this)
  }

  /** Takes in what the other side acknowledges. False: it claims what cannot be, and the end is dead. */
  #learn(expected: number, next: number, released: number): boolean {
    const impossible = before(this.#sent, expected) || before(expected, next) || before(next, released)
    if (impossible) {
      this.#fail(`acknowledges ${expected}/${next}/${released} of ${this.#sent} records`)
      return false
    }
    if (before(this.#acked, expected)) {
      this.#acked = expected
      this.#progress = true
    }
    if (before(this.#remoteNext, next)) this.#remoteNext = next
    if (before(this.#remoteReleased, released)) {
      this.#progress = true
      this.#skip()
      do {
        native.endRelease(this.#far, this.#remoteReleased)
        this.#remoteReleased = (this.#remoteReleased + 1) >>> 0
      } while (this.#remoteReleased !== released)
    }
    return true
  }

  #rewind(): void {
    native.endRewind(this.#far)
    this.#cursor = this.#remoteReleased
    this.pumpOut()
  }

  #armTimer(): void {
    if (this.#timer !== null || this.path.reliable || this.#sent === this.#remoteReleased) return
    this.#progress = false
    this.#timer = setTimeout(() => this.#onTimer(), this.#interval).unref()
  }

  #onTimer(): void {
    this.#timer = null
    if (!this.#running || this.path.lost) return
    if (this.#progress) {
      this.#interval = this.path.retryFirst
    } else {
      this.#interval = Math.min(this.#interval * 2, this.path.retryMax)
      this.#rewoundAt = -1
      if (this.#acked !== this.#sent) this.#rewind()
      else this.sendAck(Flag.ASK)
    }
    this.#armTimer()
  }

  #fail(why: string): void {
    if (!this.#running) return
    this.halt()
    this.events?.onFault(
      new VmringError(
        'ERR_VMRING_PROTOCOL',
        `the other side broke the protocol on path ${this.path.name}: ${why}`,
      ),
    )
  }

  /** No record moves any more. */
  halt(): void {
    this.#running = false
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    native.endWantReadable(this.#far, false)
  }

  stop(): number {
    this.halt()
    return native.endStopReading(this.id)
  }

  progress(): RecordCounts {
    const { sent } = native.endCounters(this.id)
    return { sent, delivered: this.#remoteNext, released: this.#remoteReleased }
  }

  pending(from: number): { kind: number; total: number; bytes: Uint8Array }[] {
    return native.endPending(this.id, from)
  }

  sendLarge(): number {
    return Status.TOO_LARGE
  }

  destroy(): void {
    if (this.id < 0) return
    this.halt()
    this.path.forget(this)
    unwatchEnd(this.id)
    unwatchEnd(this.#far)
    native.endDestroy(this.id)
    native.endDestroy(this.#far)
    this.id = -1
  }
}
