/**
 * A stand-in for shared memory inside one process: the two ends of a pair, one for each side, so that each reads the
 * other's outbox in place. It knows what no side can know, and says so when memory is freed that is still being read.
 */
import type { RecordCounts } from '../../src/errors.js'
import { native } from '../../src/native/binding.js'
import { Ready, Status } from '../../src/native/types.js'
import type { EndEvents, EndSpec, Path, PathEnd, PathEvents, PeerRef } from '../../src/path/path.js'
import { unwatchEnd, watchEnd, watchPairs } from '../../src/ring/ends.js'

interface Shared {
  buffer: ArrayBuffer
  /** native ids: of the side that offered first, and of the other */
  ids: [number, number]
  ends: [SharedEnd, SharedEnd | null]
}

/** All memory of all shared paths. */
export class Sections {
  readonly #shared: Shared[] = []
  readonly #violations: string[] = []

  allocate(end: SharedEnd, capacity: number): { id: number; buffer: ArrayBuffer; number: number } {
    const { near, far, buffer } = native.createPair(capacity, 0, 0)
    this.#shared.push({ buffer, ids: [near, far], ends: [end, null] })
    return { id: near, buffer, number: this.#shared.length - 1 }
  }

  join(end: SharedEnd, number: number): { id: number; buffer: ArrayBuffer } {
    const shared = this.#shared[number]!
    if (shared.ends[0].destroyed && !shared.ends[0].path.abandoned)
      this.#violations.push('a side joins memory that was freed')
    if (shared.ends[1] !== null) this.#violations.push('a ring is joined twice')
    shared.ends[1] = end
    return { id: shared.ids[1], buffer: shared.buffer }
  }

  /** `end`, which offered, begins to read what the other side has. */
  attached(end: SharedEnd): void {
    const other = this.#shared.find(({ ends }) => ends[0] === end)?.ends[1]
    if (other?.destroyed === true && !other.path.abandoned && !other.path.lost) {
      this.#violations.push('a side begins to read memory that was freed')
    }
  }

  /** `end` frees its outbox: does the other side still read there? */
  freed(end: SharedEnd): void {
    const shared = this.#shared.find(({ ends }) => ends[0] === end || ends[1] === end)
    if (shared === undefined || end.path.lost || end.path.abandoned) return
    const other = shared.ends[0] === end ? shared.ends[1] : shared.ends[0]
    if (other === null || other.destroyed || other.path.abandoned || other.path.lost) return
    if (!other.attached) return
    if (!other.stopped) this.#violations.push('memory was freed that the other side still reads')
    else if (!native.endIdle(other.id))
      this.#violations.push('memory was freed in which the other side holds a message')
  }

  /** The process at this end is no more. */
  abandon(path: Path): void {
    if (path instanceof SharedPath) path.abandoned = true
  }

  check(): void {
    if (this.#violations.length > 0) throw new Error(this.#violations[0])
  }

  checkEmpty(): void {
    for (const { ends } of this.#shared) {
      for (const end of ends) {
        if (end !== null && !end.destroyed && !end.path.abandoned)
          throw new Error('an end of a shared path was never freed')
      }
    }
  }

  destroy(): void {
    for (const { ids, ends } of this.#shared) {
      ids.forEach((id, i) => {
        if (ends[i] === null || ends[i]!.destroyed) return
        unwatchEnd(id)
      })
      for (const [i, end] of ends.entries()) if (end === null || !end.destroyed) native.endDestroy(ids[i]!)
    }
  }
}

export class SharedPath implements Path {
  readonly name: string
  readonly remote: PeerRef
  readonly keepsOutbox: boolean
  readonly stalled = false
  readonly maxFrame = 1024
  readonly sections: Sections
  lost = false
  abandoned = false
  events: PathEvents | null = null
  /** the side that opens and proposes allocates both halves of a pair */
  readonly #offers: boolean
  readonly #out: (frame: Uint8Array) => void

  constructor(
    name: string,
    remote: PeerRef,
    keepsOutbox: boolean,
    offers: boolean,
    sections: Sections,
    out: (frame: Uint8Array) => void,
  ) {
    watchPairs()
    this.name = name
    this.remote = remote
    this.keepsOutbox = keepsOutbox
    this.#offers = offers
    this.sections = sections
    this.#out = out
  }

  defaultCapacity(): number {
    return 4096
  }

  send(frame: Uint8Array): void {
    if (!this.lost && !this.abandoned) this.#out(frame.slice())
  }

  lose(): void {
    if (this.lost) return
    this.lost = true
    this.events?.onLost(this, new Error(`the memory of ${this.name} is gone`))
  }

  createEnd(spec: EndSpec): PathEnd {
    const end = new SharedEnd(this, spec.capacity)
    return this.#offers ? end.init() : end
  }
}

export class SharedEnd implements PathEnd {
  readonly path: SharedPath
  readonly capacity: number
  readonly inlineLimit: number
  readonly large = false
  readonly blocking = false
  readonly shared = true
  readonly offer = new Uint8Array(4)
  buffer: ArrayBuffer = new ArrayBuffer(0)
  id = -1
  retained = 0
  attached = false
  stopped = false
  destroyed = false
  onRelease: (() => void) | null = null
  events: EndEvents | null = null

  constructor(path: SharedPath, capacity: number) {
    this.path = path
    this.capacity = capacity
    this.inlineLimit = capacity / 4
  }

  /** Allocates both halves; the offer names them. */
  init(): this {
    const { id, buffer, number } = this.path.sections.allocate(this, this.capacity)
    new DataView(this.offer.buffer).setUint32(0, number)
    this.#take(id, buffer)
    return this
  }

  #take(id: number, buffer: ArrayBuffer): void {
    this.id = id
    this.buffer = buffer
    watchEnd(id, (bits) => {
      if ((bits & Ready.READABLE) !== 0) this.events?.onReadable()
      if ((bits & Ready.WRITABLE) !== 0) this.events?.onWritable()
    })
  }

  attach(offer: Uint8Array): void {
    this.attached = true
    if (this.id >= 0) {
      this.path.sections.attached(this)
      return
    }
    const number = new DataView(offer.buffer, offer.byteOffset).getUint32(0)
    new DataView(this.offer.buffer).setUint32(0, number)
    const { id, buffer } = this.path.sections.join(this, number)
    this.#take(id, buffer)
  }

  stop(): number {
    this.stopped = true
    return native.endStopReading(this.id)
  }

  progress(): RecordCounts {
    const { sent, remoteNext, remoteReleased } = native.endCounters(this.id)
    return { sent, delivered: remoteNext, released: remoteReleased }
  }

  pending(from: number): { kind: number; total: number; bytes: Uint8Array }[] {
    if (this.path.lost && !this.path.keepsOutbox) throw new Error('the memory is gone')
    return native.endPending(this.id, from)
  }

  sendLarge(): number {
    return Status.TOO_LARGE
  }

  destroy(): void {
    if (this.destroyed || this.id < 0) return
    this.path.sections.freed(this)
    this.destroyed = true
    unwatchEnd(this.id)
    native.endDestroy(this.id)
    this.id = -1
  }
}
