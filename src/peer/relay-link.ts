/** One connection to the relay, as long as relay frames are spoken on it. */
import { VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import type { NativeStream, StreamAddress } from '../native/socket-types.js'
import {
  decodeRelayFrame,
  encodeRelayFrame,
  FrameReader,
  type RelayFrame,
  RelayType,
  refusalError,
  type SplicedFrame,
} from '../path/relay-frames.js'

const CONNECT_MS = 10_000
const CHUNK_BYTES = 8192

export interface LinkHandlers {
  onOpen(): void
  onFrame(frame: RelayFrame): void
  /** the last call; not made after close() and detach() */
  onClose(error: Error): void
}

export class RelayLink {
  readonly #stream: NativeStream
  readonly #reader = new FrameReader()
  readonly #handlers: LinkHandlers
  #over = false

  /** Never throws; failures go to onClose. */
  constructor(address: StreamAddress, handlers: LinkHandlers) {
    this.#handlers = handlers
    const chunk = new Uint8Array(CHUNK_BYTES)
    this.#stream = native.streamConnect(
      address,
      {
        onConnect: () => {
          this.#stream.readInto(chunk)
          handlers.onOpen()
        },
        onRead: (length) => this.#read(chunk.subarray(0, length)),
        onEnd: () => this.#fail(relayClosed()),
        onDrain: () => {},
        onClose: (error) => this.#fail(error ?? relayClosed()),
      },
      { timeout: CONNECT_MS },
    )
    // whoever holds the peer holds the loop
    this.#stream.unref()
  }

  send(frame: RelayFrame): void {
    if (!this.#over) this.#stream.write([encodeRelayFrame(frame)])
  }

  close(): void {
    this.#over = true
    this.#stream.close()
  }

  /** The connection is the other side's from here on: gives it up, and the bytes that have been read already. */
  detach(): { stream: NativeStream; rest: Uint8Array } {
    this.#over = true
    this.#stream.pause()
    return { stream: this.#stream, rest: this.#reader.rest() }
  }

  #read(bytes: Uint8Array): void {
    try {
      this.#reader.push(bytes)
      while (!this.#over) {
        const bytesOfFrame = this.#reader.next()
        if (bytesOfFrame === null) return
        const frame = decodeRelayFrame(bytesOfFrame)
        if (frame === 'malformed')
          throw new VmringError('ERR_VMRING_RELAY_PROTOCOL', 'the relay sent a frame that makes no sense')
        if (frame !== 'unknown') this.#handlers.onFrame(frame)
      }
    } catch (error) {
      this.#fail(error as Error)
    }
  }

  #fail(error: Error): void {
    if (this.#over) return
    this.close()
    this.#handlers.onClose(error)
  }
}

function relayClosed(): VmringError {
  return new VmringError('ERR_VMRING_SERVER_CLOSED', 'the relay closed the connection')
}

export interface Spliced {
  frame: SplicedFrame
  stream: NativeStream
  rest: Uint8Array
}

/** Opens a data connection: says `first`, and waits to be joined to the other side. */
export function splice(address: StreamAddress, first: RelayFrame, limit: number): Promise<Spliced> {
  return new Promise((resolve, reject) => {
    const fail = (error: Error): void => {
      clearTimeout(timer)
      link.close()
      reject(error)
    }
    const timer = setTimeout(
      () => fail(new VmringError('ERR_VMRING_TIMEOUT', `the relay did not answer within ${limit} ms`)),
      limit,
    )
    const link = new RelayLink(address, {
      onOpen: () => link.send(first),
      onFrame: (frame) => {
        if (frame.type === RelayType.REFUSE) fail(refusalError(frame))
        if (frame.type !== RelayType.SPLICED) return
        clearTimeout(timer)
        resolve({ frame, ...link.detach() })
      },
      onClose: fail,
    })
  })
}
