/** Hands messages to 'message' handlers and to loops, a bounded batch per turn, and releases them afterwards. */
import { asError } from '../errors.js'
import type { Message } from '../ring/message.js'
import type { Session } from '../session/session.js'
import type { Channel, MessageHandler } from './channel.js'
import type { Receiver } from './receiver.js'

const BATCH_MESSAGES = 256
const BATCH_MS = 1

interface Asker {
  resolve(result: IteratorResult<Message, undefined>): void
  reject(error: Error): void
}

export class Dispatcher {
  readonly #channel: Channel
  readonly #session: Session
  readonly #receiver: Receiver
  #handlers: MessageHandler[] | null = null
  #dispatching = false
  #turn: NodeJS.Immediate | null = null
  #asker: Asker | null = null
  #last: Message | null = null
  #done = false
  #error: Error | null = null

  constructor(channel: Channel, session: Session, receiver: Receiver) {
    this.#channel = channel
    this.#session = session
    this.#receiver = receiver
  }

  /** 'message' listeners came or went. Without any, messages stay where they are. */
  handlersChanged(): void {
    this.#handlers = null
    this.#turn ??= setImmediate(() => {
      this.#turn = null
      this.#session.wantReadable(this.#channel.listenerCount('message') > 0)
      this.dispatch()
    })
  }

  dispatch(): void {
    if (this.#dispatching) return
    this.#dispatching = true
    try {
      this.#batch()
    } finally {
      this.#dispatching = false
    }
  }

  #batch(): void {
    let deadline = 0
    for (let count = 1; ; count++) {
      this.#handlers ??= this.#channel.rawListeners('message') as MessageHandler[]
      if (this.#handlers.length === 0) return
      const message = this.#receiver.next()
      if (message === null) return
      this.#hand(message, this.#handlers)
      // What is left over is reported again in the next turn.
      if (count === BATCH_MESSAGES) return
      if ((count & 15) !== 0) continue
      const now = performance.now()
      if (deadline === 0) deadline = now + BATCH_MS
      else if (now > deadline) return
    }
  }

  #hand(message: Message, handlers: MessageHandler[]): void {
    let waits: PromiseLike<unknown>[] | null = null
    try {
      for (const handler of handlers) {
        const result = handler.call(this.#channel, message)
        if (isThenable(result)) {
          waits ??= []
          waits.push(result)
        }
      }
    } catch (error) {
      this.#channel.destroy(asError(error))
    }
    if (waits === null) {
      if (!message.retained) message.release()
      return
    }
    Promise.all(waits).then(
      () => {
        if (!message.retained) message.release()
      },
      (error) => {
        if (!message.retained) message.release()
        this.#channel.destroy(asError(error))
      },
    )
  }

  // ---- iteration -------------------------------------------------------------------------------------------------

  iterate(): AsyncIterator<Message, undefined> {
    return {
      next: () => this.#next(),
      return: () => {
        this.#letGo()
        return Promise.resolve({ done: true, value: undefined })
      },
    }
  }

  #letGo(): void {
    const last = this.#last
    this.#last = null
    if (last !== null && !last.retained) last.release()
  }

  #next(): Promise<IteratorResult<Message, undefined>> {
    this.#letGo()
    const message = this.#done ? null : this.#receiver.next()
    if (message !== null) {
      this.#last = message
      return Promise.resolve({ done: false, value: message })
    }
    if (this.#error !== null) return Promise.reject(this.#error)
    if (this.#done) return Promise.resolve({ done: true, value: undefined })
    this.#session.wantReadable(true)
    return new Promise((resolve, reject) => {
      // Two askers at once: the earlier one has to be served first, and there is one place only.
      this.#asker?.resolve({ done: true, value: undefined })
      this.#asker = { resolve, reject }
    })
  }

  wake(): void {
    const asker = this.#asker
    if (asker === null) {
      // The loop is busy with a message and asks by itself.
      this.#session.wantReadable(false)
      return
    }
    const message = this.#receiver.next()
    if (message === null) return
    this.#asker = null
    this.#last = message
    asker.resolve({ done: false, value: message })
  }

  /** No message will come any more. */
  ended(): void {
    this.#done = true
    const asker = this.#asker
    this.#asker = null
    asker?.resolve({ done: true, value: undefined })
  }

  /** The channel is over; a loop that waits learns why. */
  closed(error: Error | null): void {
    if (this.#turn !== null) clearImmediate(this.#turn)
    this.#turn = null
    if (this.#done) return
    this.#done = true
    this.#error = error
    const asker = this.#asker
    this.#asker = null
    if (asker === null) return
    if (error === null) asker.resolve({ done: true, value: undefined })
    else {
      this.#error = null
      asker.reject(error)
    }
  }
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return (
    typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
  )
}
