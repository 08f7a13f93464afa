/** The bytes of one socket over one channel: back-pressure, half-close and end in both directions. */
import type { Channel } from '../channel/channel.js'
import { asError } from '../errors.js'
import type { Message } from '../ring/message.js'
import { brokenPipe } from './failure.js'

/** What a link tells its socket. */
export interface LinkEvents {
  /** Private memory. False: no more for now, until read() is called again. */
  onBytes(bytes: Uint8Array): boolean
  /** The other side sends no more. */
  onEnd(): void
  /** The channel is over before its time. */
  onBroken(error: Error): void
  /** Bytes move. */
  onActivity(): void
}

/** Most bytes handed on before the event loop gets its turn. */
const BYTES_PER_TURN = 1024 * 1024
/** How long a closed socket keeps the process alive while the other side has not taken everything, ms. */
const LINGER_MS = 2000

interface Waiting {
  chunks: Uint8Array[]
  at: number
  done(error?: Error | null): void
}

export class Link {
  bytesRead = 0
  bytesWritten = 0
  readonly #channel: Channel
  readonly #events: LinkEvents
  readonly #limit: number
  #waiting: Waiting | null = null
  #reading = false
  #turn = false
  #closed = false

  constructor(channel: Channel, events: LinkEvents) {
    this.#channel = channel
    this.#events = events
    this.#limit = channel.inlineLimit
    channel.on('readable', () => this.#pump())
    channel.on('drain', () => this.#flush())
    channel.on('end', () => {
      if (!this.#closed) events.onEnd()
    })
    channel.on('error', noop)
    channel.once('close', () => this.#over())
  }

  // ---- reading

  /** Goes on handing bytes to the socket, not before the next turn of the loop at the earliest. */
  read(): void {
    if (this.#reading || this.#closed) return
    this.#reading = true
    this.#later()
  }

  stop(): void {
    this.#reading = false
  }

  #later(): void {
    if (this.#turn) return
    this.#turn = true
    setImmediate(() => {
      this.#turn = false
      this.#pump()
    })
  }

  #pump(): void {
    if (this.#turn) return
    for (let budget = BYTES_PER_TURN; this.#reading; ) {
      if (budget <= 0) {
        this.#later()
        return
      }
      const message = this.#channel.receive()
      if (message === null) return
      const bytes = take(message)
      if (bytes.length === 0) continue
      budget -= bytes.length
      this.bytesRead += bytes.length
      this.#events.onActivity()
      if (!this.#events.onBytes(bytes)) this.#reading = false
    }
  }

  // ---- writing

  /** `done` is called once the channel has taken everything, at once if it can. */
  write(chunks: Uint8Array[], done: (error?: Error | null) => void): void {
    this.#waiting = { chunks, at: 0, done }
    this.#flush()
  }

  #flush(): void {
    const waiting = this.#waiting
    if (waiting === null) return
    try {
      if (!this.#send(waiting)) return
    } catch (error) {
      this.#waiting = null
      waiting.done(brokenPipe(error))
      return
    }
    this.#waiting = null
    waiting.done()
  }

  #send(waiting: Waiting): boolean {
    const { chunks } = waiting
    while (chunks.length > 0) {
      const chunk = chunks[0]!
      const end = Math.min(waiting.at + this.#limit, chunk.length)
      const part = end - waiting.at === chunk.length ? chunk : chunk.subarray(waiting.at, end)
      if (part.length > 0 && !this.#channel.trySend(part)) return false
      this.bytesWritten += part.length
      this.#events.onActivity()
      waiting.at = end
      if (end === chunk.length) {
        chunks.shift()
        waiting.at = 0
      }
    }
    return true
  }

  /** Ends the own direction behind everything that was written. */
  end(): void {
    this.#channel.end()
  }

  // ---- the rest

  /** Reads no more; the other side still gets what was written, then the end. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#reading = false
    void this.#channel.close()
    setTimeout(() => this.#channel.unref(), LINGER_MS).unref()
  }

  /** At once: the other side sees a reset. */
  reset(): void {
    if (this.#closed) return
    this.#closed = true
    this.#reading = false
    this.#channel.destroy()
  }

  ref(): void {
    this.#channel.ref()
  }

  unref(): void {
    this.#channel.unref()
  }

  #over(): void {
    if (this.#closed) return
    this.#closed = true
    const { error } = this.#channel.stats()
    const waiting = this.#waiting
    this.#waiting = null
    if (error !== null) this.#events.onBroken(asError(error))
    else waiting?.done(brokenPipe())
  }
}

function noop(): void {}

function take(message: Message): Uint8Array {
  // larger messages than the ring's come in private memory of their own
  const bytes = Buffer.allocUnsafe(message.length)
  bytes.set(message.view)
  message.release()
  return bytes
}
