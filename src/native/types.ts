/**
 * What the addon exports: the only seam between TypeScript and C++.
 *
 * Everything that comes out of here has been read once from shared memory, checked and copied; the one exception is
 * payload, which TypeScript sees as views of `Region.buffer`. Errors thrown by the addon carry `code`: either one of ours
 * (`ERR_VMRING_…`, see src/errors.ts) or libuv's shape (`code`, `errno`, `syscall`).
 *
 * Offsets and lengths are bytes and fit a double exactly; sequence numbers are unsigned 32-bit and wrap.
 */
import type { BenchFunctions } from './bench-types.js'
import type {
  FdListener,
  FdListenHandlers,
  IvshmemHandlers,
  IvshmemSocket,
  StreamFunctions,
} from './socket-types.js'

/** What lies in a record (the type field of its header word). `PAD` never leaves the core. */
export const Kind = { DATA: 1, PAD: 2, LARGE: 3, FRAG: 4, FRAG_LAST: 5, FIN: 6 } as const
export type Kind = (typeof Kind)[keyof typeof Kind]

/** Results of the hot functions that are not a length or an offset. */
export const Status = {
  /** no room in the outbox, or nothing in the inbox */
  WOULD_BLOCK: -1,
  /** above the inline limit of the ring */
  TOO_LARGE: -2,
  /** this side already closed its direction, or the end was destroyed */
  CLOSED: -3,
  /** a send lease is already open, or there is none */
  LEASE: -4,
  /** the other side broke the protocol; the end is dead and says so in `endFault` */
  FAULT: -5,
  /** the memory behind the end is gone (truncated file, unplugged device) */
  LOST: -6,
} as const

/** Bits of the second word of each pair that `Peer` reports as ready. */
export const Ready = { READABLE: 1, WRITABLE: 2, FAULT: 4 } as const

/** States of a peer table entry, and of the identity line of a section. */
export const EntryState = { FREE: 0, JOINED: 1, LEAVING: 2 } as const

export interface Geometry {
  major: number
  minor: number
  uuid: Uint8Array
  /** true when no daemon owns the region: entries are claimed by compare-and-swap */
  plain: boolean
  daemonIncarnation: number
  /** bytes */
  size: number
  /** number of sections, and so of entries in the peer table */
  sections: number
  sectionOffset: number
  sectionSize: number
}

export interface Entry {
  state: number
  peerId: number
  vectors: number
  /** counts the owners that this section has had */
  generation: number
}

/** A peer's own words about itself, from its section. */
export interface Identity {
  uuid: Uint8Array
  incarnation: number
  state: number
  heartbeat: number
  peerId: number
  vector: number
  pid: number
}

/** A mapping. Closing puts anonymous zero pages over the range; `buffer` stays readable for ever. */
export interface NativeRegion {
  /** one ArrayBuffer over the whole mapping, the same object at every call; not transferable */
  readonly buffer: ArrayBuffer
  readonly size: number
  /** −1 once closed, or for private memory */
  readonly fd: number
  /** true once a SIGBUS handler or close() has replaced the pages */
  readonly lost: boolean
  /** true when nobody has formatted it, or somebody has begun to: zeros, or what formatting writes, in place of the header */
  readonly blank: boolean
  /** Writes header and tables, magic last. Throws ERR_VMRING_REGION_SIZE. `daemonIncarnation` 0 = plain mode. */
  format(options: { sections: number; daemonIncarnation: number }): void
  /**
   * Formats blank memory in plain mode, also when others do so at the same time or have died doing it; nothing when it is
   * formatted. The sections may be as many as another one said. Throws ERR_VMRING_REGION_{SIZE,MAGIC}.
   */
  formatTogether(sections: number): void
  /** Checks the header against the real size once and keeps a private copy. Throws ERR_VMRING_REGION_{MAGIC,VERSION,FEATURE,GEOMETRY,SIZE,TRUNCATED}. */
  geometry(): Geometry
  readEntry(section: number): Entry | null
  /** daemon only */
  writeEntry(section: number, entry: Entry): void
  /** daemon only: bumps the heartbeat in the header */
  beat(): void
  /** plain mode: claims the first free entry, or `section`; takes a held one only with `takeOver`. −1: none. */
  claimEntry(section: number, takeOver: boolean): number
  releaseEntry(section: number): void
  readIdentity(section: number): Identity | null
  close(): void
}

export interface RegionConstructor {
  /** memfd sealed against shrinking and growing; `size` a power of two of at least 1 MiB */
  create(name: string, size: number): NativeRegion
  /** maps a descriptor and takes it over; the size is that of the file */
  fromFd(fd: number): NativeRegion
  /** opens a file; with `create` makes it that many bytes long when it does not exist */
  open(path: string, create?: number): NativeRegion
}

/** What the other side needs in order to use this side's end. Offsets are relative to the section of the side that offers. */
export interface RingOffer {
  /** of the ring head in the offering side's section */
  ringOffset: number
  capacity: number
  /** unsigned 32-bit nonce of this ring instance; consumer words carry it */
  tag: number
  /** of the offering side's reader block */
  readerOffset: number
  /** the bell number at which the offering side wants to be rung for this end */
  bell: number
}

export interface RemotePeer {
  section: number
  peerId: number
  incarnation: number
  uuid: Uint8Array
  stalled: boolean
  pid: number
}

export const PeerEvent = { JOINED: 1, LEFT: 2, STALLED: 3, RESUMED: 4, LOST: 5, RING: 6 } as const

export type Mode = 'event' | 'adaptive' | 'busy'

export interface PeerOptions {
  section: number
  peerId: number
  uuid: Uint8Array
  mode: Mode
  /** own eventfd, taken over; −1: no interrupts, poll with bounded back-off */
  doorbell: number
  vector: number
  /** rings the peers that no descriptor leads to */
  device?: NativeDevice
  /** `count` pairs {end id, Ready bits} stand in `ready` */
  onReady(count: number): void
  onControl(section: number, incarnation: number, message: Uint8Array): void
  /** event: PeerEvent. A peer that came back with a new incarnation is LEFT, then JOINED. RING: see carryBells(). */
  onPeer(event: number, peer: RemotePeer): void
}

export interface EndCounters {
  /** sequence number that the next record sent gets = records sent so far */
  sent: number
  /** records that the other side has delivered / released, by its own words */
  remoteNext: number
  remoteReleased: number
  /** records delivered here / released here (contiguous floor) */
  next: number
  released: number
  /** the inbox has something that endReceive would give */
  readable: boolean
  sentBytes: number
  receivedBytes: number
  /** bytes of the inbox lent to the application */
  leasedBytes: number
  doorbells: number
  suppressed: number
}

export interface PeerCounters {
  doorbells: number
  suppressed: number
  sleeps: number
  wakeups: number
  /** times that too many doorbells came, and they were not listened to for a while */
  muted: number
  rescued: number
  /** bytes of the own section: whole, free, largest free stretch */
  sectionBytes: number
  freeBytes: number
  largestFree: number
}

/** One member of a region: owns the section, the doorbell, the heartbeat and the polling. */
export interface NativePeer {
  readonly section: number
  readonly incarnation: number
  /** pairs {end id, Ready bits}, filled before onReady */
  readonly ready: Uint32Array
  /** Where to ring: the descriptor is duplicated. */
  setDoorbell(peerId: number, vector: number, fd: number): void
  clearDoorbell(peerId: number): void
  setMode(mode: Mode): void
  /** Without interrupts: whether to look by oneself now and then (the default), or to count on knock(). */
  setPolling(polling: boolean): void
  /** Bells for that section go to onPeer as RING from now on, until it leaves: somebody can carry them there. */
  carryBells(section: number, carried: boolean): void
  /** A bell has come by other means than an interrupt: looks at everything in this turn of the loop. */
  knock(): void
  remotes(): RemotePeer[]
  /** false: the control ring towards that peer is full, or the peer is gone; try again later */
  sendControl(section: number, message: Uint8Array): boolean
  /** Allocates ring and reader block in the own section. Throws ERR_VMRING_SECTION_FULL. Sequence numbers start where told (both directions). */
  createEnd(
    section: number,
    capacity: number,
    sendFrom: number,
    receiveFrom: number,
  ): { id: number; offer: RingOffer }
  /** Joins the other side's half. Throws ERR_VMRING_PROTOCOL when the offer points outside the peer's section. */
  attachEnd(id: number, offer: RingOffer): void
  /** Section memory for one large message: absolute offset in the buffer, or −1. */
  allocLarge(id: number, length: number): number
  /** Publishes it as one LARGE record; gives the memory back on any status below 0. */
  commitLarge(id: number, offset: number, length: number): number
  freeLarge(id: number, offset: number): void
  counters(): PeerCounters
  ref(): void
  unref(): void
  /** The memory is about to become a private copy: says that it leaves; what has come can still be read. */
  detach(): void
  /** Marks the section as leaving, rings everybody, stops thread and handles. */
  close(): void
}

/** An ivshmem device of this guest, as sysfs shows it. */
export interface PciDevice {
  /** as in sysfs: 0000:00:02.0 */
  address: string
  /** '' for none */
  driver: string
  /** ivshmem-doorbell; false: ivshmem-plain */
  interrupts: boolean
  memoryBytes: number
  /** −1 for none */
  iommuGroup: number
  revision: number
}

/** An opened device. Errors carry `code` ERR_VMRING_…, `path`, `detail`, `pid` (of the owner, else 0), `errno`, `syscall`. */
export interface NativeDevice {
  /** the memory; closed by itself, before the device */
  readonly region: NativeRegion
  readonly kind: 'vfio' | 'sysfs'
  readonly address: string
  readonly interrupts: boolean
  /** false: the doorbell register may not be opened, so others cannot be rung */
  readonly rings: boolean
  /** own peer id; means nothing without interrupts */
  readonly position: number
  /** armed here; 0 through sysfs, and when `silent` */
  readonly vectors: number
  /** bytes per second */
  readonly readSpeed: number
  /** armed, but no interrupt comes */
  readonly silent: boolean
  /** so slow that the memory must be uncached */
  readonly slow: boolean
  /** Called when the device is about to be unplugged, every few seconds until detach() or close(). */
  onRequest: (() => void) | undefined
  /** The own eventfd of a vector, duplicated; the caller's. −1: none. */
  vector(index: number): number
  /**
   * Puts private pages over the memory, with the same bytes in the ranges `kept` (pairs of offset and length, bytes), and lets go of the
   * device. False: there was no memory for that; it reads zeros.
   */
  detach(kept: Float64Array): boolean
  /** Lets go of registers, interrupts and descriptors. The region holds a vfio device too. */
  close(): void
}

export interface DeviceConstructor {
  list(): PciDevice[]
  openVfio(address: string): NativeDevice
  openSysfs(address: string): NativeDevice
}

export interface PeerConstructor {
  new (region: NativeRegion, options: PeerOptions): NativePeer
}

/**
 * The ends. An end is a Producer over an outbox and a Consumer over an inbox; its id is an index that is checked at every
 * call. Ends live in shared memory (`NativePeer.createEnd`) or in private memory (`createPair`: two ends joined back to back,
 * so that a path which copies can sit at the far side of the application's end).
 */
export interface EndFunctions {
  /** Two joined ends in private memory. `ready` events of both go to `onReady` exactly as a Peer reports its own. */
  createPair(
    capacity: number,
    sendFrom: number,
    receiveFrom: number,
  ): { near: number; far: number; buffer: ArrayBuffer }
  /** pairs for private ends; `count` pairs stand in `pairReady` */
  onPairReady(callback: (count: number) => void): void
  readonly pairReady: Uint32Array

  /** One copy into the outbox: 1, or a Status. `kind` DATA, FRAG, FRAG_LAST or FIN; `total` > 0 marks the first fragment of a message of that many bytes. */
  endSend(id: number, bytes: Uint8Array, kind: number, total: number): number
  /** Absolute payload offset of a reservation of exactly `length` bytes, or a Status. */
  endReserve(id: number, length: number): number
  /**
   * 1 or a Status; `length` at most the reserved one. Works on an end that has been retired meanwhile: returns Status.CLOSED and
   * publishes nothing. `kind` and `total` as in endSend (DATA and 0 without them), but `total` takes the first 8 of the bytes.
   */
  endCommit(id: number, length: number, kind?: number, total?: number): number
  endAbort(id: number): number
  /**
   * Copies DATA records to `target` from `at` up to `end`, as one stream of bytes, and gives them back. Returns where it stopped.
   * scratch[5]: 0, a Status, or the Kind of a record that is longer than what is left or none of DATA, lent as by endReceive;
   * scratch[6]: how many records were taken.
   */
  endReadBytes(id: number, target: Uint8Array, at: number, end: number): number
  /**
   * Sends `bytes` from `at` on as DATA records of at most `longest` bytes, as far as there is room. Returns where it stopped, or a
   * Status.
   */
  endWriteBytes(id: number, bytes: Uint8Array, at: number, longest: number): number
  /** Sends a string as one DATA record, in UTF-8 or latin1. Returns its length in bytes, or a Status: TOO_LARGE if it may be longer. */
  endWriteText(id: number, text: string, utf8: boolean, longest: number): number
  /** Next record without waiting: its Kind, 0 for none, or a Status below 0. Fills `scratch`. */
  endReceive(id: number): number
  /** As endReceive, but waits up to `timeout` ms on this thread (spinning in busy mode, else sleeping on the doorbell). */
  endReceiveWait(id: number, timeout: number): number
  /**
   * [0] absolute payload offset, [1] length, [2] sequence number, [3] total length of a fragmented message (first fragment only, else 0);
   * [4] is the timeout of hotReceiveWait, [5] and [6] are results of endReadBytes
   */
  readonly scratch: Float64Array
  /**
   * endReceive, endReceiveWait, and endSend of a whole message, without arguments: src/ring/hot.ts. `hot`: [0] end id, [1] length of the
   * message in `staging`, [2] result.
   */
  hotReceive(): void
  hotReceiveWait(): void
  hotSend(): void
  readonly hot: Int32Array
  readonly staging: Uint8Array
  /** Gives a received record back; out of order allowed. Twice: no effect, returns 0. */
  endRelease(id: number, sequence: number): number
  /**
   * [0] how many follow; then end id and sequence number of each record that the next call with an end gives back first; hotReceive and
   * hotReceiveWait when there are eight of them, or nothing to receive
   */
  readonly releases: Uint32Array
  /** Asks for Ready.WRITABLE once `length` payload bytes fit. True: they fit now (and nothing is asked). */
  endWantSpace(id: number, length: number): boolean
  /** Stops reading for good (receivers at a path change); records already lent stay readable. Returns `next`. */
  endStopReading(id: number): number
  /** Pauses or resumes READABLE reports. */
  endWantReadable(id: number, wanted: boolean): void
  /** Own outbox, read back: copies of every record from `sequence` on, for resending on another path. */
  endPending(id: number, sequence: number): { kind: number; total: number; bytes: Uint8Array }[]
  /** Far end of a pair: starts reading again at the oldest record not released (retransmission). */
  endRewind(id: number): void
  endCounters(id: number): EndCounters
  /** what broke, in words, after Status.FAULT */
  endFault(id: number): string
  /** true when no lease and no large message is left on the inbox */
  endIdle(id: number): boolean
  /** Frees the own half at once, and the id: the caller knows that the other side reads no more. */
  endDestroy(id: number): void
}

export interface OsFunctions {
  /**
   * Binds and listens with the given file mode (and group id, −1: keep); returns the descriptor. Throws EADDRINUSE when
   * somebody answers there, EEXIST when a file that is no socket is in the way; replaces a stale socket.
   */
  unixListen(path: string, mode: number, gid: number): number
  /** Serves the ivshmem-server protocol on a descriptor from unixListen, and takes it over. */
  fdListen(fd: number, handlers: FdListenHandlers): FdListener
  /** Connects and runs the client's handshake. Throws at once when nobody listens; a full backlog is tried again until close(). */
  ivshmemConnect(path: string, handlers: IvshmemHandlers): IvshmemSocket
  /** a new non-blocking close-on-exec eventfd */
  eventfd(): number
  eventfdSignal(fd: number): void
  closeFd(fd: number): void
  readonly buildInfo: { version: string; sanitizer: string; arch: string }
}

export interface NativeBinding extends EndFunctions, OsFunctions, StreamFunctions, BenchFunctions {
  Region: RegionConstructor
  Peer: PeerConstructor
  Device: DeviceConstructor
}
