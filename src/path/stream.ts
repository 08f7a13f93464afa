/**
 * A wire over a byte stream: a Unix or virtio socket, spliced by the relay or direct. Frames stand one behind the other;
 * a zero byte between two of them is a doorbell.
 *
 * Reading: small frames are parsed where they were read, in a staging buffer, and copied into the ring once. What is still
 * to come of a large payload is read by the system straight into the ring. Writing: the frames of one turn go out in one
 * call, large payloads from the outbox itself.
 *
 * Memory: the staging buffer, and what waits for a socket that is full. DATA waits in its outbox (send() says false);
 * session frames may get lost on any path and are dropped beyond a bound, and a peer that has us answer what it never
 * reads loses the wire.
 */
import { VmringError } from '../errors.js'
import type { NativeStream } from '../native/socket-types.js'
import { DATA_BODY, DATA_OVERHEAD, FRAME_VERSION, FrameType, HEADER_BYTES } from './frames.js'
import { MAX_SESSION_FRAME, type Wire, type WireEvents } from './pump.js'

export interface StreamWireOptions {
  name: 'unix' | 'vsock'
  /** bytes that were read before this wire took the stream over */
  buffered?: Uint8Array
}

const STAGING_BYTES = 64 * 1024
/** Once this much of a payload is still to come, it goes straight to its place. */
const DIRECT_FROM = 4096
/** Read behind a large payload: the next one is likely to be large too, and what is staged has to be copied. */
const PEEK_BYTES = 1024
/** Payloads up to this are copied beside their heads: cheaper than one more piece to gather. */
const COPIED_UP_TO = 1024
const POOL_BYTES = 64 * 1024
/** Goes out before the turn ends. */
const GATHER_BYTES = 256 * 1024
/** Session frames that wait for a full socket. */
const MAX_WAITING_BYTES = 256 * 1024
/** A peer that sent this much while nothing could be sent to it does not read. */
const MAX_UNREAD_BYTES = 64 * 1024
/** Payload of the largest record that any ring can hold (2^27 − 1), with the total of a first fragment. */
const MAX_DATA_LENGTH = DATA_BODY + 2 ** 27 - 1 + 8
const BELL = Uint8Array.of(0)

export class StreamWire implements Wire {
  readonly name: string
  readonly reliable = true
  readonly #stream: NativeStream
  #events: WireEvents | null = null
  #lost: Error | null = null
  #closed = false

  // what has been read
  readonly #staging = new Uint8Array(STAGING_BYTES)
  readonly #view = new DataView(this.#staging.buffer)
  readonly #peek = this.#staging.subarray(0, PEEK_BYTES)
  #buffered: Uint8Array | null
  /** bytes in the staging buffer: the beginning of a frame, when reading goes on */
  #have = 0
  /** where a payload goes on */
  #rest: Uint8Array | null = null
  /** bytes of a payload that nobody wants */
  #skip = 0
  #target: Uint8Array | null = null

  // what has to be written
  #pool = new Uint8Array(POOL_BYTES)
  #poolFrom = 0
  #poolTo = 0
  #chunks: Uint8Array[] = []
  #waiting = 0
  #full = false
  #readWhenFull = 0
  #flushing = false

  constructor(stream: NativeStream, options: StreamWireOptions) {
    this.name = options.name
    this.#stream = stream
    this.#buffered = options.buffered ?? null
    stream.pause()
    stream.start({
      onRead: (length) => this.#onRead(length),
      onEnd: () => this.#lose(endedEarly()),
      onDrain: () => this.#onDrain(),
      onClose: (error) => this.#lose(error ?? endedEarly()),
    })
  }

  get events(): WireEvents | null {
    return this.#events
  }

  /** Reading begins once somebody listens, in the next turn. */
  set events(events: WireEvents | null) {
    const first = this.#events === null && events !== null
    this.#events = events
    if (first) setImmediate(() => this.#begin())
  }

  // ---- writing ---------------------------------------------------------------------------------------------------

  send(head: Uint8Array, payload: Uint8Array | null): boolean {
    if (this.#closed) return true
    const length = payload?.length ?? 0
    if (this.#full && head[1] !== FrameType.DATA && !this.#mayWait(head.length)) return false
    if (length > COPIED_UP_TO) {
      this.#put(head)
      this.#cut()
      this.#chunks.push(payload!)
    } else {
      this.#put(head, payload)
    }
    this.#waiting += head.length + length
    if (this.#full) return false
    if (this.#waiting >= GATHER_BYTES) this.#flush()
    else this.#flushSoon()
    return !this.#full
  }

  /** Asks the other side to look. One bell is as good as several. */
  ring(): void {
    if (this.#closed || this.#full) return
    this.#put(BELL)
    this.#waiting++
    this.#flushSoon()
  }

  /** False: the frame is dropped. */
  #mayWait(length: number): boolean {
    if (this.#waiting + length <= MAX_WAITING_BYTES) return true
    if (this.#stream.bytesRead - this.#readWhenFull > MAX_UNREAD_BYTES) {
      const error = protocol(this.name, 'it sends and does not read what it is answered')
      this.#shut()
      process.nextTick(() => this.#tellLost(error))
    }
    return false
  }

  #put(head: Uint8Array, payload: Uint8Array | null = null): void {
    const length = head.length + (payload?.length ?? 0)
    if (this.#poolTo + length > POOL_BYTES) {
      this.#cut()
      // The old one belongs to what is on its way.
      this.#pool = new Uint8Array(POOL_BYTES)
      this.#poolFrom = this.#poolTo = 0
    }
    this.#pool.set(head, this.#poolTo)
    if (payload !== null) this.#pool.set(payload, this.#poolTo + head.length)
    this.#poolTo += length
  }

  #cut(): void {
    if (this.#poolTo === this.#poolFrom) return
    this.#chunks.push(this.#pool.subarray(this.#poolFrom, this.#poolTo))
    this.#poolFrom = this.#poolTo
  }

  #flushSoon(): void {
    if (this.#flushing) return
    this.#flushing = true
    queueMicrotask(() => this.#flush())
  }

  #flush(): void {
    this.#flushing = false
    if (this.#closed || this.#full || this.#waiting === 0) return
    this.#cut()
    const chunks = this.#chunks
    this.#chunks = []
    this.#waiting = 0
    this.#full = this.#stream.write(chunks) > 0
    if (this.#full) this.#readWhenFull = this.#stream.bytesRead
    else this.#poolFrom = this.#poolTo = 0
  }

  #onDrain(): void {
    if (this.#closed) return
    this.#full = false
    this.#flush()
    if (!this.#full) this.#events?.onWritable()
  }

  // ---- reading ---------------------------------------------------------------------------------------------------

  #begin(): void {
    if (this.#lost !== null) this.#tellLost(this.#lost)
    const buffered = this.#buffered
    this.#buffered = null
    for (let at = 0; buffered !== null && at < buffered.length && !this.#closed; ) {
      const target = this.#rest ?? this.#staging.subarray(this.#have)
      const part = buffered.subarray(at, at + target.length)
      target.set(part)
      at += part.length
      this.#take(part.length)
    }
    this.#aim()
  }

  #onRead(length: number): void {
    this.#take(length)
    this.#aim()
  }

  /** `length` bytes have been added to the rest of a payload, or to the staging buffer. */
  #take(length: number): void {
    const rest = this.#rest
    if (rest === null) {
      this.#have += length
      this.#parse()
    } else if (length < rest.length) {
      this.#rest = rest.subarray(length)
    } else {
      this.#rest = null
      this.#events?.onWhole()
    }
  }

  /** Where the next bytes go. */
  #aim(): void {
    if (this.#closed) return
    let target: Uint8Array
    if (this.#rest !== null) target = this.#rest
    else if (this.#have > 0) target = this.#staging.subarray(this.#have)
    else
      target =
        this.#target !== null && this.#target.buffer !== this.#staging.buffer ? this.#peek : this.#staging
    if (target === this.#target) return
    this.#target = target
    this.#stream.readInto(target)
  }

  #parse(): void {
    const staging = this.#staging
    const end = this.#have
    let at = Math.min(this.#skip, end)
    this.#skip -= at
    while (at < end && !this.#closed) {
      if (staging[at] === 0) {
        at++
        this.#events?.onBell?.()
        continue
      }
      if (staging[at] !== FRAME_VERSION) {
        this.#fail(`a frame of version ${staging[at]}`)
        return
      }
      const available = end - at
      if (available < HEADER_BYTES) break
      const type = staging[at + 1]!
      const length = this.#view.getUint32(at + 32, true)
      if (length > (type === FrameType.DATA ? MAX_DATA_LENGTH : MAX_SESSION_FRAME - HEADER_BYTES)) {
        this.#fail(`a frame of ${length} bytes`)
        return
      }
      const whole = HEADER_BYTES + length
      if (available >= whole) {
        const frame = staging.subarray(at, at + whole)
        at += whole
        // Sessions keep parts of theirs.
        const passing = type === FrameType.DATA || type === FrameType.ACK
        this.#events?.onFrame(passing ? frame : frame.slice())
        continue
      }
      if (whole - available < DIRECT_FROM && whole <= STAGING_BYTES) break
      if (available < DATA_OVERHEAD) break
      const rest = this.#events?.onPart(staging.subarray(at, end), whole) ?? null
      if (rest === null) this.#skip = whole - available
      else this.#rest = rest
      at = end
    }
    if (at > 0) staging.copyWithin(0, at, end)
    this.#have = end - at
  }

  // ---- the end ---------------------------------------------------------------------------------------------------

  close(): void {
    if (this.#closed) return
    // What was said last still goes out, as far as the socket takes it.
    this.#flush()
    this.#shut()
  }

  #shut(): void {
    this.#closed = true
    this.#chunks = []
    this.#rest = null
    this.#buffered = null
    this.#stream.close()
  }

  #fail(what: string): void {
    this.#lose(protocol(this.name, what))
  }

  #lose(error: Error): void {
    if (this.#closed) return
    this.#shut()
    this.#tellLost(error)
  }

  #tellLost(error: Error): void {
    this.#lost = error
    if (this.#events === null) return
    const { events } = this
    this.#events = null
    events?.onLost(error)
  }
}

function endedEarly(): Error {
  return new VmringError('ERR_VMRING_CLOSED', 'the other side closed the connection')
}

function protocol(name: string, what: string): VmringError {
  return new VmringError(
    'ERR_VMRING_PROTOCOL',
    `the other side broke the protocol on a ${name} connection: ${what}`,
  )
}
