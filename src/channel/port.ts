/**
 * A MessagePort face for a channel: structured clone, enough for comlink and other code written for worker ports. Objects
 * that cannot leave the process (ports, shared memory) are refused as DataCloneError.
 */
import { deserialize, serialize } from 'node:v8'
import { asError } from '../errors.js'
import type { Message } from '../ring/message.js'
import type { Channel } from './channel.js'

type PortHandler = ((event: MessageEvent) => unknown) | null

export class ChannelPort extends EventTarget {
  readonly #channel: Channel
  #onmessage: PortHandler = null
  #onmessageerror: PortHandler = null
  #started = false

  constructor(channel: Channel) {
    super()
    this.#channel = channel
    channel.once('close', () => this.dispatchEvent(new Event('close')))
  }

  get onmessage(): PortHandler {
    return this.#onmessage
  }

  /** Setting it starts the port. */
  set onmessage(handler: PortHandler) {
    this.#onmessage = this.#replace('message', this.#onmessage, handler)
    if (handler !== null) this.start()
  }

  get onmessageerror(): PortHandler {
    return this.#onmessageerror
  }

  set onmessageerror(handler: PortHandler) {
    this.#onmessageerror = this.#replace('messageerror', this.#onmessageerror, handler)
  }

  #replace(name: string, old: PortHandler, handler: PortHandler): PortHandler {
    if (old !== null) this.removeEventListener(name, old as (event: Event) => void)
    if (handler !== null) this.addEventListener(name, handler as (event: Event) => void)
    return handler
  }

  /** Sends a clone of `value`. Nothing can be transferred: a transfer list must be empty. Throws DataCloneError. */
  postMessage(value: unknown, transfer?: readonly unknown[] | { transfer?: readonly unknown[] }): void {
    const list = Array.isArray(transfer)
      ? transfer
      : (transfer as { transfer?: readonly unknown[] })?.transfer
    if (list?.some((item) => !(item instanceof ArrayBuffer))) {
      throw new DOMException(
        'only copies can leave the process; nothing but ArrayBuffers may be listed',
        'DataCloneError',
      )
    }
    let bytes: Uint8Array
    try {
      bytes = serialize(value)
    } catch (error) {
      throw new DOMException(asError(error).message, 'DataCloneError')
    }
    // As with a MessagePort there is no answer: a channel that fails says so by its own events.
    void this.#channel.send(bytes)
  }

  /** Starts the delivery of messages. */
  start(): void {
    if (this.#started) return
    this.#started = true
    this.#channel.on('message', (message) => this.#deliver(message))
  }

  close(): void {
    void this.#channel.close()
  }

  ref(): this {
    this.#channel.ref()
    return this
  }

  unref(): this {
    this.#channel.unref()
    return this
  }

  #deliver(message: Message): void {
    let data: unknown
    try {
      data = deserialize(message.copy())
    } catch (error) {
      this.dispatchEvent(new MessageEvent('messageerror', { data: error }))
      return
    }
    this.dispatchEvent(new MessageEvent('message', { data }))
  }
}
