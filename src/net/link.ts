/** The bytes of one socket over one channel: back-pressure, half-close and end in both directions. */
import type { Channel } from '../channel/channel.js'
import { asError } from '../errors.js'
import { brokenPipe } from './failure.js'

/** What a link tells its socket. */
export interface LinkEvents {
  /**
   * There may be bytes: takes them by `read`, which copies into private memory from `at` up to `end` and returns where it stopped.
   * False: no more are wanted until Link.read() is called again.
   */
  onReadable(read: Read): boolean
  /** The other side sends no more. */
  onEnd(): void
  /** The channel is over before its time. */
  onBroken(error: Error): void
  /** Bytes move. */
  onActivity(): void
}

export type Read = (target: Uint8Array, at: number, end: number) => number
type Done = (error?: Error | null) => void

/** Most bytes handed on before the event loop gets its turn. */
const BYTES_PER_TURN = 1024 * 1024
/** How long a closed socket keeps the process alive while the other side has not taken everything, ms. */
const LINGER_MS = 2000

export class Link {
  bytesRead = 0
  bytesWritten = 0
  readonly #channel: Channel
  readonly #events: LinkEvents
  readonly #limit: number
  readonly #read: Read
  /** what the channel has not taken yet */
  #chunks: Uint8Array[] = []
  #at = 0
  #done: Done | null = null
  #reading = false
  #turn = false
  #closed = false
  #referenced = true
  #held = true

  constructor(channel: Channel, events: LinkEvents) {
    this.#channel = channel
    this.#events = events
    this.#limit = channel.inlineLimit
    this.#read = (target, at, end) => {
      const reached = channel.readInto(target, at, end)
      this.bytesRead += reached - at
      return reached
    }
    channel.drainAtHalf = true
    channel.on('readable', () => this.#pump())
    channel.on('drain', () => this.#flush())
    // In a turn of its own, as the end of a system socket: what the last bytes have led to comes first.
    channel.on('end', () => {
      setImmediate(() => {
        if (!this.#closed) events.onEnd()
      })
    })
    channel.on('error', noop)
    channel.once('close', () => this.#over())
    this.#hold()
  }

  // ---- reading

  /** Goes on handing bytes to the socket, not before the next turn of the loop. */
  read(): void {
    if (this.#reading || this.#closed) return
    this.#reading = true
    this.#hold()
    this.#later()
  }

  stop(): void {
    this.#reading = false
    this.#hold()
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
      const before = this.bytesRead
      const wanted = this.#events.onReadable(this.#read)
      if (this.bytesRead === before) return
      budget -= this.bytesRead - before
      this.#events.onActivity()
      if (!wanted) this.stop()
    }
  }

  // ---- writing

  /** `done` is called once the channel has taken everything, at once if it can. The chunks are the link's until then. */
  write(chunks: Uint8Array[], done: Done): void {
    for (const { length } of chunks) this.bytesWritten += length
    this.#chunks = chunks
    this.#at = 0
    this.#done = done
    this.#flush()
  }

  #flush(): void {
    if (this.#done === null) return
    let error: Error | null = null
    try {
      if (!this.#send()) {
        this.#hold()
        return
      }
    } catch (cause) {
      error = brokenPipe(cause)
    }
    this.#finish(error)
  }

  #finish(error: Error | null): void {
    const done = this.#done
    this.#done = null
    this.#chunks = []
    this.#hold()
    done?.(error)
  }

  /** False: there is no room for all of it now. */
  #send(): boolean {
    const chunks = this.#chunks
    for (let index = 0; index < chunks.length; index++) {
      const chunk = chunks[index]!
      while (this.#at < chunk.length) {
        const end = Math.min(this.#at + this.#limit, chunk.length)
        const part = end - this.#at === chunk.length ? chunk : chunk.subarray(this.#at, end)
        if (!this.#channel.trySend(part)) {
          if (index > 0) this.#chunks = chunks.slice(index)
          return false
        }
        this.#events.onActivity()
        this.#at = end
      }
      this.#at = 0
    }
    return true
  }

  /** Ends the own direction behind everything that was written. */
  end(): void {
    this.#channel.end()
  }

  // ---- the rest

  /** Reads no more; the other side still gets what the channel has taken, then the end. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#reading = false
    // held until everything is delivered, but not for ever
    this.#channel.ref()
    setTimeout(() => this.#channel.unref(), LINGER_MS).unref()
    void this.#channel.close()
    this.#finish(null)
  }

  /** At once: the other side sees a reset. */
  reset(): void {
    if (this.#closed) return
    this.#closed = true
    this.#reading = false
    this.#channel.destroy()
    this.#finish(null)
  }

  ref(): void {
    this.#referenced = true
    this.#hold()
  }

  unref(): void {
    this.#referenced = false
    this.#hold()
  }

  /** As a system socket: one that neither reads nor writes keeps no process alive. */
  #hold(): void {
    const held = this.#referenced && (this.#reading || this.#done !== null)
    if (held === this.#held || this.#closed) return
    this.#held = held
    if (held) this.#channel.ref()
    else this.#channel.unref()
  }

  /** The channel is over. In good order, what remains to be seen of it is the end. */
  #over(): void {
    if (this.#closed) return
    const { error } = this.#channel.stats()
    if (error !== null) {
      this.#closed = true
      this.#reading = false
      this.#events.onBroken(asError(error))
    }
    this.#finish(error === null && this.#done !== null ? brokenPipe() : null)
  }
}

function noop(): void {}
