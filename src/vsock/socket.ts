import { addAbortSignal, Duplex } from 'node:stream'
import { VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import type { NativeStream, StreamHandlers } from '../native/socket-types.js'
import {
  type Address,
  argumentError,
  callbackOrNone,
  connectAddress,
  milliseconds,
  signalOrNone,
  VMADDR_CID_ANY,
  VMADDR_CID_HOST,
  VMADDR_CID_LOCAL,
  type VsockAddress,
} from './address.js'
import type { ConnectOptions } from './connect.js'
import { connectFailure, failure } from './failure.js'
import { connectLine, Reply } from './hybrid.js'
import { ReadBuffer } from './read-buffer.js'

/** How long Firecracker or Cloud Hypervisor may take to answer, unless told otherwise. */
const HYBRID_TIMEOUT = 10_000

export interface StreamOptions {
  /** false (default): the own direction ends when the other side has ended its; true: end() is the application's */
  allowHalfOpen?: boolean | undefined
  /** bytes at which both directions push back; default that of Node's streams */
  highWaterMark?: number | undefined
}

/** A connection that a server has accepted. */
export interface Incoming extends StreamOptions {
  stream: NativeStream
  /** where the server listens */
  at: Address
  pauseOnConnect?: boolean | undefined
  onGone(): void
}

type Callback = (error?: Error | null) => void

/**
 * One connection: a Duplex of bytes that behaves as net.Socket does.
 *
 * Events besides those of a Duplex: 'connect', 'ready' (both when the connection stands), 'timeout' (nothing came or went for
 * the time that setTimeout() names), 'close' (with true after an error). Sockets come from connect() and from the
 * 'connection' event of a server.
 */
export class Socket extends Duplex {
  /** true from connect() until 'connect' or an error */
  connecting: boolean
  /** milliseconds of setTimeout(); undefined when never set */
  timeout: number | undefined
  /** CID and port of the other machine; undefined before 'connect', and where the monitor of a `uds` does not tell */
  remoteCid: number | undefined
  remotePort: number | undefined
  /** own port */
  localPort: number | undefined

  readonly #at: Address
  readonly #buffer = new ReadBuffer()
  readonly #onGone: (() => void) | undefined
  #stream: NativeStream | undefined
  #localCid: number | undefined
  #reply: Reply | undefined
  /** reading is armed in the addon */
  #reading = false
  /** the stream machinery has asked for more since the last push */
  #wanted = false
  #readEnded = false
  #resetting = false
  #referenced = true
  #bytesRead = 0
  #bytesWritten = 0
  /** the write that waits for the connection, or (chunks gone to the addon) for the queue to be empty */
  #waiting: Uint8Array[] | undefined
  #inFlight = 0
  #lastQueued = 0
  #written: Callback | undefined
  #finished: Callback | undefined
  #idle: NodeJS.Timeout | undefined
  #patience: NodeJS.Timeout | undefined

  /** Use connect(), or the 'connection' event of a server. */
  constructor(from: ConnectOptions | Incoming) {
    const incoming = 'stream' in from ? from : undefined
    super({
      allowHalfOpen: from.allowHalfOpen ?? false,
      ...(from.highWaterMark === undefined ? {} : { highWaterMark: from.highWaterMark }),
      // 'close' says whether there was an error, as that of net.Socket
      emitClose: false,
    })
    this.connecting = incoming === undefined
    this.#onGone = incoming?.onGone
    if (incoming === undefined) {
      this.#at = connectAddress(from as ConnectOptions)
      this.#connect(from as ConnectOptions)
    } else {
      this.#at = incoming.at
      this.#stream = incoming.stream
      incoming.stream.start(this.#handlers())
      this.#learnAddresses()
      if (incoming.pauseOnConnect) this.pause()
      else this.read(0)
    }
  }

  /** own CID; undefined before 'connect', or when the system does not tell */
  get localCid(): number | undefined {
    if (this.#localCid === VMADDR_CID_ANY) {
      // Linux leaves the connecting side at "any"
      this.#localCid = this.remoteCid === VMADDR_CID_LOCAL ? VMADDR_CID_LOCAL : guestCid()
    }
    return this.#localCid
  }

  /** true before 'connect' and after the end of the connection */
  get pending(): boolean {
    return this.connecting || this.#stream === undefined
  }

  get readyState(): 'opening' | 'open' | 'readOnly' | 'writeOnly' | 'closed' {
    if (this.connecting) return 'opening'
    if (this.readable) return this.writable ? 'open' : 'readOnly'
    return this.writable ? 'writeOnly' : 'closed'
  }

  /** bytes received */
  get bytesRead(): number {
    return this.#bytesRead
  }

  /** bytes given to write(), whether they are on their way already or not */
  get bytesWritten(): number {
    return this.destroyed ? this.#bytesWritten : this.#bytesWritten + this.writableLength - this.#inFlight
  }

  /** bytes given to write() that the kernel has not taken yet */
  get bufferSize(): number {
    return this.writableLength
  }

  /** Own CID and port; empty before 'connect'. */
  address(): Partial<VsockAddress> {
    const { localCid: cid, localPort: port } = this
    return { ...(cid === undefined ? {} : { cid }), ...(port === undefined ? {} : { port }) }
  }

  /**
   * Emits 'timeout' after so many milliseconds without traffic; 0 turns it off. The connection stays: end or destroy it yourself.
   * Throws ERR_VMRING_ARGUMENT.
   */
  setTimeout(timeout: number, callback?: () => void): this {
    const ms = milliseconds('timeout', timeout)
    callbackOrNone('callback', callback)
    if (this.destroyed) return this
    this.timeout = ms
    clearTimeout(this.#idle)
    this.#idle = undefined
    if (ms === 0) {
      if (callback) this.removeListener('timeout', callback)
    } else {
      this.#idle = setTimeout(() => this.#quiet(), ms).unref()
      if (callback) this.once('timeout', callback)
    }
    return this
  }

  /** For callers written for TCP (http does call it): virtio sockets never delay small writes. */
  setNoDelay(_noDelay?: boolean): this {
    return this
  }

  /** For callers written for TCP: the hypervisor itself notices when the other machine is gone. */
  setKeepAlive(_enable?: boolean, _initialDelay?: number): this {
    return this
  }

  /** Keeps the process running while the connection stands (default). */
  ref(): this {
    this.#referenced = true
    this.#stream?.ref()
    return this
  }

  unref(): this {
    this.#referenced = false
    this.#stream?.unref()
    return this
  }

  /** Ends both directions after what has been written. */
  destroySoon(): void {
    if (this.writable) this.end()
    if (this.writableFinished) this.destroy()
    else this.once('finish', this.destroy)
  }

  /**
   * Ends the connection at once, without what is still queued. A virtio socket has no reset of its own that Linux reports: the
   * other side sees the end of the stream, and EPIPE when it writes.
   */
  resetAndDestroy(): this {
    if (this.#stream === undefined) return this.destroy(closed())
    this.#resetting = true
    return this.destroy()
  }

  override write(chunk: unknown, encoding?: BufferEncoding | Callback, callback?: Callback): boolean {
    const done = typeof encoding === 'function' ? encoding : callback
    if (this.readableEnded && !this.allowHalfOpen && this.writableEnded) {
      const error = failure(
        'EPIPE',
        'write',
        null,
        'the other side has ended the connection; allowHalfOpen keeps the own direction open',
      )
      if (typeof done === 'function') process.nextTick(done, error)
      this.destroy(error)
      return false
    }
    return typeof encoding === 'string' ? super.write(chunk, encoding, done) : super.write(chunk, done)
  }

  override _read(): void {
    this.#wanted = true
    if (!this.#reading) this.#arm()
  }

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, callback: Callback): void {
    this.#send([chunk], callback)
  }

  override _writev(chunks: { chunk: Uint8Array }[], callback: Callback): void {
    this.#send(
      chunks.map(({ chunk }) => chunk),
      callback,
    )
  }

  override _final(callback: Callback): void {
    if (!this.connecting && this.#stream === undefined) {
      callback()
      return
    }
    this.#finished = callback
    if (!this.connecting) this.#stream!.end()
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    const connecting = this.connecting
    this.connecting = false
    clearTimeout(this.#idle)
    clearTimeout(this.#patience)
    const stream = this.#stream
    this.#stream = undefined
    if (this.#resetting) stream?.reset()
    else stream?.close()
    this.#waiting = undefined
    this.#settle(error ?? closed(connecting))
    callback(error)
    // as late as net.Socket's, so that whoever still waits for a write hears of it before
    setImmediate(() => {
      this.emit('close', error !== null)
      this.#onGone?.()
    })
  }

  // ------------------------------------------------------------------------------------------------------- connecting

  #connect(options: ConnectOptions): void {
    const at = this.#at
    const uds = 'uds' in at
    const limit =
      options.connectTimeout === undefined
        ? undefined
        : milliseconds('connectTimeout', options.connectTimeout)
    if (limit === 0) throw argumentError('connectTimeout is a number of milliseconds above 0; not 0')
    signalOrNone(options.signal)
    if (options.timeout !== undefined) this.setTimeout(options.timeout)
    if (uds) this.#reply = new Reply()
    const patience = limit ?? (uds ? HYBRID_TIMEOUT : undefined)
    if (patience !== undefined) {
      const cause = Object.assign(new Error(`no connection within ${patience} ms`), { code: 'ETIMEDOUT' })
      this.#patience = setTimeout(() => this.destroy(connectFailure(cause, at)), patience).unref()
    }
    try {
      this.#stream = native.streamConnect(
        uds ? { path: at.uds } : at,
        this.#handlers(),
        limit === undefined ? {} : { timeout: limit },
      )
    } catch (error) {
      clearTimeout(this.#patience)
      process.nextTick(() => this.destroy(connectFailure(error, at)))
      return
    }
    if (options.signal) addAbortSignal(options.signal, this)
  }

  #onConnect(): void {
    if (this.#reply === undefined) this.#connected()
    else {
      this.#stream!.write([connectLine(this.#at.port)])
      this.#stream!.readInto(this.#reply.target)
    }
  }

  /** Bytes of the monitor's answer. */
  #onReply(reply: Reply, length: number): void {
    const accepted = reply.read(length)
    if (accepted === 'more') this.#stream!.readInto(reply.target)
    else if (accepted === 'wrong') this.destroy(reply.fault(this.#at))
    else {
      this.#stream!.pause()
      this.#reply = undefined
      this.localPort = accepted.hostPort
      this.#connected(accepted.rest)
    }
  }

  #connected(rest?: Buffer): void {
    this.connecting = false
    clearTimeout(this.#patience)
    if (!this.#referenced) this.#stream!.unref()
    this.#learnAddresses()
    this.#active()
    this.emit('connect')
    this.emit('ready')
    if (this.destroyed) return
    const [chunks, written] = [this.#waiting, this.#written]
    this.#waiting = undefined
    if (chunks !== undefined) this.#send(chunks, written!)
    // Writable asks for the end behind the last write only
    else if (this.#finished !== undefined) this.#stream!.end()
    if (rest !== undefined && rest.length > 0) {
      this.#bytesRead += rest.length
      this.push(rest)
    }
    if (this.destroyed) return
    if (this.#wanted && !this.#reading) this.#arm()
    if (!this.isPaused()) this.read(0)
  }

  #learnAddresses(): void {
    const at = this.#at
    const { local, remote } = this.#stream!
    if (!('uds' in at) && 'cid' in local && 'cid' in remote) {
      this.#localCid = local.cid
      this.localPort = local.port
      this.remoteCid = remote.cid
      this.remotePort = remote.port
    } else {
      this.#localCid = VMADDR_CID_HOST
      // of a connection from the guest only the port that it asked for is known
      if (this.#onGone === undefined) this.remotePort = at.port
      else this.localPort = at.port
    }
  }

  // ---------------------------------------------------------------------------------------------------- what comes in

  #handlers(): StreamHandlers {
    return {
      onConnect: () => this.#onConnect(),
      onRead: (length) => (this.#reply ? this.#onReply(this.#reply, length) : this.#onRead(length)),
      onEnd: () => this.#onEnd(),
      onDrain: () => {
        this.#active()
        this.#complete()
      },
      onFinish: () => {
        const finished = this.#finished
        this.#finished = undefined
        finished?.()
      },
      onClose: (error) => this.#onClose(error),
    }
  }

  #arm(): void {
    if (this.connecting || this.#readEnded || this.#stream === undefined) return
    this.#reading = true
    this.#stream.readInto(this.#buffer.target)
  }

  #onRead(length: number): void {
    this.#active()
    this.#bytesRead += length
    const chunk = this.#buffer.take(length)
    // what has been read belongs to the application from here on: the next read goes elsewhere
    this.#stream!.readInto(this.#buffer.target)
    this.#wanted = false
    if (!this.push(chunk) && !this.#wanted && this.#stream !== undefined) {
      this.#reading = false
      this.#stream.pause()
    }
  }

  #onEnd(): void {
    if (this.connecting) {
      const broken = this.#reply !== undefined && !this.#reply.empty
      const refused = Object.assign(new Error('closed without an answer'), { code: 'ECONNREFUSED' })
      this.destroy(broken ? this.#reply!.fault(this.#at) : connectFailure(refused, this.#at))
      return
    }
    if (this.#readEnded) return
    this.#readEnded = true
    this.#reading = false
    this.push(null)
    // 'end' comes although nobody reads, when there is nothing to read
    this.read(0)
  }

  /** The addon's last word: no call on the stream after it. */
  #onClose(error: NodeJS.ErrnoException | null): void {
    this.#stream = undefined
    if (error !== null) {
      this.destroy(this.connecting ? connectFailure(error, this.#at) : error)
    } else {
      this.#onEnd()
      this.#settle(undefined)
    }
  }

  // ----------------------------------------------------------------------------------------------------- what goes out

  #send(chunks: Uint8Array[], callback: Callback): void {
    this.#written = callback
    if (this.connecting) {
      this.#waiting = chunks
      return
    }
    const stream = this.#stream
    if (stream === undefined) {
      this.#complete(closed())
      return
    }
    let length = 0
    for (const chunk of chunks) length += chunk.length
    this.#inFlight = length
    this.#bytesWritten += length
    this.#active()
    if (length === 0 || stream.write(chunks) === 0) this.#complete()
  }

  #complete(error?: Error): void {
    const written = this.#written
    this.#written = undefined
    this.#inFlight = 0
    written?.(error)
  }

  /** Nothing more goes out: whoever waits for that learns it. */
  #settle(error: Error | undefined): void {
    if (this.#written !== undefined) this.#complete(error ?? closed())
    const finished = this.#finished
    this.#finished = undefined
    finished?.(error)
  }

  // -------------------------------------------------------------------------------------------------------- idle time

  #active(): void {
    this.#idle?.refresh()
  }

  #quiet(): void {
    const queued = this.#stream?.queued ?? 0
    if (this.#inFlight > 0 && queued !== this.#lastQueued) {
      // a long write moves on: that is traffic, though nobody has been told of it yet
      this.#lastQueued = queued
      this.#idle?.refresh()
    } else {
      this.emit('timeout')
    }
  }
}

function guestCid(): number | undefined {
  try {
    return native.vsockLocalCid()
  } catch {
    return undefined
  }
}

function closed(connecting = false): VmringError {
  return connecting
    ? new VmringError(
        'ERR_SOCKET_CLOSED_BEFORE_CONNECTION',
        'the socket was closed before the connection stood; connect again',
      )
    : new VmringError('ERR_SOCKET_CLOSED', 'the socket is closed; make a new connection')
}
