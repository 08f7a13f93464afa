/** The `onread` option of net.Socket: bytes go straight into a buffer of the program, and not through the stream. */
import type net from 'node:net'
import type { Read } from './link.js'

type Callback = (this: net.Socket, bytes: number, buffer: Uint8Array) => unknown

/** node:net keeps the option under symbols of its own. */
function slot(socket: net.Socket, name: string): unknown {
  const symbol = Object.getOwnPropertySymbols(socket).find(({ description }) => description === name)
  return symbol === undefined ? null : (socket as unknown as Record<symbol, unknown>)[symbol]
}

export class OnRead {
  readonly #socket: net.Socket
  readonly #callback: Callback
  readonly #next: (() => unknown) | null
  #buffer: unknown

  /** Null when the socket was made without the option. */
  static of(socket: net.Socket): OnRead | null {
    const callback = slot(socket, 'kBufferCb')
    return callback === null ? null : new OnRead(socket, callback as Callback)
  }

  private constructor(socket: net.Socket, callback: Callback) {
    this.#socket = socket
    this.#callback = callback
    this.#next = slot(socket, 'kBufferGen') as (() => unknown) | null
    this.#buffer = slot(socket, 'kBuffer')
  }

  start(): void {
    if (this.#next !== null) this.#buffer = this.#next()
  }

  /** False: the callback wants no more for now. */
  take(read: Read): boolean {
    const buffer = this.#buffer
    if (!(buffer instanceof Uint8Array)) return false
    const count = read(buffer, 0, buffer.length)
    if (count === 0) return true
    const more = this.#callback.call(this.#socket, count, buffer) !== false
    if (this.#next !== null) {
      const next = this.#next()
      if (next instanceof Uint8Array) this.#buffer = next
    }
    return more && !this.#socket.destroyed
  }
}
