import type { NativeStream, StreamHandlers } from '../native/socket-types.js'
import {
  decodeRelayFrame,
  encodeRelayFrame,
  FrameReader,
  IDLE_MS,
  MAX_RELAY_FRAME,
  type RelayFrame,
  RelayReason,
  RelayType,
  SILENT_MS,
} from '../path/relay-frames.js'
import {
  FRAME_BURST,
  FRAME_RATE,
  HANDSHAKE_MS,
  LINGER_BYTES,
  LINGER_MS,
  MAX_CONTROL_QUEUE,
} from './relay-limits.js'
import type { Origin } from './relay-origin.js'
import type { Leg } from './splice.js'

/**
 * handshake ─HELLO─▶ control
 *     ├──────DIAL──▶ waiting ─▶ spliced
 *     ├──────TAKE─────────────▶ spliced
 *     └──▶ closing (from any but spliced: REFUSE goes out) ─▶ closed
 */
export type ConnectionState = 'handshake' | 'control' | 'waiting' | 'spliced' | 'closing' | 'closed'

export interface ConnectionOwner {
  onFirst(connection: Connection, frame: RelayFrame): void
  onControl(connection: Connection, frame: RelayFrame): void
  /** It broke a rule; the owner refuses it. */
  onBad(connection: Connection, reason: number, text: string): void
  /** Once, whatever ended it. */
  onGone(connection: Connection): void
}

/** One connection to the relay, up to the moment when its bytes are somebody else's. Every byte of it is hostile. */
export class Connection implements Leg {
  readonly stream: NativeStream
  readonly origin: Origin
  early: Uint8Array = new Uint8Array(0)
  readonly #owner: ConnectionOwner
  #state: ConnectionState = 'handshake'
  #buffer = new Uint8Array(MAX_RELAY_FRAME)
  #reader = new FrameReader(MAX_RELAY_FRAME)
  #splice: Omit<StreamHandlers, 'onConnect'> | null = null
  #timer: NodeJS.Timeout | undefined
  #throttle: NodeJS.Timeout | undefined
  #heard = Date.now()
  #tokens = FRAME_BURST
  #refilled = Date.now()
  #discarded = 0

  constructor(stream: NativeStream, origin: Origin, owner: ConnectionOwner) {
    this.stream = stream
    this.origin = origin
    this.#owner = owner
    origin.connections++
    origin.handshakes++
  }

  get state(): ConnectionState {
    return this.#state
  }

  open(): void {
    this.stream.start({
      onRead: (length) => (this.#splice ? this.#splice.onRead(length) : this.#read(length)),
      onEnd: () => (this.#splice ? this.#splice.onEnd() : this.#ended()),
      onDrain: () => this.#splice?.onDrain(),
      onFinish: () => this.#splice?.onFinish?.(),
      onClose: (error) => (this.#splice ? this.#splice.onClose(error) : this.#gone()),
    })
    this.#timer = setTimeout(
      () =>
        this.#owner.onBad(
          this,
          RelayReason.HANDSHAKE,
          `no whole first frame within ${HANDSHAKE_MS / 1000} s`,
        ),
      HANDSHAKE_MS,
    )
    this.stream.readInto(this.#buffer)
  }

  send(frame: RelayFrame): void {
    if (this.#state === 'closing' || this.#state === 'closed') return
    this.stream.write([encodeRelayFrame(frame)])
    if (this.stream.queued > MAX_CONTROL_QUEUE)
      this.#owner.onBad(this, RelayReason.BUSY, 'it does not read what it is sent')
  }

  /** HELLO was good: frames go to onControl from here on, and silence ends the connection. */
  becomeControl(): void {
    this.#enter('control')
    const look = () => {
      const silent = Date.now() - this.#heard
      if (silent >= SILENT_MS) {
        this.#owner.onBad(this, RelayReason.HANDSHAKE, `silent for ${SILENT_MS / 1000} s`)
        return
      }
      if (silent >= IDLE_MS) this.send({ type: RelayType.PING })
      if (this.#state === 'control') this.#timer = setTimeout(look, IDLE_MS)
    }
    this.#timer = setTimeout(look, IDLE_MS)
  }

  /** DIAL or TAKE was good: what comes behind the frame is kept, up to a frame's length; an end gives the call up. */
  becomeWaiting(): void {
    this.#enter('waiting')
    this.#keep(this.#reader.rest())
  }

  /** From here on its bytes are the splice's. */
  handle(handlers: Omit<StreamHandlers, 'onConnect'>): void {
    this.#enter('spliced')
    this.stream.pause()
    this.#buffer = new Uint8Array(0)
    this.#splice = handlers
  }

  /** Says why, and closes when the other side has had the time to read it. */
  refuse(reason: number, text: string, service?: string): void {
    if (this.#state === 'closing' || this.#state === 'closed' || this.#state === 'spliced') return
    const frame = encodeRelayFrame({ type: RelayType.REFUSE, reason, text, ...(service && { service }) })
    this.#enter('closing')
    this.stream.write([frame])
    if (this.stream.queued > MAX_CONTROL_QUEUE) {
      this.close()
      return
    }
    this.stream.end()
    this.stream.readInto(this.#buffer)
    this.#timer = setTimeout(() => this.close(), LINGER_MS)
  }

  close(): void {
    if (this.#state === 'closed') return
    this.stream.close()
    this.#gone()
  }

  /** The stream has been closed. */
  #gone(): void {
    if (this.#state === 'closed') return
    this.#enter('closed')
    this.origin.connections--
    this.#owner.onGone(this)
  }

  /** @internal the splice has closed the stream */
  over(): void {
    this.#gone()
  }

  #enter(state: ConnectionState): void {
    clearTimeout(this.#timer)
    clearTimeout(this.#throttle)
    this.#throttle = undefined
    if (this.#state === 'handshake') this.origin.handshakes--
    this.#state = state
  }

  #read(length: number): void {
    if (this.#state === 'closing') {
      this.#discarded += length
      if (this.#discarded > LINGER_BYTES) this.close()
      return
    }
    if (this.#state === 'waiting') {
      this.#keep(this.#buffer.slice(0, length))
      return
    }
    this.#heard = Date.now()
    this.#reader.push(this.#buffer.subarray(0, length))
    this.#process()
  }

  #keep(bytes: Uint8Array): void {
    this.early = this.early.length === 0 ? bytes : Buffer.concat([this.early, bytes])
    if (this.early.length >= MAX_RELAY_FRAME) this.stream.pause()
  }

  #process(): void {
    while (this.#state === 'handshake' || this.#state === 'control') {
      if (this.#state === 'control' && !this.#mayGoOn()) return
      let bytes: Uint8Array | null
      try {
        bytes = this.#reader.next()
      } catch (error) {
        const { reason, message } = error as { reason: number; message: string }
        this.#owner.onBad(this, reason, message)
        return
      }
      if (bytes === null) return
      this.#tokens--
      const frame = decodeRelayFrame(bytes)
      if (frame === 'malformed' || (frame === 'unknown' && this.#state === 'handshake')) {
        this.#owner.onBad(this, RelayReason.HANDSHAKE, `a frame that makes no sense (type ${bytes[1]})`)
        return
      }
      if (frame === 'unknown') continue
      if (this.#state === 'handshake') this.#owner.onFirst(this, frame)
      else this.#owner.onControl(this, frame)
    }
  }

  /** False: it has sent too much; it is read from again after a while. */
  #mayGoOn(): boolean {
    const now = Date.now()
    this.#tokens = Math.min(FRAME_BURST, this.#tokens + ((now - this.#refilled) / 1000) * FRAME_RATE)
    this.#refilled = now
    if (this.#tokens >= 1) return true
    this.stream.pause()
    this.#throttle ??= setTimeout(() => {
      this.#throttle = undefined
      this.#heard = Date.now()
      this.#process()
      if (this.#state === 'control' && this.#throttle === undefined) this.stream.readInto(this.#buffer)
    }, 100)
    return false
  }

  #ended(): void {
    if (this.#state === 'handshake' && this.#reader.pending > 0)
      this.#owner.onBad(this, RelayReason.HANDSHAKE, 'it ended in the middle of its first frame')
    else this.close()
  }
}
