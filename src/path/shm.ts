/**
 * The shared-memory path. The native peer moves nothing: this side's outbox is the other side's inbox. Session frames
 * travel as control messages.
 */
import { type RecordCounts, VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import {
  type NativePeer,
  type NativeRegion,
  PeerEvent,
  type PeerOptions,
  Ready,
  type RemotePeer,
  type RingOffer,
  Status,
} from '../native/types.js'
import { dispatchReady, unwatchEnd, watchEnd } from '../ring/ends.js'
import { putU32, putU64, u32At } from './frames.js'
import type { EndEvents, EndSpec, Path, PathEnd, PathEvents, PeerRef } from './path.js'

const MAX_SESSION_FRAME = 1024
const MAX_QUEUED_FRAMES = 1024
const RETRY_FIRST = 1
const RETRY_MAX = 50
const DEFAULT_RING = 256 * 1024
const SMALLEST_RING = 16 * 1024
const SHARE = 4
// of channels that a program opens by the hundred
const SMALLEST_OF_MANY = 4096
const SHARE_OF_MANY = 32
// of the first of them: two sides that write and read 64 KiB at a time wait for each other the less, the more often it fits in
const LARGEST_OF_FIRST = 1024 * 1024
const SHARE_OF_FIRST = 3
const KEPT_FOR_MANY = 1 / 2
// An end is made ahead while channels are opened so fast one after the other, with rings up to this size, and kept for so long.
const IN_A_ROW_MS = 10
const LARGEST_SPARE = 64 * 1024
const SPARE_MS = 100

export interface ShmEvents {
  onPath(path: ShmPath): void
  /** The memory itself is gone. */
  onLost(error: Error): void
}

/** This process as a member of one region. */
export class ShmNetwork {
  readonly region: NativeRegion
  readonly peer: NativePeer
  /** ends that channels have here, by section of the other side; those included that are only waiting for a lease or for the other side */
  readonly #ends = new Map<number, number>()
  /** true when the application may still hold views of ends that are gone */
  lent = false
  readonly #paths = new Map<string, ShmPath>()
  /** whose control message came last: many come in a row */
  #last: ShmPath | undefined
  readonly #events: ShmEvents
  #lost = false

  constructor(
    region: NativeRegion,
    options: Omit<PeerOptions, 'onReady' | 'onControl' | 'onPeer'>,
    events: ShmEvents,
  ) {
    this.region = region
    this.#events = events
    this.peer = new native.Peer(region, {
      ...options,
      onReady: (count) => dispatchReady(this.peer.ready, count),
      onControl: (section, incarnation, message) => this.#find(section, incarnation)?.receive(message),
      onPeer: (event, peer) => this.#onPeer(event, peer),
    })
  }

  get paths(): ShmPath[] {
    return [...this.#paths.values()]
  }

  /** Takes in the members that were there before this one. */
  start(): void {
    for (const remote of this.peer.remotes()) this.#join(remote)
  }

  /** The memory is gone: every path of it ends. `kept`: what stood in it can still be read, in a private copy. */
  lose(error = lostError(), kept = false): void {
    if (this.#lost) return
    this.#lost = true
    const { paths } = this
    this.#paths.clear()
    for (const path of paths) {
      path.keepsOutbox = kept
      path.lose(error)
    }
    this.#events.onLost(error)
  }

  get ends(): number {
    let all = 0
    for (const count of this.#ends.values()) all += count
    return all
  }

  /** Makes room for an end that is wanted now. False: there was nothing to give. */
  dropSpares(): boolean {
    let dropped = false
    for (const path of this.#paths.values()) dropped = path.dropSpare() || dropped
    return dropped
  }

  countEnd(section: number, by: 1 | -1): void {
    const count = (this.#ends.get(section) ?? 0) + by
    if (count === 0) this.#ends.delete(section)
    else this.#ends.set(section, count)
  }

  /** Where bytes stand that may still be read: the tables, the own section, those of the other sides. Pairs of offset and length. */
  inUse(): Float64Array {
    if (this.lent) return Float64Array.of(0, this.region.size)
    const { sectionOffset, sectionSize } = this.region.geometry()
    const ranges = [this.peer.section, ...this.#ends.keys()].flatMap((section) => [
      sectionOffset + section * sectionSize,
      sectionSize,
    ])
    return Float64Array.from([0, sectionOffset, ...ranges])
  }

  #find(section: number, incarnation: number): ShmPath | undefined {
    const last = this.#last
    if (last?.remote.section === section && last.remote.incarnation === incarnation && !last.lost) return last
    this.#last = this.#findOther(section, incarnation)
    return this.#last
  }

  #findOther(section: number, incarnation: number): ShmPath | undefined {
    const known = this.#paths.get(`${section}:${incarnation}`)
    if (known !== undefined) return known
    const remote = this.peer.remotes().find((r) => r.section === section && r.incarnation === incarnation)
    return remote === undefined ? undefined : this.#join(remote)
  }

  #join(remote: RemotePeer): ShmPath {
    const key = `${remote.section}:${remote.incarnation}`
    let path = this.#paths.get(key)
    if (path === undefined) {
      path = new ShmPath(this, remote)
      this.#paths.set(key, path)
      this.#events.onPath(path)
    }
    return path
  }

  #onPeer(event: number, remote: RemotePeer): void {
    if (event === PeerEvent.JOINED) {
      this.#join(remote)
      return
    }
    if (event === PeerEvent.LOST) {
      this.lose()
      return
    }
    const key = `${remote.section}:${remote.incarnation}`
    const path = this.#paths.get(key)
    if (path === undefined) return
    if (event === PeerEvent.LEFT) {
      this.#paths.delete(key)
      path.leave()
    } else if (event === PeerEvent.RING) {
      path.onRing?.()
    } else {
      path.setStalled(event === PeerEvent.STALLED)
    }
  }
}

export class ShmPath implements Path {
  readonly name = 'shm'
  readonly remote: PeerRef
  keepsOutbox = false
  readonly maxFrame = MAX_SESSION_FRAME
  readonly network: ShmNetwork
  stalled: boolean
  lost = false
  events: PathEvents | null = null
  /** rings the remote where no interrupt leads */
  onRing: (() => void) | null = null
  #queue: Uint8Array[] = []
  #timer: NodeJS.Timeout | null = null
  #interval = RETRY_FIRST
  #createdAt = Number.NEGATIVE_INFINITY
  #inARow = false
  #spare: Spare | null = null
  #spareTimer: NodeJS.Timeout | null = null

  constructor(network: ShmNetwork, remote: RemotePeer) {
    this.network = network
    this.remote = { uuid: remote.uuid, incarnation: remote.incarnation, section: remote.section }
    this.stalled = remote.stalled
  }

  defaultCapacity(many = false): number {
    const { largestFree, sectionBytes } = this.network.peer.counters()
    const first = many && largestFree > sectionBytes * KEPT_FOR_MANY
    const share = first
      ? Math.min(LARGEST_OF_FIRST, largestFree / SHARE_OF_FIRST)
      : Math.min(DEFAULT_RING, largestFree / (many ? SHARE_OF_MANY : SHARE))
    const smallest = many ? SMALLEST_OF_MANY : SMALLEST_RING
    return share <= smallest ? smallest : 2 ** Math.floor(Math.log2(share))
  }

  /**
   * A frame that finds the control ring full waits here; beyond a bound it is lost, and the session repeats it. What is repeated
   * while it still waits would only keep others waiting: a hundred channels opened at once fill the ring ten times.
   */
  send(frame: Uint8Array): void {
    if (this.lost) return
    if (this.#queue.length === 0 && this.network.peer.sendControl(this.remote.section, frame)) return
    if (this.#queue.length < MAX_QUEUED_FRAMES && !this.#queue.includes(frame)) this.#queue.push(frame)
    this.#timer ??= setTimeout(() => this.#retry(), this.#interval).unref()
  }

  #retry(): void {
    this.#timer = null
    if (this.lost) return
    let sent = 0
    while (
      sent < this.#queue.length &&
      this.network.peer.sendControl(this.remote.section, this.#queue[sent]!)
    )
      sent++
    this.#queue = this.#queue.slice(sent)
    this.#interval = sent > 0 ? RETRY_FIRST : Math.min(this.#interval * 2, RETRY_MAX)
    if (this.#queue.length > 0) this.#timer = setTimeout(() => this.#retry(), this.#interval).unref()
  }

  receive(message: Uint8Array): void {
    this.events?.onFrame(this, message)
  }

  setStalled(stalled: boolean): void {
    if (this.stalled === stalled || this.lost) return
    this.stalled = stalled
    this.events?.onStalled(this, stalled)
  }

  lose(error: Error): void {
    if (!this.#end()) return
    this.events?.onLost(this, error)
  }

  /** The remote's section may be somebody else's soon; the own outboxes stay as they are. */
  leave(): void {
    this.keepsOutbox = true
    if (this.#end()) this.events?.onLeft(this)
  }

  #end(): boolean {
    if (this.lost) return false
    this.lost = true
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.dropSpare()
    return true
  }

  createEnd({ capacity }: EndSpec): PathEnd {
    const now = performance.now()
    this.#inARow = now - this.#createdAt < IN_A_ROW_MS
    this.#createdAt = now
    const spare = this.#spare
    if (spare?.capacity === capacity) {
      this.#spare = null
      return new ShmEnd(this, spare.id, spare.offer, capacity)
    }
    this.dropSpare()
    const { id, offer } = this.#makeEnd(capacity)
    return new ShmEnd(this, id, offer, capacity)
  }

  #makeEnd(capacity: number): Spare {
    const { network, remote } = this
    const make = () => network.peer.createEnd(remote.section, capacity, 0, 0)
    let made: ReturnType<typeof make>
    try {
      made = make()
    } catch (error) {
      if (!network.dropSpares()) throw error
      made = make()
    }
    return { id: made.id, offer: encodeOffer(made.offer), capacity }
  }

  prepare(capacity: number): void {
    if (!this.#inARow || this.#spare !== null || capacity > LARGEST_SPARE || this.lost) return
    try {
      this.#spare = this.#makeEnd(capacity)
    } catch {
      this.#inARow = false // whoever wants one will hear why there is none
      return
    }
    this.#spareTimer ??= setTimeout(() => this.#expire(), SPARE_MS).unref()
  }

  #expire(): void {
    this.#spareTimer = null
    const left = this.#createdAt + SPARE_MS - performance.now()
    if (left <= 0) this.dropSpare()
    else if (this.#spare !== null) this.#spareTimer = setTimeout(() => this.#expire(), left).unref()
  }

  /** False: there was none. */
  dropSpare(): boolean {
    const spare = this.#spare
    if (spare === null) return false
    this.#spare = null
    native.endDestroy(spare.id)
    return true
  }
}

/** An end that no channel has yet. */
interface Spare {
  id: number
  offer: Uint8Array
  capacity: number
}

class ShmEnd implements PathEnd {
  readonly path: ShmPath
  readonly offer: Uint8Array
  readonly capacity: number
  readonly inlineLimit: number
  readonly buffer: ArrayBuffer
  readonly large = true
  readonly blocking = true
  readonly shared = true
  id: number
  retained = 0
  onRelease: (() => void) | null = null
  events: EndEvents | null = null

  constructor(path: ShmPath, id: number, offer: Uint8Array, capacity: number) {
    this.path = path
    this.id = id
    this.offer = offer
    this.capacity = capacity
    this.inlineLimit = capacity / 4
    this.buffer = path.network.region.buffer
    path.network.countEnd(path.remote.section, 1)
    watchEnd(id, (bits) => {
      if ((bits & Ready.FAULT) !== 0) this.#fault()
      if ((bits & Ready.READABLE) !== 0) this.events?.onReadable()
      if ((bits & Ready.WRITABLE) !== 0) this.events?.onWritable()
    })
  }

  /** Memory that is gone looks broken too. */
  #fault(): void {
    const { network } = this.path
    if (network.region.lost) network.lose()
    else this.events?.onFault(faultError(this.id))
  }

  attach(offer: Uint8Array): void {
    this.path.network.peer.attachEnd(this.id, decodeOffer(offer))
  }

  stop(): number {
    return native.endStopReading(this.id)
  }

  progress(): RecordCounts {
    const { sent, remoteNext, remoteReleased } = native.endCounters(this.id)
    return { sent, delivered: remoteNext, released: remoteReleased }
  }

  pending(from: number): { kind: number; total: number; bytes: Uint8Array }[] {
    return native.endPending(this.id, from)
  }

  sendLarge(bytes: Uint8Array): number {
    // the descriptor needs room too: look before copying
    if (!native.endWantSpace(this.id, 32)) return Status.WOULD_BLOCK
    const { network } = this.path
    const { peer } = network
    let offset = peer.allocLarge(this.id, bytes.length)
    if (offset < 0 && network.dropSpares()) offset = peer.allocLarge(this.id, bytes.length)
    if (offset < 0) return Status.TOO_LARGE
    // @step large: memory taken
    new Uint8Array(this.buffer, offset, bytes.length).set(bytes)
    // @step large: filled
    return peer.commitLarge(this.id, offset, bytes.length)
  }

  destroy(leased = false): void {
    if (this.id < 0) return
    const { network } = this.path
    network.countEnd(this.path.remote.section, -1)
    if (leased || !native.endIdle(this.id)) network.lent = true
    unwatchEnd(this.id)
    native.endDestroy(this.id)
    this.id = -1
  }
}

function lostError(): VmringError {
  return new VmringError('ERR_VMRING_REGION_LOST', 'the memory of the region is gone; attach again')
}

function faultError(id: number): VmringError {
  return new VmringError('ERR_VMRING_PROTOCOL', `the other side broke the protocol: ${native.endFault(id)}`)
}

/** u32 capacity, u32 tag, u64 ring offset, u32 bell, u32 number of reader blocks, u64 offset of each. */
function encodeOffer(offer: RingOffer): Uint8Array {
  const bytes = new Uint8Array(32)
  putU32(bytes, 0, offer.capacity)
  putU32(bytes, 4, offer.tag)
  putU64(bytes, 8, offer.ringOffset)
  putU32(bytes, 16, offer.bell)
  putU32(bytes, 20, 1)
  putU64(bytes, 24, offer.readerOffset)
  return bytes
}

function decodeOffer(bytes: Uint8Array): RingOffer {
  const whole = bytes.length >= 32
  const ringOffset = whole ? u32At(bytes, 8) + u32At(bytes, 12) * 2 ** 32 : Number.POSITIVE_INFINITY
  const readerOffset = whole ? u32At(bytes, 24) + u32At(bytes, 28) * 2 ** 32 : Number.POSITIVE_INFINITY
  if (!Number.isSafeInteger(ringOffset) || !Number.isSafeInteger(readerOffset) || u32At(bytes, 20) < 1) {
    throw new VmringError('ERR_VMRING_PROTOCOL', 'the other side offers a ring that cannot be')
  }
  return {
    capacity: u32At(bytes, 0),
    tag: u32At(bytes, 4),
    ringOffset,
    bell: u32At(bytes, 16),
    readerOffset,
  }
}
