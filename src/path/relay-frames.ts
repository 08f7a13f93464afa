/**
 * What a process and the relay say to each other before (and beside) the bytes that the relay carries. Session frames of
 * types 32 and up, so that one codec serves both; docs/protocol.md section 14 has the normative description.
 */
import { connectionRefused, type ErrorCode, VmringError } from '../errors.js'
import {
  decodeFrame,
  encodeFrame,
  Flag,
  FRAME_VERSION,
  type Frame,
  type FrameInit,
  HEADER_BYTES,
  type PeerName,
  Reason,
} from './frames.js'

export type { PeerName } from './frames.js'

/** virtio socket port of the relay that guests dial when nobody says otherwise; a relay listens there only when told to */
export const RELAY_PORT = 5790
/** the longest relay frame, header included */
export const MAX_RELAY_FRAME = 2048
/** Either side of a control connection asks with PING after this much silence, in ms … */
export const IDLE_MS = 10_000
/** … and gives the connection up after this much. */
export const SILENT_MS = 30_000

export const RelayType = {
  HELLO: 32,
  WELCOME: 33,
  LISTEN: 34,
  UNLISTEN: 35,
  DIAL: 36,
  CALL: 37,
  TAKE: 38,
  SPLICED: 39,
  REFUSE: 40,
  OK: 41,
  REVOKE: 42,
  PING: 43,
  PONG: 44,
} as const

/** Reasons of a relay's REFUSE, beside those of sessions (`NO_SERVICE`, `LIMIT`, …). */
export const RelayReason = {
  /** the policy does not allow it */
  POLICY: 16,
  /** a limit is reached, or the two are being connected already: later it may work */
  BUSY: 17,
  /** no process of that name has a control connection, or it did not answer the call */
  UNKNOWN_PEER: 18,
  /** the peer belongs to another origin, or to none that is connected */
  IDENTITY: 19,
  /** another version of the frame format */
  VERSION: 20,
  /** no sense in what was sent, or not in time */
  HANDSHAKE: 21,
  /** the relay has just started and has not met this process: it may have lost its former one and be on its way back */
  NOT_YET: 22,
} as const

export interface RefuseFrame {
  type: typeof RelayType.REFUSE
  reason: number
  text: string
  /** of a LISTEN */
  service?: string
  /** of a CALL */
  token?: Uint8Array
}

export interface SplicedFrame {
  type: typeof RelayType.SPLICED
  /** the other side, as the relay attests it */
  peer: PeerName
  /** 'cid:3' or 'uid:1000' */
  origin: string
  /** patterns of service names that the OTHER side may connect to at this one */
  grants: string[]
  path: 'vsock' | 'unix'
}

export type RelayFrame =
  | { type: typeof RelayType.HELLO; peer: PeerName }
  | { type: typeof RelayType.WELCOME; origin: string }
  | {
      type: typeof RelayType.LISTEN | typeof RelayType.UNLISTEN | typeof RelayType.OK
      service: string
    }
  | { type: typeof RelayType.DIAL; peer: PeerName; service?: string; target?: PeerName }
  | { type: typeof RelayType.CALL; token: Uint8Array; peer: PeerName; origin: string }
  | { type: typeof RelayType.TAKE; token: Uint8Array; peer: PeerName }
  | SplicedFrame
  | RefuseFrame
  /** `restore`: shared memory may be used again (flag DONE) */
  | { type: typeof RelayType.REVOKE; restore: boolean }
  | { type: typeof RelayType.PING | typeof RelayType.PONG }

export function encodeRelayFrame(frame: RelayFrame): Uint8Array {
  const init: FrameInit = { ...frame }
  if (frame.type === RelayType.REVOKE) init.flags = frame.restore ? Flag.DONE : 0
  return encodeFrame(init)
}

/**
 * 'unknown' for a type that this version does not know: it is dropped, so that later versions can say more.
 * 'malformed' for a frame that lacks a field, has one of the wrong length, or one that must be understood and is not.
 */
export function decodeRelayFrame(bytes: Uint8Array): RelayFrame | 'unknown' | 'malformed' {
  const frame = decodeFrame(bytes)
  if (frame === null || frame.notUnderstood === true) return 'malformed'
  if (frame.type < RelayType.HELLO || frame.type > RelayType.PONG) return 'unknown'
  return select(frame) ?? 'malformed'
}

function select(frame: Frame): RelayFrame | null {
  const { type, peer, target, token, grants, reason } = frame
  const service = name(frame.service)
  const origin = name(frame.origin)
  if (service === null || origin === null) return null
  switch (type) {
    case RelayType.HELLO:
      return peer ? { type, peer } : null
    case RelayType.WELCOME:
      return origin ? { type, origin } : null
    case RelayType.LISTEN:
    case RelayType.UNLISTEN:
    case RelayType.OK:
      return service ? { type, service } : null
    case RelayType.DIAL:
      if (!peer || (!service && !target)) return null
      return { type, peer, ...(service && { service }), ...(target && { target }) }
    case RelayType.CALL:
      return token && peer && origin ? { type, token, peer, origin } : null
    case RelayType.TAKE:
      return token && peer ? { type, token, peer } : null
    case RelayType.SPLICED: {
      const { path } = frame
      if (!peer || !origin || (path !== 'vsock' && path !== 'unix')) return null
      return { type, peer, origin, grants: grants ?? [], path }
    }
    case RelayType.REFUSE:
      if (reason === undefined) return null
      return { type, reason, text: frame.text ?? '', ...(service && { service }), ...(token && { token }) }
    case RelayType.REVOKE:
      return { type, restore: (frame.flags & Flag.DONE) !== 0 }
    case RelayType.PING:
    case RelayType.PONG:
      return { type }
    default:
      return null
  }
}

/** Null for what stands in the frame but is no name: empty, or no UTF-8 (the decoder has put U+FFFD there). */
function name(text: string | undefined): string | undefined | null {
  return text === '' || text?.includes('\ufffd') ? null : text
}

/** True when the pattern covers the name; `*` stands for any run of characters, also none. Time: product of the lengths at most. */
export function matches(pattern: string, service: string): boolean {
  let at = 0
  let star = -1
  let resume = 0
  let i = 0
  while (i < service.length) {
    if (pattern[at] === '*') {
      star = at++
      resume = i
    } else if (at < pattern.length && pattern[at] === service[i]) {
      at++
      i++
    } else if (star !== -1) {
      at = star + 1
      i = ++resume
    } else {
      return false
    }
  }
  while (pattern[at] === '*') at++
  return at === pattern.length
}

/** What FrameReader throws; `reason` is what a REFUSE would say. */
export function badFrame(reason: number, message: string): VmringError & { reason: number } {
  return new VmringError('ERR_VMRING_PROTOCOL', message, { details: { reason } }) as VmringError & {
    reason: number
  }
}

/**
 * Cuts a stream of bytes into frames. Keeps at most one frame of `maxBytes` and the last chunk; chunks are copied, so their
 * memory may be used again.
 *
 *   reader.push(chunk); for (let f; (f = reader.next()) !== null; ) …; then reader.rest() when the stream changes its meaning
 */
export class FrameReader {
  readonly #maxBytes: number
  #bytes = new Uint8Array(0)
  #at = 0

  constructor(maxBytes = MAX_RELAY_FRAME) {
    this.#maxBytes = maxBytes
  }

  /** bytes that wait behind the frames taken so far */
  get pending(): number {
    return this.#bytes.length - this.#at
  }

  push(chunk: Uint8Array): void {
    const bytes = new Uint8Array(this.pending + chunk.length)
    bytes.set(this.#bytes.subarray(this.#at))
    bytes.set(chunk, this.pending)
    this.#bytes = bytes
    this.#at = 0
  }

  /** The next whole frame, private to the caller; null when more bytes are needed. Throws what badFrame() makes: VERSION, HANDSHAKE (too long). */
  next(): Uint8Array | null {
    if (this.pending === 0) return null
    const version = this.#bytes[this.#at]
    // said as soon as it is known: who speaks something else may never send 40 bytes
    if (version !== FRAME_VERSION)
      throw badFrame(RelayReason.VERSION, `frame format ${version}, where this side speaks ${FRAME_VERSION}`)
    if (this.pending < HEADER_BYTES) return null
    const view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset + this.#at)
    const length = HEADER_BYTES + view.getUint32(32, true)
    if (length > this.#maxBytes)
      throw badFrame(
        RelayReason.HANDSHAKE,
        `a frame of ${length} bytes, where ${this.#maxBytes} are the most`,
      )
    if (this.pending < length) return null
    const frame = this.#bytes.slice(this.#at, this.#at + length)
    this.#at += length
    return frame
  }

  /** The bytes behind the last frame taken; the reader is empty afterwards. */
  rest(): Uint8Array {
    const rest = this.#bytes.slice(this.#at)
    this.#bytes = new Uint8Array(0)
    this.#at = 0
    return rest
  }
}

const codes: Record<number, ErrorCode> = {
  [Reason.LIMIT]: 'ERR_VMRING_RELAY_BUSY',
  [RelayReason.POLICY]: 'ERR_VMRING_POLICY',
  [RelayReason.BUSY]: 'ERR_VMRING_RELAY_BUSY',
  [RelayReason.UNKNOWN_PEER]: 'ERR_VMRING_UNKNOWN_PEER',
  [RelayReason.IDENTITY]: 'ERR_VMRING_IDENTITY',
  [RelayReason.VERSION]: 'ERR_VMRING_RELAY_VERSION',
  [RelayReason.HANDSHAKE]: 'ERR_VMRING_RELAY_PROTOCOL',
  [RelayReason.NOT_YET]: 'ERR_VMRING_UNKNOWN_PEER',
}

/** The error that a REFUSE is for the program: ECONNREFUSED when nobody listens, else a code for each reason; `reason` is kept. */
export function refusalError({ reason, text, service }: Omit<RefuseFrame, 'type'>): VmringError {
  if (reason === Reason.NO_SERVICE) return connectionRefused(service ?? '', text === '' ? [] : [text])
  const code = codes[reason] ?? 'ERR_VMRING_REFUSED'
  const said = text === '' ? `reason ${reason}` : text
  const about = service === undefined ? '' : ` '${service}'`
  return new VmringError(code, `the relay refused${about}: ${said}`, { details: { reason } })
}
