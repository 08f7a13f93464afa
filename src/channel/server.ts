/** A service name, and the channels that others open to it. */
import { EventEmitter } from 'node:events'
import { VmringError } from '../errors.js'
import { rethrowLater } from '../ring/ends.js'
import { DEFAULT_MAX_MESSAGE, type Listener, type SessionHub } from '../session/hub.js'
import type { Session } from '../session/session.js'
import { Channel, type ChannelHost } from './channel.js'
import { Hold } from './hold.js'

export interface ListenOptions {
  /** largest message that channels of this service take, in bytes; default 64 MiB */
  maxMessageSize?: number
  /** channels that may wait to be taken, by a loop or a 'channel' listener; default 128 */
  backlog?: number
}

export interface ServerEvents {
  channel: [channel: Channel]
  close: []
  newListener: [name: string | symbol, listener: (...args: never[]) => void]
}

/** Made by Peer.listen(). Take channels by `for await (const channel of server)` or by the 'channel' event. */
export class Server extends EventEmitter<ServerEvents> implements Listener, AsyncIterable<Channel> {
  readonly service: string
  readonly maxMessageSize: number
  readonly #hub: SessionHub
  readonly #host: ChannelHost
  readonly #backlog: number
  readonly #waiting: Channel[] = []
  #askers: ((result: IteratorResult<Channel, undefined>) => void)[] = []
  #closed = false
  readonly #hold: Hold

  constructor(hub: SessionHub, host: ChannelHost, service: string, options: ListenOptions = {}) {
    super()
    this.service = service
    this.maxMessageSize = options.maxMessageSize ?? DEFAULT_MAX_MESSAGE
    this.#backlog = options.backlog ?? 128
    this.#hub = hub
    this.#host = host
    this.#hold = new Hold(host)
    hub.listen(this)
    this.ref()
    this.on('newListener', (name) => {
      if (name === 'channel') process.nextTick(() => this.#flush())
    })
  }

  get listening(): boolean {
    return !this.#closed
  }

  /** @internal */
  decline(): string | null {
    return this.#waiting.length < this.#backlog ? null : 'too many channels wait to be taken'
  }

  /** @internal */
  onSession(session: Session): void {
    this.#waiting.push(new Channel(session, this.#host))
    this.#flush()
  }

  #flush(): void {
    while (this.#waiting.length > 0) {
      const asker = this.#askers.shift()
      if (asker !== undefined) {
        asker({ done: false, value: this.#waiting.shift()! })
      } else if (this.listenerCount('channel') > 0) {
        const channel = this.#waiting.shift()!
        try {
          this.emit('channel', channel)
        } catch (error) {
          rethrowLater(error)
        }
      } else {
        return
      }
    }
  }

  [Symbol.asyncIterator](): AsyncIterator<Channel, undefined> {
    return {
      next: () =>
        new Promise((resolve) => {
          if (this.#closed && this.#waiting.length === 0) {
            resolve({ done: true, value: undefined })
            return
          }
          this.#askers.push(resolve)
          this.#flush()
        }),
      return: async () => {
        await this.close()
        return { done: true, value: undefined }
      },
    }
  }

  /** Takes no more channels; those that were taken stay. Channels that nobody has taken are reset. */
  close(): Promise<void> {
    if (!this.#closed) {
      this.#closed = true
      this.#hub.unlisten(this.service)
      for (const channel of this.#waiting.splice(0)) {
        channel.destroy(new VmringError('ERR_VMRING_CLOSED', `the server of '${this.service}' was closed`))
      }
      const askers = this.#askers
      this.#askers = []
      for (const asker of askers) asker({ done: true, value: undefined })
      this.unref()
      process.nextTick(() => this.emit('close'))
    }
    return Promise.resolve()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Keeps the event loop alive while the server listens (the default). */
  ref(): this {
    if (!this.#closed) this.#hold.take()
    return this
  }

  unref(): this {
    this.#hold.release()
    return this
  }
}
