/**
 * A MessagePort face for a channel: structured clone, enough for comlink and other code written for worker ports. Message ports can
 * be transferred; other objects that cannot leave the process (shared memory, …) are refused as DataCloneError.
 */
import { MessagePort } from 'node:worker_threads'
import { asError } from '../errors.js'
import type { Message } from '../ring/message.js'
import type { Channel } from './channel.js'
import { PortTransfer } from './port-transfer.js'

type PortHandler = ((event: MessageEvent) => unknown) | null

export class ChannelPort extends EventTarget {
  readonly #channel: Channel
  #onmessage: PortHandler = null
  #onmessageerror: PortHandler = null
  #started = false
  readonly #transfer: PortTransfer

  constructor(channel: Channel) {
    super()
    this.#channel = channel
    // As with a MessagePort there is no answer: a channel that fails says so by its own events.
    this.#transfer = new PortTransfer((bytes) => void channel.send(bytes))
    channel.once('close', () => {
      this.#transfer.close()
      this.dispatchEvent(new Event('close'))
    })
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

  /**
   * Sends a clone of `value`. MessagePorts in it have to be listed in `transfer` and belong to the other side from then on.
   * ArrayBuffers may be listed, and are copied. Throws DataCloneError.
   */
  postMessage(value: unknown, transfer?: readonly unknown[] | { transfer?: readonly unknown[] }): void {
    const list = Array.isArray(transfer)
      ? transfer
      : ((transfer as { transfer?: readonly unknown[] })?.transfer ?? [])
    if (list.some((item) => !(item instanceof ArrayBuffer || item instanceof MessagePort))) {
      throw new DOMException(
        'only ArrayBuffers and MessagePorts can be listed: nothing else leaves the process',
        'DataCloneError',
      )
    }
    let bytes: Uint8Array
    try {
      bytes = this.#transfer.encode(value, new Set(list))
    } catch (error) {
      throw new DOMException(asError(error).message, 'DataCloneError')
    }
    void this.#channel.send(bytes)
  }

  /** Starts the delivery of messages, those of ports that were transferred included. */
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
    let decoded: { value: unknown; ports: MessagePort[] } | undefined
    try {
      decoded = this.#transfer.decode(message.copy())
    } catch (error) {
      this.dispatchEvent(new MessageEvent('messageerror', { data: error }))
      return
    }
    if (decoded === undefined) return
    const { value: data, ports } = decoded
    this.dispatchEvent(new MessageEvent('message', { data, ports: ports as never }))
  }
}
