/**
 * The seam between sessions and whatever carries them. A `Path` joins this process to one remote process; a `PathEnd` is
 * one channel's two rings on that path, during one epoch.
 *
 * A path never interprets session frames, and a session never knows whether records move by themselves (shared memory)
 * or are pumped over a wire. Frames may be lost, doubled and reordered on any path: sessions repeat them.
 */
import type { RecordCounts } from '../errors.js'
import type { EndHandle } from '../ring/ends.js'

/** A process. Its UUID is new at every start. */
export interface PeerRef {
  readonly uuid: Uint8Array
  /** as a member of a region: changes when it leaves that and comes back; 0 where nothing has said one */
  readonly incarnation: number
  /** index in the region's peer table, −1 when it is reached without a region */
  readonly section: number
}

export function peerKey(uuid: Uint8Array): string {
  return Buffer.from(uuid.buffer, uuid.byteOffset, uuid.byteLength).toString('hex')
}

/** Bytes of a channel id on the wire: initiator UUID (16), its incarnation (4), a counter (4). */
export const CHANNEL_ID_BYTES = 24

export interface EndSpec {
  /** 24 bytes */
  channel: Uint8Array
  epoch: number
  /** bytes of each ring, a power of two, equal on both sides */
  capacity: number
}

/** What a path end tells the session. */
export interface EndEvents {
  onReadable(): void
  onWritable(): void
  /** the rings are unusable; the error says why */
  onFault(error: Error): void
}

/** Two rings of one channel during one epoch. Records in each direction are numbered from 0. */
export interface PathEnd extends EndHandle {
  readonly path: Path
  /** what the other side needs in order to join; meaningful to this kind of path only */
  readonly offer: Uint8Array
  /** largest message that fits in one record, in bytes */
  readonly inlineLimit: number
  /** true when messages above the inline limit can go through section memory */
  readonly large: boolean
  /** true when waiting for a message on this thread makes sense (nothing in this process moves the records) */
  readonly blocking: boolean
  /** true when the other side reads the outbox in place, so that it must say when it has finished */
  readonly shared: boolean
  events: EndEvents | null
  /** Joins the other side's half. Throws ERR_VMRING_PROTOCOL for an offer that makes no sense. */
  attach(offer: Uint8Array): void
  /** Stops reading for good; returns the number of the next record that was not delivered. Lent records stay readable. */
  stop(): number
  /** Records sent, and how many of them the other application has been given and has released, by its own words. */
  progress(): RecordCounts
  /** Own records from `from` on, copied. Throws when the memory is gone. */
  pending(from: number): { kind: number; total: number; bytes: Uint8Array }[]
  /** Copies a message into section memory and publishes it: 1, or a Status; TOO_LARGE when there is no memory for it now. */
  sendLarge(bytes: Uint8Array): number
  /** Frees everything. The caller knows that nobody reads the outbox any more. `leased`: a send lease on it is still open. */
  destroy(leased?: boolean): void
}

export interface PathEvents {
  /** A session frame, in private memory. */
  onFrame(path: Path, frame: Uint8Array): void
  /** The path is gone for good. */
  onLost(path: Path, error: Error): void
  /** The remote has left it. It may have ended, or live on where other paths lead. */
  onLeft(path: Path): void
  onStalled(path: Path, stalled: boolean): void
}

export interface Path {
  /** 'shm', 'unix', 'vsock', … */
  readonly name: string
  readonly remote: PeerRef
  /** true while the remote shows no sign of life on this path */
  readonly stalled: boolean
  readonly lost: boolean
  /** false when losing the path loses the outboxes on it */
  readonly keepsOutbox: boolean
  /** Whether the remote may open channels to that service over this path; absent: to every one. */
  readonly allows?: (service: string) => boolean
  events: PathEvents | null
  /** Sends a session frame, at most `maxFrame` bytes. It may get lost. */
  send(frame: Uint8Array): void
  readonly maxFrame: number
  /** Ring capacity to propose for a new channel; `many`: it is one of hundreds. */
  defaultCapacity(many?: boolean): number
  /** Throws ERR_VMRING_SECTION_FULL. */
  createEnd(spec: EndSpec): PathEnd
  /** Nobody waits just now: what the next end of that capacity takes may be done ahead, if one seems to be wanted soon. */
  prepare?(capacity: number): void
}
