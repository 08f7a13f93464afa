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
const decoder = new TextDecoder('utf-8')
const encoder = new TextEncoder()

/** Cuts a text to what a field may carry. */
function textBytes(text: string): Uint8Array {
  const bytes = encoder.encode(text)
  return bytes.length <= MAX_TEXT_BYTES ? bytes : bytes.subarray(0, MAX_TEXT_BYTES)
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

function u32(...values: number[]): Uint8Array {
  const bytes = new Uint8Array(values.length * 4)
  for (let i = 0; i < values.length; i++) putU32(bytes, i * 4, values[i]!)
  return bytes
}

function peerBytes({ uuid, incarnation }: PeerName): Uint8Array {
  const bytes = new Uint8Array(PEER_BYTES)
  bytes.set(uuid.subarray(0, 16))
  bytes.set(u32(incarnation), 16)
  return bytes
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

export function encodeFrame(init: FrameInit): Uint8Array {
  const fields: [number, Uint8Array][] = []
  if (init.service !== undefined) fields.push([Field.SERVICE, textBytes(init.service)])
  if (init.offer !== undefined) fields.push([Field.OFFER, init.offer])
  if (init.capacity !== undefined) fields.push([Field.CAPACITY, u32(init.capacity)])
  if (init.maxMessage !== undefined) {
    fields.push([Field.MAX_MESSAGE, u32(init.maxMessage >>> 0, Math.floor(init.maxMessage / 2 ** 32))])
  }
  if (init.reason !== undefined) {
    const text = textBytes(init.text ?? '')
    const bytes = new Uint8Array(4 + text.length)
    bytes.set(u32(init.reason))
    bytes.set(text, 4)
    fields.push([Field.REASON, bytes])
  }
  if (init.next !== undefined) fields.push([Field.NEXT, u32(init.next)])
  if (init.path !== undefined) fields.push([Field.PATH, textBytes(init.path)])
  if (init.part !== undefined) {
    fields.push([Field.PART, u32(init.part.serial, init.part.index, init.part.count)])
    for (const name of init.services ?? []) fields.push([Field.SERVICE, textBytes(name)])
  }
  if (init.peer !== undefined) fields.push([Field.PEER, peerBytes(init.peer)])
  if (init.target !== undefined) fields.push([Field.TARGET, peerBytes(init.target)])
  if (init.token !== undefined) fields.push([Field.TOKEN, init.token])
  if (init.origin !== undefined) fields.push([Field.ORIGIN, textBytes(init.origin)])
  for (const pattern of init.grants ?? []) fields.push([Field.GRANT, textBytes(pattern)])
  let length = 0
  for (const [, bytes] of fields) length += 4 + ((bytes.length + 3) & ~3)
  const frame = new Uint8Array(HEADER_BYTES + length)
  const flags = init.flags ?? 0
  frame[0] = FRAME_VERSION
  frame[1] = init.type
  frame[2] = flags
  frame[3] = flags >>> 8
  putU32(frame, 4, init.epoch ?? 0)
  frame.set(init.channel ?? NO_CHANNEL, 8)
  putU32(frame, 32, length)
  let at = HEADER_BYTES
  for (const [type, bytes] of fields) {
    frame[at] = type
    frame[at + 1] = type >>> 8
    frame[at + 2] = bytes.length
    frame[at + 3] = bytes.length >>> 8
    frame.set(bytes, at + 4)
    at += 4 + ((bytes.length + 3) & ~3)
  }
  return frame
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

/** Null for a frame that is malformed: it is dropped. */
export function decodeFrame(bytes: Uint8Array): Frame | null {
  const header = readHeader(bytes)
  if (header === null) return null
  const { view, end } = header
  const frame: Frame = {
    type: header.type,
    flags: header.flags,
    epoch: header.epoch,
    channel: header.channel,
  }
  let at = HEADER_BYTES
  while (at < end) {
    if (end - at < 4) return null
    const raw = view.getUint16(at, true)
    const length = view.getUint16(at + 2, true)
    const type = raw & ~MUST_UNDERSTAND
    const next = at + 4 + ((length + 3) & ~3)
    if (next > end) return null
    if (!KNOWN_FIELDS.has(type)) {
      if ((raw & MUST_UNDERSTAND) !== 0) frame.notUnderstood = true
    } else if (!readField(frame, type, bytes.subarray(at + 4, at + 4 + length))) {
      return null
    }
    at = next
  }
  return frame
}

function readField(frame: Frame, type: number, value: Uint8Array): boolean {
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength)
  switch (type) {
    case Field.SERVICE:
      if (value.length > MAX_TEXT_BYTES) return false
      if (frame.part !== undefined) frame.services!.push(decoder.decode(value))
      else frame.service ??= decoder.decode(value)
      return true
    case Field.OFFER:
      frame.offer ??= value
      return true
    case Field.CAPACITY:
      if (value.length !== 4) return false
      frame.capacity ??= view.getUint32(0, true)
      return true
    case Field.MAX_MESSAGE:
      if (value.length !== 8) return false
      frame.maxMessage ??= view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32
      return true
    case Field.REASON:
      if (value.length < 4 || value.length > 4 + MAX_TEXT_BYTES) return false
      frame.reason ??= view.getUint32(0, true)
      frame.text ??= decoder.decode(value.subarray(4))
      return true
    case Field.NEXT:
      if (value.length !== 4) return false
      frame.next ??= view.getUint32(0, true)
      return true
    case Field.PATH:
      if (value.length > MAX_TEXT_BYTES) return false
      frame.path ??= decoder.decode(value)
      return true
    case Field.PEER:
    case Field.TARGET: {
      if (value.length !== PEER_BYTES) return false
      const incarnation = view.getUint32(16, true)
      if (incarnation === 0) return false
      frame[type === Field.PEER ? 'peer' : 'target'] ??= { uuid: value.slice(0, 16), incarnation }
      return true
    }
    case Field.TOKEN:
      if (value.length !== TOKEN_BYTES) return false
      frame.token ??= value.slice()
      return true
    case Field.ORIGIN:
      if (value.length > MAX_TEXT_BYTES) return false
      frame.origin ??= decoder.decode(value)
      return true
    case Field.GRANT:
      if (value.length > MAX_TEXT_BYTES) return false
      frame.grants ??= []
      frame.grants.push(decoder.decode(value))
      return true
    default:
      if (value.length !== 12 || frame.part !== undefined) return false
      frame.part = {
        serial: view.getUint32(0, true),
        index: view.getUint32(4, true),
        count: view.getUint32(8, true),
      }
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
