/** The `onread` option of net.Socket: bytes go into a buffer of the program instead of through the stream. */
import type net from 'node:net'
import type { Link } from './link.js'

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
  #buffer: Uint8Array | null
  #rest: Uint8Array | null = null
  #link: Link | null = null
  #onEmpty: (() => void) | null = null

  static of(socket: net.Socket): OnRead | null {
    const callback = slot(socket, 'kBufferCb')
    return callback === null ? null : new OnRead(socket, callback as Callback)
  }

  private constructor(socket: net.Socket, callback: Callback) {
    this.#socket = socket
    this.#callback = callback
    this.#next = slot(socket, 'kBufferGen') as (() => unknown) | null
    const buffer = slot(socket, 'kBuffer')
    this.#buffer = buffer instanceof Uint8Array && this.#next === null ? buffer : null
  }

  start(link: Link): void {
    this.#link = link
  }

  /** False: the callback wants no more for now; what is left is kept. */
  take(bytes: Uint8Array): boolean {
    for (let at = 0; at < bytes.length; ) {
      this.#buffer ??= this.#next?.() as Uint8Array
      const buffer = this.#buffer
      if (!(buffer instanceof Uint8Array) || buffer.length === 0) return false
      const end = Math.min(at + buffer.length, bytes.length)
      buffer.set(bytes.subarray(at, end))
      const count = end - at
      at = end
      if (this.#next !== null) this.#buffer = null
      const more = this.#callback.call(this.#socket, count, buffer)
      if (more !== false && !this.#socket.destroyed) continue
      this.#rest = at < bytes.length ? bytes.subarray(at) : null
      return false
    }
    return true
  }

  resume(): void {
    const rest = this.#rest
    this.#rest = null
    if (rest !== null && !this.take(rest)) return
    if (this.#onEmpty !== null) this.#onEmpty()
    this.#onEmpty = null
    this.#link?.read()
  }

  whenEmpty(callback: () => void): void {
    if (this.#rest === null) callback()
    else this.#onEmpty = callback
  }
}
