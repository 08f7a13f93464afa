/**
 * Session frames: one codec for every path. docs/protocol.md has the normative description.
 *
 *   0  u8 version   1  u8 type   2  u16 flags   4  u32 epoch
 *   8  channel id: 16 bytes initiator UUID, u32 incarnation, u32 counter (all zero in frames about no channel)
 *  32  u32 length of what follows   36  u32 reserved
 *  40  fields {u16 type | 0x8000 must-understand, u16 length, bytes padded to 4}, or the fixed body of DATA and ACK
 *
 * Little endian. Frames are private bytes by the time they come here; still, every length is checked.
 */
import { CHANNEL_ID_BYTES } from './path.js'

export const FRAME_VERSION = 1
export const HEADER_BYTES = 40

export const FrameType = {
  HELLO: 1,
  HELLO_ACK: 2,
  ANNOUNCE: 3,
  WITHDRAW: 4,
  OPEN: 5,
  ACCEPT: 6,
  REFUSE: 7,
  RESET: 8,
  RESET_ACK: 9,
  CLOSE: 10,
  CLOSED: 11,
  ASK_MOVE: 12,
  MOVE: 13,
  MOVED: 14,
  RETIRE: 15,
  DATA: 16,
  ACK: 17,
  BELLS: 18,
} as const

export const Flag = {
  /** ACK: a record is missing or had no room; send again from `expected` */
  GAP: 1,
  /** ACK: answer with an ACK */
  ASK: 2,
  /** DATA: first fragment; the payload starts with the u64 total */
  FIRST: 4,
  /** RETIRE: the reader is done with the ring (without: the owner asks). BELLS: so it is (without: ring me on this path) */
  DONE: 8,
  /** MOVED: the proposer has switched as well */
  CONFIRM: 16,
  /** ASK_MOVE: stay there as long as that path lives */
  KEEP: 32,
} as const

/** Field types. */
export const Field = {
  SERVICE: 1,
  OFFER: 2,
  CAPACITY: 3,
  MAX_MESSAGE: 4,
  REASON: 5,
  NEXT: 6,
  PART: 8,
  PATH: 9,
  // the relay's (relay-frames.ts)
  PEER: 10,
  TARGET: 11,
  TOKEN: 12,
  ORIGIN: 13,
  GRANT: 14,
} as const

const MUST_UNDERSTAND = 0x8000
const KNOWN_FIELDS: ReadonlySet<number> = new Set(Object.values(Field))

/** Why an OPEN or a move was declined, or a channel reset. */
export const Reason = {
  NO_SERVICE: 1,
  LIMIT: 2,
  NOT_UNDERSTOOD: 3,
  CLOSED: 4,
  DESTROYED: 5,
  PROTOCOL: 6,
  SECTION_FULL: 7,
  POLICY: 16,
} as const

/** No field may be longer; reasons are cut, service names are checked by who sets them. */
export const MAX_TEXT_BYTES = 255
/** PEER and TARGET: UUID and incarnation of a process. */
const PEER_BYTES = 20
export const TOKEN_BYTES = 16

/** A process as PEER and TARGET name it. */
export interface PeerName {
  /** 16 bytes */
  readonly uuid: Uint8Array
  /** never 0 */
  readonly incarnation: number
}

export interface Frame {
  type: number
  flags: number
  epoch: number
  channel: Uint8Array
  /** first value of each known field */
  service?: string
  offer?: Uint8Array
  capacity?: number
  maxMessage?: number
  reason?: number
  text?: string
  next?: number
  path?: string
  /** HELLO_ACK: names of one part */
  part?: { serial: number; index: number; count: number }
  services?: string[]
  peer?: PeerName
  target?: PeerName
  token?: Uint8Array
  origin?: string
  /** every GRANT, in order */
  grants?: string[]
  /** set when a required field is not known here: the frame must be refused, not obeyed */
  notUnderstood?: boolean
}

export type FrameInit = Partial<Omit<Frame, 'notUnderstood'>> & { type: number }

const NO_CHANNEL = new Uint8Array(CHANNEL_ID_BYTES)
const decoded = Buffer.alloc(MAX_TEXT_BYTES)

/** At most MAX_TEXT_BYTES. */
function textOf(bytes: Uint8Array): string {
  decoded.set(bytes)
  return decoded.toString('utf8', 0, bytes.length)
}

// Byte by byte: a DataView of a small array makes the engine give it a buffer of its own, which costs more than all the rest of a frame.
export function putU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value
  bytes[at + 1] = value >>> 8
  bytes[at + 2] = value >>> 16
  bytes[at + 3] = value >>> 24
}

/** Of 8 bytes: the offsets and sizes that can be are below 2^53. */
export function putU64(bytes: Uint8Array, at: number, value: number): void {
  putU32(bytes, at, value >>> 0)
  putU32(bytes, at + 4, Math.floor(value / 2 ** 32))
}

export function writeHeader(
  target: Uint8Array,
  type: number,
  flags: number,
  epoch: number,
  channel: Uint8Array,
  length: number,
): DataView {
  const view = new DataView(target.buffer, target.byteOffset, target.byteLength)
  target[0] = FRAME_VERSION
  target[1] = type
  view.setUint16(2, flags, true)
  view.setUint32(4, epoch, true)
  target.set(channel, 8)
  view.setUint32(32, length, true)
  return view
}

// Frames are written into a slab and cut from it: an array for each, and for each of its fields, costs more than all that is written.
// What has been cut is never written again.
const SLAB_BYTES = 2048
let slab = Buffer.alloc(SLAB_BYTES)
let written = 0

/** Bytes that a field with this text takes at most. */
function roomFor(text: string | undefined): number {
  return text === undefined ? 0 : 16 + Math.min(MAX_TEXT_BYTES, text.length * 3)
}

function roomForAll(texts: string[] | undefined): number {
  return texts === undefined ? 0 : texts.reduce((sum, text) => sum + roomFor(text), 0)
}

/** Returns where the `length` bytes of the field go. */
function putField(type: number, length: number): number {
  const at = written + 4
  slab[written] = type
  slab[written + 1] = type >>> 8
  slab[written + 2] = length
  slab[written + 3] = length >>> 8
  written = at + ((length + 3) & ~3)
  return at
}

function putWord(type: number, value: number): void {
  putU32(slab, putField(type, 4), value)
}

function putBytes(type: number, bytes: Uint8Array): void {
  slab.set(bytes, putField(type, bytes.length))
}

/** Texts are cut to what a field may carry. `before`: bytes in front of it in the same field, which the caller fills. */
function putText(type: number, text: string, before = 0): number {
  const length = slab.write(text, written + 4 + before, MAX_TEXT_BYTES)
  return putField(type, before + length)
}

function putPeer(type: number, { uuid, incarnation }: PeerName): void {
  const at = putField(type, PEER_BYTES)
  slab.set(uuid.subarray(0, 16), at)
  putU32(slab, at + 16, incarnation)
}

export function encodeFrame(init: FrameInit): Uint8Array {
  const most =
    HEADER_BYTES +
    160 + // all fields of fixed length
    (init.offer?.length ?? 0) +
    (init.token?.length ?? 0) +
    (roomFor(init.service) + roomFor(init.text) + roomFor(init.path) + roomFor(init.origin)) +
    (roomForAll(init.services) + roomForAll(init.grants))
  if (written + most > slab.length) {
    slab = Buffer.alloc(Math.max(SLAB_BYTES, most))
    written = 0
  }
  const begin = written
  written += HEADER_BYTES
  if (init.service !== undefined) putText(Field.SERVICE, init.service)
  if (init.offer !== undefined) putBytes(Field.OFFER, init.offer)
  if (init.capacity !== undefined) putWord(Field.CAPACITY, init.capacity)
  if (init.maxMessage !== undefined) putU64(slab, putField(Field.MAX_MESSAGE, 8), init.maxMessage)
  if (init.reason !== undefined) putU32(slab, putText(Field.REASON, init.text ?? '', 4), init.reason)
  if (init.next !== undefined) putWord(Field.NEXT, init.next)
  if (init.path !== undefined) putText(Field.PATH, init.path)
  if (init.part !== undefined) {
    const at = putField(Field.PART, 12)
    putU32(slab, at, init.part.serial)
    putU32(slab, at + 4, init.part.index)
    putU32(slab, at + 8, init.part.count)
    for (const name of init.services ?? []) putText(Field.SERVICE, name)
  }
  if (init.peer !== undefined) putPeer(Field.PEER, init.peer)
  if (init.target !== undefined) putPeer(Field.TARGET, init.target)
  if (init.token !== undefined) putBytes(Field.TOKEN, init.token)
  if (init.origin !== undefined) putText(Field.ORIGIN, init.origin)
  if (init.grants !== undefined) for (const pattern of init.grants) putText(Field.GRANT, pattern)
  const flags = init.flags ?? 0
  slab[begin] = FRAME_VERSION
  slab[begin + 1] = init.type
  slab[begin + 2] = flags
  slab[begin + 3] = flags >>> 8
  putU32(slab, begin + 4, init.epoch ?? 0)
  slab.set(init.channel ?? NO_CHANNEL, begin + 8)
  putU32(slab, begin + 32, written - begin - HEADER_BYTES)
  return new Uint8Array(slab.buffer, slab.byteOffset + begin, written - begin)
}

/** Type, flags and epoch of a frame that is long enough and of a known version; null otherwise. */
export function readHeader(
  frame: Uint8Array,
): { type: number; flags: number; epoch: number; channel: Uint8Array; view: DataView; end: number } | null {
  if (frame.byteLength < HEADER_BYTES || frame[0] !== FRAME_VERSION) return null
  const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength)
  const length = view.getUint32(32, true)
  if (length > frame.byteLength - HEADER_BYTES) return null
  return {
    type: frame[1]!,
    flags: view.getUint16(2, true),
    epoch: view.getUint32(4, true),
    channel: frame.subarray(8, 8 + CHANNEL_ID_BYTES),
    view,
    end: HEADER_BYTES + length,
  }
}

const u16At = (bytes: Uint8Array, at: number) => bytes[at]! | (bytes[at + 1]! << 8)
export const u32At = (bytes: Uint8Array, at: number) =>
  (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0

/** Null for a frame that is malformed: it is dropped. */
export function decodeFrame(bytes: Uint8Array): Frame | null {
  if (bytes.length < HEADER_BYTES || bytes[0] !== FRAME_VERSION) return null
  const end = HEADER_BYTES + u32At(bytes, 32)
  if (end > bytes.length) return null
  const frame: Frame = {
    type: bytes[1]!,
    flags: u16At(bytes, 2),
    epoch: u32At(bytes, 4),
    channel: bytes.subarray(8, 8 + CHANNEL_ID_BYTES),
  }
  let at = HEADER_BYTES
  while (at < end) {
    if (end - at < 4) return null
    const raw = u16At(bytes, at)
    const length = u16At(bytes, at + 2)
    const type = raw & ~MUST_UNDERSTAND
    const next = at + 4 + ((length + 3) & ~3)
    if (next > end) return null
    if (!KNOWN_FIELDS.has(type)) {
      if ((raw & MUST_UNDERSTAND) !== 0) frame.notUnderstood = true
    } else if (!readField(frame, type, bytes, at + 4, length)) {
      return null
    }
    at = next
  }
  return frame
}

function readField(frame: Frame, type: number, bytes: Uint8Array, at: number, length: number): boolean {
  switch (type) {
    case Field.SERVICE:
      if (length > MAX_TEXT_BYTES) return false
      if (frame.part !== undefined) frame.services!.push(textOf(bytes.subarray(at, at + length)))
      else frame.service ??= textOf(bytes.subarray(at, at + length))
      return true
    case Field.OFFER:
      frame.offer ??= bytes.subarray(at, at + length)
      return true
    case Field.CAPACITY:
      if (length !== 4) return false
      frame.capacity ??= u32At(bytes, at)
      return true
    case Field.MAX_MESSAGE:
      if (length !== 8) return false
      frame.maxMessage ??= u32At(bytes, at) + u32At(bytes, at + 4) * 2 ** 32
      return true
    case Field.REASON:
      if (length < 4 || length > 4 + MAX_TEXT_BYTES) return false
      frame.reason ??= u32At(bytes, at)
      frame.text ??= textOf(bytes.subarray(at + 4, at + length))
      return true
    case Field.NEXT:
      if (length !== 4) return false
      frame.next ??= u32At(bytes, at)
      return true
    case Field.PATH:
      if (length > MAX_TEXT_BYTES) return false
      frame.path ??= textOf(bytes.subarray(at, at + length))
      return true
    case Field.PEER:
    case Field.TARGET: {
      if (length !== PEER_BYTES) return false
      const incarnation = u32At(bytes, at + 16)
      if (incarnation === 0) return false
      frame[type === Field.PEER ? 'peer' : 'target'] ??= { uuid: bytes.slice(at, at + 16), incarnation }
      return true
    }
    case Field.TOKEN:
      if (length !== TOKEN_BYTES) return false
      frame.token ??= bytes.slice(at, at + length)
      return true
    case Field.ORIGIN:
      if (length > MAX_TEXT_BYTES) return false
      frame.origin ??= textOf(bytes.subarray(at, at + length))
      return true
    case Field.GRANT:
      if (length > MAX_TEXT_BYTES) return false
      frame.grants ??= []
      frame.grants.push(textOf(bytes.subarray(at, at + length)))
      return true
    default:
      if (length !== 12 || frame.part !== undefined) return false
      frame.part = { serial: u32At(bytes, at), index: u32At(bytes, at + 4), count: u32At(bytes, at + 8) }
      frame.services = []
      return true
  }
}

/** DATA: u32 sequence, u32 released, u32 expected, u32 next, u8 kind, 3 reserved, then the payload. */
export const DATA_BODY = 20
/** ACK: u32 expected (accepted into the inbox), u32 next (delivered to the application), u32 released. */
export const ACK_BODY = 12
/** Most bytes of a DATA frame beyond its payload: header, body, and the total of a first fragment. */
export const DATA_OVERHEAD = HEADER_BYTES + DATA_BODY + 8
