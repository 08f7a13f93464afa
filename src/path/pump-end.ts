/** The end of one channel on a path that copies: the far end of a pair in private memory, and the counters of both sides. */
import { type RecordCounts, VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import { Kind, Ready, Status } from '../native/types.js'
import { unwatchEnd, watchEnd } from '../ring/ends.js'
import { ACK_BODY, DATA_BODY, DATA_OVERHEAD, Flag, FrameType, HEADER_BYTES, writeHeader } from './frames.js'
import { CHANNEL_ID_BYTES, type EndEvents, type EndSpec, type PathEnd } from './path.js'
import type { FramePath } from './pump.js'

const RECORDS_PER_TURN = 256
const MAX_TOTAL = 2 ** 53
/** header word of a record in the ring, bytes */
const RECORD_OVERHEAD = 8
const EMPTY = new Uint8Array(0)

const before = (a: number, b: number): boolean => ((a - b) | 0) < 0

export function endKey(channel: Uint8Array, epoch: number): string {
  return `${Buffer.from(channel.buffer, channel.byteOffset, channel.byteLength).toString('latin1')}:${epoch}`
}

export class PumpEnd implements PathEnd {
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
  /** ring bytes accepted since the other side knew that all of them had been given back */
  #untold = 0
  #timer: NodeJS.Timeout | null = null
  #interval: number
  #progress = false
  /** the same head for every DATA frame, without and with the total of a first fragment */
  readonly #firstHead = new Uint8Array(DATA_OVERHEAD)
  readonly #head = this.#firstHead.subarray(0, HEADER_BYTES + DATA_BODY)
  readonly #headView: DataView
  /** the channel id as words */
  readonly #name = new Uint32Array(CHANNEL_ID_BYTES / 4)
  /** a record whose payload is still being read into the far end's reservation */
  #filling: { length: number; kind: number; total: number } | null = null

  constructor(path: FramePath, spec: EndSpec) {
    this.path = path
    this.capacity = spec.capacity
    this.inlineLimit = spec.capacity / 4
    this.#channel = spec.channel
    this.#epoch = spec.epoch
    this.key = endKey(spec.channel, spec.epoch)
    this.#headView = writeHeader(this.#firstHead, FrameType.DATA, 0, spec.epoch, spec.channel, 0)
    const name = new DataView(spec.channel.buffer, spec.channel.byteOffset)
    for (let i = 0; i < this.#name.length; i++) this.#name[i] = name.getUint32(4 * i, true)
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

  /** Is this the end that a frame with that header is about? */
  isNamed(header: DataView, epoch: number): boolean {
    if (epoch !== this.#epoch) return false
    for (let i = 0; i < this.#name.length; i++) {
      if (header.getUint32(8 + 4 * i, true) !== this.#name[i]) return false
    }
    return true
  }

  attach(_offer: Uint8Array): void {
    this.#running = true
    if (this.path.congested) this.pause(true)
    this.pumpOut()
  }

  /** The application has released something: the other side wants to know. */
  readonly released = (): void => {
    this.#looked = false
    if (this.#running) this.#acknowledgeSoon()
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
    const head = first ? this.#firstHead : this.#head
    const view = this.#headView
    this.#look()
    view.setUint16(2, first ? Flag.FIRST : 0, true)
    view.setUint32(32, head.length - HEADER_BYTES + length, true)
    view.setUint32(40, sequence, true)
    view.setUint32(44, this.#released, true)
    view.setUint32(48, this.#expected, true)
    view.setUint32(52, this.#next, true)
    head[56] = kind
    if (first) {
      view.setUint32(60, total >>> 0, true)
      view.setUint32(64, Math.floor(total / 2 ** 32), true)
    }
    this.#told()
    // A gap can be told by an ACK only.
    if (!this.#gap) this.path.acknowledged(this)
    this.path.transmit(head, length > 0 ? new Uint8Array(this.buffer, offset, length) : null)
  }

  /** The counters go out. What has been accepted but not given back yet will have to be told soon. */
  #told(): void {
    if (this.#released === this.#expected) this.#untold = 0
  }

  /** Nobody waits for an acknowledgement as long as the other outbox has room. */
  #acknowledgeSoon(): void {
    this.path.acknowledgeSoon(this, !this.path.reliable || this.#untold >= this.capacity / 4)
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
    this.#told()
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
    if (!this.#awaited(view)) return
    const kind = view.getUint8(56)
    const total = this.#totalOf(kind, flags, payload, payload.length)
    if (total < 0) return
    const bytes = total > 0 ? payload.subarray(8) : payload
    let status = native.endSend(this.#far, bytes, kind, total)
    if (status === Status.WOULD_BLOCK && native.endWantSpace(this.#far, payload.length)) {
      status = native.endSend(this.#far, bytes, kind, total)
    }
    this.#took(status, payload.length)
  }

  /** The beginning of a record: the rest of its payload may go where this says. Null: it is not wanted now. */
  beginData(view: DataView, flags: number, part: Uint8Array, length: number): Uint8Array | null {
    if (!this.#awaited(view)) return null
    const kind = view.getUint8(56)
    const total = this.#totalOf(kind, flags, part, length)
    if (total < 0) return null
    let offset = native.endReserve(this.#far, length)
    if (offset === Status.WOULD_BLOCK && native.endWantSpace(this.#far, length)) {
      offset = native.endReserve(this.#far, length)
    }
    if (offset < 0) {
      this.#took(offset, length)
      return null
    }
    const payload = new Uint8Array(this.buffer, offset, length)
    payload.set(part)
    this.#filling = { length, kind, total }
    return payload.subarray(part.length)
  }

  /** The whole payload is there. */
  endData(): void {
    const filling = this.#filling
    if (filling === null) return
    this.#filling = null
    const { length, kind, total } = filling
    this.#took(native.endCommit(this.#far, length, kind, total), length)
  }

  /** Takes in what a DATA frame acknowledges. True when its record is the next one. */
  #awaited(view: DataView): boolean {
    if (!this.#running) return false
    const sequence = view.getUint32(40, true)
    if (!this.#learn(view.getUint32(48, true), view.getUint32(52, true), view.getUint32(44, true)))
      return false
    const distance = (sequence - this.#expected) | 0
    if (distance === 0) return true
    // Beyond a full inbox everything is out of order, and it asks by itself once there is room.
    if (distance > 0 && !this.#blocked) this.#gap = true
    this.path.acknowledgeSoon(this)
    return false
  }

  /** The total of a first fragment, 0 for other records; −1 when the record is impossible, and the end is dead. */
  #totalOf(kind: number, flags: number, payload: Uint8Array, length: number): number {
    const fragment = kind === Kind.FRAG || kind === Kind.FRAG_LAST
    if (!fragment && kind !== Kind.DATA && kind !== Kind.FIN) {
      this.#fail(`record of unknown kind ${kind}`)
      return -1
    }
    if (length > this.inlineLimit + 8) {
      this.#fail('record above the inline limit')
      return -1
    }
    if ((flags & Flag.FIRST) === 0) return 0
    if (!fragment || payload.length < 8) {
      this.#fail('first fragment without its total')
      return -1
    }
    const view = new DataView(payload.buffer, payload.byteOffset, 8)
    const total = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32
    if (total > 0 && total <= MAX_TOTAL) return total
    this.#fail(`a message of ${total} bytes`)
    return -1
  }

  /** What came of putting the expected record into the inbox. */
  #took(status: number, length: number): void {
    if (status > 0) {
      this.#expected = (this.#expected + 1) >>> 0
      this.#blocked = false
      this.#untold += RECORD_OVERHEAD + length
      this.#acknowledgeSoon()
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
    if (this.#filling !== null) native.endAbort(this.#far)
    this.#filling = null
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
