/** The bytes of one socket over one channel: back-pressure, half-close and end in both directions. */
import type { ByteStream } from '../channel/byte-stream.js'
import type { Channel } from '../channel/channel.js'
import { asError, VmringError } from '../errors.js'
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

/** A chunk as the streams of node hand it on. */
export interface Piece {
  chunk: unknown
  encoding: BufferEncoding
}

export class Link {
  bytesRead = 0
  bytesWritten = 0
  readonly #channel: Channel
  readonly #stream: ByteStream
  readonly #events: LinkEvents
  readonly #read: Read
  /** what the channel has not taken yet, and from where on in the first of it */
  #waiting: Uint8Array[] = []
  #at = 0
  #done: Done | null = null
  #reading = false
  /** the last read met the end of what there is; what has come since is reported */
  #drained = false
  #turn = false
  #resting = false
  #restAgain = false
  #closed = false
  #referenced = true
  #held = true

  constructor(channel: Channel, events: LinkEvents) {
    this.#channel = channel
    this.#events = events
    const stream = channel.bytes({ onReadable: () => this.#pump(), onDrain: () => this.#flush() })
    this.#stream = stream
    this.#read = (target, at, end) => {
      const reached = stream.read(target, at, end)
      this.bytesRead += reached - at
      this.#drained = reached < end || reached === at
      return reached
    }
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
    this.#stream.wantReadable(true)
    this.#hold()
    this.#later()
  }

  stop(): void {
    this.#reading = false
    this.#stream.wantReadable(false)
    this.#hold()
  }

  /** Hands on nothing more until what waits for the next turn of the loop has had it. */
  rest(): void {
    if (this.#resting) {
      this.#restAgain = true
      return
    }
    this.#resting = true
    setImmediate(() => {
      this.#resting = false
      this.#pump()
      // whoever writes all the time reads once in a turn
      if (!this.#restAgain) return
      this.#restAgain = false
      this.rest()
    })
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
    if (this.#turn || this.#resting || !this.#reading) return
    const from = this.bytesRead
    while (this.#reading) {
      const wanted = this.#events.onReadable(this.#read)
      if (!wanted) this.stop()
      else if (this.#drained || this.bytesRead - from >= BYTES_PER_TURN) break // the rest is reported in the next turn
    }
    if (this.bytesRead > from) this.#events.onActivity()
  }

  // ---- writing

  /** `done` is called once the channel has taken everything, at once if it can. The chunk is the link's until then. */
  write(chunk: unknown, encoding: BufferEncoding, done: Done): void {
    this.#done = done
    let error: Error | null = null
    try {
      if (!this.#put(chunk, encoding)) {
        this.#hold()
        return
      }
    } catch (cause) {
      error = brokenPipe(cause)
    }
    this.#finish(error)
  }

  writeMany(pieces: Piece[], done: Done): void {
    this.#done = done
    let error: Error | null = null
    try {
      let all = true
      for (const { chunk, encoding } of pieces) {
        // http ends each response with a piece of nothing
        if ((chunk as Uint8Array | string).length > 0) all = this.#put(chunk, encoding) && all
      }
      if (!all) {
        this.#hold()
        return
      }
    } catch (cause) {
      error = brokenPipe(cause)
    }
    this.#finish(error)
  }

  /** False: there is no room for all of it now. */
  #put(chunk: unknown, encoding: BufferEncoding): boolean {
    let bytes = chunk as Uint8Array
    if (typeof chunk === 'string') {
      const form = this.#waiting.length > 0 ? undefined : textForms[encoding]
      const sent = form === undefined ? -1 : this.#stream.writeText(chunk, form === 'utf8')
      if (sent >= 0) {
        this.bytesWritten += sent
        return true
      }
      bytes = Buffer.from(chunk, encoding)
    }
    this.bytesWritten += bytes.length
    if (this.#waiting.length === 0) {
      const reached = this.#stream.write(bytes, 0)
      if (reached === bytes.length) return true
      this.#at = reached
    }
    this.#waiting.push(bytes)
    return false
  }

  #flush(): void {
    if (this.#done === null) return
    let error: Error | null = null
    try {
      const waiting = this.#waiting
      while (waiting.length > 0) {
        const first = waiting[0]!
        const before = this.#at
        this.#at = this.#stream.write(first, before)
        if (this.#at > before) this.#events.onActivity()
        if (this.#at < first.length) return
        waiting.shift()
        this.#at = 0
      }
    } catch (cause) {
      error = brokenPipe(cause)
    }
    this.#finish(error)
  }

  #finish(error: Error | null): void {
    const done = this.#done
    this.#done = null
    if (this.#waiting.length > 0) this.#waiting = []
    this.#at = 0
    this.#hold()
    done?.(error)
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
    let { error } = this.#channel.stats()
    // a process that has said its last word may go
    if (this.#channel.readableEnded && codeOf(error) === 'ERR_VMRING_PEER_GONE') error = null
    if (error !== null) {
      this.#closed = true
      this.#reading = false
      this.#events.onBroken(asError(error))
    }
    this.#finish(error === null && this.#done !== null ? brokenPipe() : null)
  }
}

/** Encodings in which the addon writes strings by itself. */
const textForms: { [encoding: string]: 'utf8' | 'latin1' | undefined } = {
  utf8: 'utf8',
  'utf-8': 'utf8',
  latin1: 'latin1',
  binary: 'latin1',
  ascii: 'latin1',
}

function codeOf(error: Error | null): string | null {
  return error instanceof VmringError ? error.code : null
}

function noop(): void {}
