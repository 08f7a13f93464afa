/**
 * A net.Socket whose bytes go over a channel. It has no handle, so http, http2 and tls treat it as any stream that is no system
 * socket; what node:net does by itself (half-open rules, timers, validation, counters after the end) stays the code of node:net.
 */
import diagnostics from 'node:diagnostics_channel'
import net from 'node:net'
import type { Channel } from '../channel/channel.js'
import type { AttachOptions } from '../peer/attach.js'
import type { Peer } from '../peer/peer.js'
import {
  addressText,
  type NetAddress,
  type SocketName,
  socketName,
  type Target,
  targetOf,
} from './address.js'
import { debug } from './debug.js'
import { brokenConnection, connectFailure } from './failure.js'
import {
  type ConnectOptions,
  calledBy,
  inner,
  normalize,
  PlainSocket,
  tlsFile,
  wrapperFile,
} from './internals.js'
import { Link, type LinkEvents, type Piece } from './link.js'
import { probe } from './lookup.js'
import { OnRead } from './onread.js'
import { Chunks } from './pool.js'
import { type ConnectChannel, lender, type SharedPeer, sharedPeer } from './shared.js'
import { heedWrapper } from './wrapper.js'

const kState = Symbol('vmring')

type Done = (error?: Error | null) => void

/** From connect() or accept to the end of the socket. A socket without one belongs to node:net. */
interface State {
  readonly socket: net.Socket
  readonly at: NetAddress
  link: Link | null
  /** ends the attempt to connect */
  readonly giveUp: AbortController
  referenced: boolean
  /** by tls or http2 */
  wrapped: boolean
  local: SocketName | null
  remote: SocketName | null
  readonly onread: OnRead | null
}

export interface VmringConnectOptions {
  /** the peer to use instead of the one of the process, or how to attach */
  peer?: Peer | AttachOptions
  /** ms to wait until somebody listens; default 25 */
  wait?: number
  /** bytes of the ring in each direction, a power of two from 4 KiB; by default less the more sockets there are */
  ringSize?: number
}

const clientSockets = diagnostics.channel('net.client.socket')

export class Socket extends PlainSocket {
  declare [kState]?: State | undefined
  declare resetAndClosing?: boolean

  /**
   * As net.Socket.connect(): 'vmring:SERVICE', { path: 'vmring:SERVICE' }, or an address that is routed to a service. Every
   * other address: a connection of node:net.
   */
  override connect(...args: unknown[]): this {
    const normalized = normalize(args)
    const [options, callback] = normalized
    const target = inner(this)._handle ? null : targetOf(addressOf(options))
    if (target === null) return super.connect(normalized as never)
    const self = inner(this)
    if (clientSockets.hasSubscribers) clientSockets.publish({ socket: this })
    if (callback !== null) this.once('connect', callback)
    if (self._parent?.connecting) return this
    // what node:net puts in its place once the other side has ended
    if (Object.hasOwn(this, 'write')) delete (this as Partial<this>).write
    self._peername = null
    self._sockname = null
    self._undestroy()
    const state = newState(this, target.at)
    this[kState] = state
    self._unrefTimer()
    self.connecting = true
    const shared = options.peer === undefined ? sharedPeer() : lender(options.peer as Peer)
    const { wait, ringSize } = options as VmringConnectOptions
    const how = { signal: state.giveUp.signal, wait, ringSize }
    if (target.at.path !== undefined) {
      this.emit('connectionAttempt', target.at.path, undefined, undefined)
      if (this[kState] === state) attempt(state, target, shared, how)
    } else {
      try {
        probe(this, options, state.giveUp.signal, (address, port) => {
          state.remote = socketName(address, port)
          attempt(state, { ...target, at: { host: address, port } }, shared, how)
        })
      } catch (error) {
        self.connecting = false
        this[kState] = undefined
        throw error
      }
    }
    return this
  }

  /**
   * A TLSSocket takes a socket without a handle for one that has still to connect, and waits for 'connect': it is told.
   * What tls and http2 put around such a socket says goodbye when the other side has ended, or gone. Over a handle net.Socket would
   * neither see that end nor answer it, and nobody hears of a goodbye that meets nobody.
   */
  override once(name: string | symbol, listener: (...args: never[]) => void): this {
    super.once(name as string, listener as () => void)
    const state = this[kState]
    if (name === 'end' && state !== undefined && calledBy(wrapperFile)) {
      state.wrapped = true
      heedWrapper(this)
      // a TLSSocket looks first whether it is to be half open itself
      process.nextTick(() => {
        this.allowHalfOpen = true
      })
    }
    if (name === 'connect' && state?.link != null && !this.connecting && calledBy(tlsFile)) {
      process.nextTick(() => {
        if (!this.listeners(name).includes(listener) || this.destroyed) return
        this.off(name, listener as () => void)
        listener.call(this)
      })
    }
    return this
  }

  override _read(size: number): void {
    const state = this[kState]
    if (state === undefined) super._read(size)
    else if (state.link === null) this.once('connect', () => this._read(size))
    else state.link.read()
  }

  /** @internal both _write and _writev of node:net come here */
  _writeGeneric(many: boolean, data: unknown, encoding: BufferEncoding, done: Done): void {
    const self = inner(this)
    const state = this[kState]
    const link = state?.link
    if (link == null) {
      plain._writeGeneric.call(this, many, data, encoding, done)
      return
    }
    self._pendingData = null
    self._pendingEncoding = ''
    self._unrefTimer()
    const told = state?.wrapped ? () => settled(link, done) : done
    if (many) link.writeMany(data as Piece[], told)
    else link.write(data, encoding, told)
  }

  override _final(done: Done): void {
    const state = this[kState]
    if (state === undefined) {
      super._final(done)
    } else if (state.link === null) {
      this.once('connect', () => this._final(done))
    } else {
      state.link.end()
      done()
    }
  }

  override _destroy(error: Error | null, done: Done): void {
    const state = this[kState]
    this[kState] = undefined
    if (state !== undefined) {
      state.giveUp.abort()
      // node:net takes the counters from here, and knows from it that there was a connection
      inner(this)._handle = new Closing(state.link)
    }
    super._destroy(error, done)
  }

  override ref(): this {
    return refer(this, true) ? this : super.ref()
  }

  override unref(): this {
    return refer(this, false) ? this : super.unref()
  }

  override pause(): this {
    const state = this[kState]
    if (state?.onread != null) state.link?.stop()
    return super.pause()
  }

  override resume(): this {
    const state = this[kState]
    if (state?.onread != null) state.link?.read()
    return super.resume()
  }

  override read(size?: number): unknown {
    const state = this[kState]
    if (state?.onread != null) state.link?.read()
    return super.read(size)
  }

  override resetAndDestroy(): this {
    const state = this[kState]
    if (state === undefined) return super.resetAndDestroy()
    if (state.link === null) {
      this.once('connect', () => this.resetAndDestroy())
      return this
    }
    this.resetAndClosing = true
    return this.destroy()
  }

  /** @internal */
  _getsockname(): Partial<SocketName> {
    const state = this[kState]
    return state === undefined ? plain._getsockname.call(this) : (state.local ?? {})
  }

  /** @internal */
  _getpeername(): Partial<SocketName> {
    const state = this[kState]
    return state === undefined || this.connecting ? plain._getpeername.call(this) : (state.remote ?? {})
  }
}

const plain = PlainSocket.prototype as unknown as {
  _writeGeneric(many: boolean, data: unknown, encoding: string, done: Done): void
  _getsockname(): Partial<SocketName>
  _getpeername(): Partial<SocketName>
}

// Properties by their types, accessors in fact. node:net adds to `_bytesDispatched` what waits, and says `bytesWritten`.
accessor('pending', (socket) => socket.connecting)
accessor('bytesRead', (_socket, link) => link?.bytesRead ?? 0)
accessor('_bytesDispatched', (_socket, link) => link?.bytesWritten ?? 0)
accessor('bufferSize', (socket) => socket.writableLength)

function accessor(name: string, own: (socket: Socket, link: Link | null) => unknown): void {
  const base = Object.getOwnPropertyDescriptor(plain, name)!.get!
  Object.defineProperty(Socket.prototype, name, {
    configurable: true,
    enumerable: true,
    get(this: Socket) {
      const state = this[kState]
      return state === undefined ? base.call(this) : own(this, state.link)
    },
  })
}

function refer(socket: Socket, referenced: boolean): boolean {
  const state = socket[kState]
  if (state === undefined) return false
  state.referenced = referenced
  if (referenced) state.link?.ref()
  else state.link?.unref()
  return true
}

function addressOf({ path, port, host }: ConnectOptions): NetAddress {
  if (path) return typeof path === 'string' ? { path } : {}
  const number = typeof port === 'string' && port.trim() === '' ? Number.NaN : Number(port)
  if ((typeof port !== 'number' && typeof port !== 'string') || !(number >= 0 && number <= 65535)) return {}
  return { port: number, ...(typeof host === 'string' && host !== '' && { host }) }
}

function newState(socket: net.Socket, at: NetAddress): State {
  return {
    socket,
    at,
    link: null,
    giveUp: new AbortController(),
    referenced: true,
    wrapped: false,
    local: null,
    remote: null,
    onread: OnRead.of(socket),
  }
}

/** What node:net is shown of a connection at its end. */
class Closing {
  readonly bytesRead: number
  readonly bytesWritten: number
  readonly #link: Link | null
  onread: unknown

  constructor(link: Link | null) {
    this.#link = link
    this.bytesRead = link?.bytesRead ?? 0
    this.bytesWritten = link?.bytesWritten ?? 0
  }

  close(done: () => void): void {
    this.#link?.close()
    setImmediate(done)
  }

  reset(done: () => void): number {
    this.#link?.reset()
    setImmediate(done)
    return 0
  }
}

/**
 * A write of what tls and http2 put around a socket. They see the end of it in the next turn of the loop, and while they wait they say
 * nothing more: an answer that came before it, to be refused with an alert, would find them mute.
 */
function settled(link: Link, done: Done): void {
  done()
  // behind the tick in which the stream tells them
  process.nextTick(() => link.rest())
}

function attempt(state: State, target: Target, shared: SharedPeer, how: ConnectChannel): void {
  const { socket } = state
  shared.take()
  const current = (): boolean => (socket as Socket)[kState] === state
  // Listeners run outside of promises: what they throw is theirs.
  shared.connect(target.service, how).then(
    (channel) => {
      channel.once('close', () => shared.drop())
      process.nextTick(() => {
        if (current()) connected(state, channel)
        else channel.destroy()
      })
    },
    (cause) => {
      shared.drop()
      process.nextTick(() => {
        if (!current()) return
        const error = connectFailure(cause, target.at)
        const { path, host, port } = target.at
        socket.emit(
          'connectionAttemptFailed',
          path ?? host,
          port,
          host === undefined ? undefined : net.isIP(host),
          error,
        )
        socket.destroy(error)
      })
    },
  )
}

function connected(state: State, channel: Channel): void {
  const { socket } = state
  const self = inner(socket)
  open(state, channel)
  self.connecting = false
  if (state.remote !== null) state.local = socketName(state.remote.address, ephemeralPort())
  self._unrefTimer()
  socket.emit('connect')
  socket.emit('ready')
  if (!socket.isPaused()) socket.read(0)
}

function open(state: State, channel: Channel): void {
  debug('%s: a channel of service %s, path %s', addressText(state.at), channel.service, channel.path)
  const link = new Link(channel, linkEvents(state))
  state.link = link
  state.onread?.start()
  if (!state.referenced) link.unref()
}

function linkEvents({ socket, onread }: State): LinkEvents {
  const self = inner(socket)
  const onEnd = (): void => {
    socket.push(null)
    // as node:net: the end is seen although nobody reads
    socket.read(0)
  }
  const chunks = new Chunks()
  return {
    onReadable:
      onread === null
        ? (read) => {
            const chunk = chunks.next(read)
            return chunk === null || hand(socket, chunk)
          }
        : (read) => onread.take(read),
    onEnd,
    onBroken: (error) => socket.destroy(brokenConnection(error)),
    onActivity: () => self._unrefTimer(),
  }
}

const { push } = PlainSocket.prototype

/**
 * As push(), less its books about chunks that wait, where none does: they cost a turn of the queue of ticks and a read() each.
 * False: no more for now.
 */
function hand(socket: net.Socket, chunk: Buffer): boolean {
  const direct =
    socket.readableFlowing === true &&
    socket.readableLength === 0 &&
    socket.readableDidRead && // push() notes that
    socket.readableEncoding === null &&
    socket.push === push &&
    socket.listenerCount('data') > 0
  if (!direct) return socket.push(chunk)
  socket.emit('data', chunk)
  return true
}

let lastPort = 32767

/** The port of the connecting side tells connections apart, and nothing more. */
function ephemeralPort(): number {
  lastPort = lastPort >= 49151 ? 32768 : lastPort + 1
  return lastPort
}

export interface AcceptOptions {
  allowHalfOpen: boolean
  highWaterMark: number | undefined
  paused: boolean
  local: SocketName | null
}

/** The socket of a server for a channel that somebody has opened. */
export function acceptSocket(channel: Channel, at: NetAddress, options: AcceptOptions): Socket {
  const { highWaterMark, local } = options
  const socket = new Socket({
    allowHalfOpen: options.allowHalfOpen,
    ...(highWaterMark !== undefined && {
      readableHighWaterMark: highWaterMark,
      writableHighWaterMark: highWaterMark,
    }),
  } as net.SocketConstructorOpts)
  const state = newState(socket, at)
  socket[kState] = state
  state.local = local
  state.remote = local === null ? null : socketName(local.address, ephemeralPort())
  open(state, channel)
  if (options.paused) socket.pause()
  else socket.read(0)
  return socket
}

/** Whether connect() with these options would go over vmring. */
export function leadsToUs(socket: net.Socket | null, options: ConnectOptions): boolean {
  return !(socket !== null && inner(socket)._handle) && targetOf(addressOf(options)) !== null
}

const overrides = Object.getOwnPropertyDescriptors(Socket.prototype)

/**
 * Makes an unconnected socket of node:net one of ours, in place. A subclass keeps what it overrides itself.
 * Nothing else is lost by it: every method goes on to node:net while there is no channel.
 */
export function adopt(socket: net.Socket): Socket {
  if (socket instanceof Socket || Object.hasOwn(socket, '_writeGeneric')) return socket as Socket
  const prototype = Object.getPrototypeOf(socket)
  if (prototype === PlainSocket.prototype) {
    Object.setPrototypeOf(socket, Socket.prototype)
    return socket as Socket
  }
  for (const [name, descriptor] of Object.entries(overrides)) {
    if (name === 'constructor' || differs(prototype, name)) continue
    Object.defineProperty(socket, name, { ...descriptor, configurable: true, enumerable: false })
  }
  return socket as Socket
}

/** Whether a class between that prototype and net.Socket has its own. */
function differs(prototype: object, name: string): boolean {
  for (let at = prototype; at !== PlainSocket.prototype && at !== null; at = Object.getPrototypeOf(at)) {
    if (Object.hasOwn(at, name)) return true
  }
  return false
}
