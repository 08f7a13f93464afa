import { EventEmitter } from 'node:events'
import { VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import type { NativeStream, NativeStreamListener } from '../native/socket-types.js'
import {
  type Address,
  argumentError,
  callbackOrNone,
  listenAddress,
  listenPath,
  optionsObject,
  signalOrNone,
  type UdsAddress,
  type VsockAddress,
} from './address.js'
import { listenFailure } from './failure.js'
import { Socket, type StreamOptions } from './socket.js'

const BACKLOG = 511
/** Of the socket file with `uds`: the monitor often runs as another user of the same group. */
const FILE_MODE = 0o660

export interface ServerOptions extends StreamOptions {
  /** accepted sockets are paused: nothing is read from them until resume() */
  pauseOnConnect?: boolean | undefined
}

export type ListenOptions = (
  | { cid?: number | undefined; port: number }
  | (UdsAddress & { mode?: number | undefined })
) & {
  /** connections that may wait to be accepted; default 511 */
  backlog?: number | undefined
  /** closes the server */
  signal?: AbortSignal | undefined
}

/** What is known of a connection that was turned away. */
export interface DroppedConnection {
  remoteCid?: number
  remotePort?: number
  /** out of descriptors or memory; without it, maxConnections was reached */
  error?: Error
}

export interface ServerEvents {
  listening: []
  connection: [socket: Socket]
  close: []
  error: [error: Error]
  drop: [dropped: DroppedConnection]
}

/** Listens for connections, as net.Server does. */
export class Server extends EventEmitter<ServerEvents> {
  /** connections above this number are closed at once, with 'drop' */
  maxConnections: number | undefined
  readonly #options: ServerOptions
  #listener: NativeStreamListener | undefined
  #at: Address | undefined
  #connections = 0
  #referenced = true
  #stopWatching: (() => void) | undefined

  /** Use createServer(). */
  constructor(options: ServerOptions = {}, listener?: (socket: Socket) => void) {
    super()
    this.#options = options
    if (listener !== undefined) this.on('connection', listener)
  }

  get listening(): boolean {
    return this.#listener !== undefined
  }

  /**
   * Starts to listen; 'listening' or 'error' follows. With `cid` and `port`: at a virtio socket, by default on every CID of this
   * machine; port VMADDR_PORT_ANY takes a free one. With `uds` and `port`: at the Unix socket `<uds>_<port>`, where Firecracker and
   * Cloud Hypervisor bring connections of their guest to CID 2; a stale socket file is replaced.
   *
   * Throws ERR_VMRING_ARGUMENT and ERR_SERVER_ALREADY_LISTEN. Emits EADDRINUSE, EACCES (ports below 1024), EADDRNOTAVAIL (a
   * CID of another machine), EAFNOSUPPORT and what else the system says, in libuv's shape.
   */
  listen(options: ListenOptions, listener?: () => void): this {
    optionsObject('listen()', options)
    const at = listenAddress(options)
    const { backlog = BACKLOG, signal } = options
    const mode = ('mode' in options ? options.mode : undefined) ?? FILE_MODE
    if (!Number.isInteger(backlog) || backlog < 1 || backlog > 0x7fffffff)
      throw argumentError(`backlog is a whole number from 1 to 2147483647; not ${backlog}`)
    if (!Number.isInteger(mode) || mode < 0 || mode > 0o777)
      throw argumentError(`mode is a number from 0 to 0o777; not ${mode}`)
    signalOrNone(signal)
    callbackOrNone('listener', listener)
    if (this.#listener !== undefined)
      throw new VmringError('ERR_SERVER_ALREADY_LISTEN', 'the server listens already; close it first')
    if (listener !== undefined) this.once('listening', listener)
    try {
      this.#open(at, backlog, mode)
    } catch (error) {
      process.nextTick(() => this.emit('error', listenFailure(error, at)))
      return this
    }
    const opened = this.#listener
    process.nextTick(() => {
      if (this.#listener === opened) this.emit('listening')
    })
    if (signal !== undefined) this.#watch(signal)
    return this
  }

  /** Where it listens, with the port that was chosen; null when it does not. */
  address(): VsockAddress | UdsAddress | null {
    if (this.#listener === undefined) return null
    const { local } = this.#listener
    return 'uds' in this.#at! || !('cid' in local) ? { ...(this.#at as UdsAddress) } : { ...local }
  }

  /** Stops listening; 'close' follows when the last connection has ended. */
  close(callback?: (error?: Error) => void): this {
    callbackOrNone('callback', callback)
    const running = this.#listener !== undefined
    if (callback !== undefined) {
      this.once('close', () =>
        running
          ? callback()
          : callback(
              new VmringError(
                'ERR_SERVER_NOT_RUNNING',
                'the server does not listen; there is nothing to close',
              ),
            ),
      )
    }
    this.#stopWatching?.()
    this.#listener?.close()
    this.#listener = undefined
    this.#closeIfLast()
    return this
  }

  getConnections(callback: (error: Error | null, count: number) => void): this {
    process.nextTick(callback, null, this.#connections)
    return this
  }

  /** Keeps the process running while it listens (default). */
  ref(): this {
    this.#referenced = true
    this.#listener?.ref()
    return this
  }

  unref(): this {
    this.#referenced = false
    this.#listener?.unref()
    return this
  }

  /** close(), and waits for 'close'. */
  [Symbol.asyncDispose](): Promise<void> {
    if (this.#listener === undefined) return Promise.resolve()
    return new Promise((resolve) => this.close(() => resolve()))
  }

  #open(at: Address, backlog: number, mode: number): void {
    const handlers = {
      onConnection: (stream: NativeStream) => this.#accept(stream),
      onRefused: (error: Error) => void this.emit('drop', { error }),
    }
    this.#listener =
      'uds' in at
        ? native.streamListen({ path: listenPath(at) }, { backlog, mode }, handlers)
        : native.streamListen(at, { backlog }, handlers)
    this.#at = at
    if (!this.#referenced) this.#listener.unref()
  }

  #accept(stream: NativeStream): void {
    if (this.maxConnections !== undefined && this.#connections >= this.maxConnections) {
      const { remote } = stream
      stream.close()
      this.emit('drop', 'cid' in remote ? { remoteCid: remote.cid, remotePort: remote.port } : {})
      return
    }
    this.#connections++
    const socket = new Socket({
      ...this.#options,
      stream,
      at: this.#at!,
      onGone: () => {
        this.#connections--
        this.#closeIfLast()
      },
    })
    this.emit('connection', socket)
  }

  #closeIfLast(): void {
    if (this.#listener !== undefined || this.#connections > 0) return
    process.nextTick(() => {
      if (this.#listener === undefined && this.#connections === 0) this.emit('close')
    })
  }

  #watch(signal: AbortSignal): void {
    const abort = () => this.close()
    if (signal.aborted) {
      process.nextTick(abort)
      return
    }
    signal.addEventListener('abort', abort, { once: true })
    this.#stopWatching = () => signal.removeEventListener('abort', abort)
  }
}

/**
 * A server for virtio sockets; `listener` is added to 'connection'. Nothing happens before listen().
 * Throws ERR_VMRING_ARGUMENT.
 */
export function createServer(listener?: (socket: Socket) => void): Server
export function createServer(options?: ServerOptions, listener?: (socket: Socket) => void): Server
export function createServer(
  options?: ServerOptions | ((socket: Socket) => void),
  listener?: (socket: Socket) => void,
): Server {
  if (typeof options === 'function') return new Server({}, options)
  if (options !== undefined) optionsObject('createServer()', options)
  callbackOrNone('listener', listener)
  return new Server(options, listener)
}
