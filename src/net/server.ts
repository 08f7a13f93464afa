/** A net.Server that listens under a service name. Everything but listen() is node:net's own, over a handle of ours. */
import type { Cluster } from 'node:cluster'
import diagnostics from 'node:diagnostics_channel'
import { addAbortListener } from 'node:events'
import net from 'node:net'
import type { Channel } from '../channel/channel.js'
import type { Server as ChannelServer } from '../channel/server.js'
import { VmringError } from '../errors.js'
import type { AttachOptions } from '../peer/attach.js'
import type { Peer } from '../peer/peer.js'
import { freePort, type NetAddress, type SocketName, socketName, type Target, targetOf } from './address.js'
import { listenFailure } from './failure.js'
import { type ConnectOptions, innerServer, normalize, PlainServer } from './internals.js'
import { lender, type SharedPeer, sharedPeer } from './shared.js'
import { acceptSocket } from './socket.js'

export interface VmringListenOptions {
  /** the peer to use instead of the one of the process, or how to attach */
  peer?: Peer | AttachOptions
}

const serverSockets = diagnostics.channel('net.server.socket')

export class Server extends PlainServer {
  /**
   * As net.Server.listen(): 'vmring:SERVICE', { path: 'vmring:SERVICE' }, or an address that is routed to a service. Every other
   * address: a server of node:net.
   */
  override listen(...args: unknown[]): this {
    if (!listen(this, args)) super.listen(...(args as []))
    return this
  }
}

/** Makes a server listen over vmring. False, and nothing done: the address is none of ours, or is wrong. */
export function listen(server: net.Server, args: unknown[]): boolean {
  const self = innerServer(server)
  if (self._handle) return false
  const [options, callback] = normalize(args)
  if (options === null || typeof options !== 'object') return false
  const shared = options.peer === undefined ? sharedPeer() : lender(options.peer as Peer)
  const at = addressOf(options, args)
  let target = at === null ? null : targetOf(at)
  if (target?.at.port === 0) {
    const port = freePort((service) => shared.taken(service))
    target = port === undefined ? null : targetOf({ ...target.at, port })
  }
  if (target === null) return false
  if (options.signal !== undefined) watch(server, options.signal as AbortSignal)
  if (callback !== null) server.once('listening', callback)
  self._listeningId++
  if (target.at.path !== undefined) self._pipeName = target.at.path
  self._connectionKey = connectionKey(options, target.at)
  const handle = new Handle(server, target, shared, sharesHandle(options))
  self._handle = handle
  if (self._unref) handle.unref()
  handle.start()
  return true
}

/** Whether node:net would listen through the primary of a cluster, at one handle for all workers. */
function sharesHandle({ exclusive }: ConnectOptions): boolean {
  return !exclusive && (process.getBuiltinModule('cluster') as unknown as Cluster).isWorker
}

/** Null: nothing that a route could take. */
function addressOf(options: ConnectOptions, args: unknown[]): NetAddress | null {
  if (options.handle !== undefined || options._handle !== undefined || options.fd !== undefined) return null
  const { path, host } = options
  let { port } = options
  const none = args.length === 0 || typeof args[0] === 'function'
  if (none || (port === undefined && 'port' in options) || port === null) port = 0
  if (typeof port === 'number' || typeof port === 'string') {
    const number = typeof port === 'string' && port.trim() === '' ? Number.NaN : Number(port)
    if (!Number.isInteger(number) || number < 0 || number > 65535) return null
    return { port: number, ...(typeof host === 'string' && host !== '' && { host }) }
  }
  return typeof path === 'string' && path !== '' ? { path } : null
}

/** node:net puts the port as it was asked for. */
function connectionKey({ port }: ConnectOptions, { path, host }: NetAddress): string {
  if (path !== undefined) return `-1:${path}:-1`
  return `${host === undefined || net.isIPv6(host) ? 6 : 4}:${host ?? '::'}:${Number(port ?? 0)}`
}

function watch(server: net.Server, signal: AbortSignal): void {
  if (signal.aborted) {
    process.nextTick(() => server.close())
    return
  }
  const disposable = addAbortListener(signal, () => server.close())
  server.once('close', () => disposable[Symbol.dispose]())
}

/** What node:net takes for the handle of a listening server. */
class Handle {
  readonly #server: net.Server
  readonly #target: Target
  readonly #shared: SharedPeer
  readonly #clustered: boolean
  readonly #local: SocketName | null
  #services: ChannelServer | null = null
  #referenced = true
  #closed = false
  /** node:net calls it if it is there: ports have an address, paths have none */
  readonly getsockname?: (out: Partial<SocketName>) => number

  constructor(server: net.Server, target: Target, shared: SharedPeer, clustered: boolean) {
    this.#server = server
    this.#target = target
    this.#shared = shared
    this.#clustered = clustered
    const { host, port } = target.at
    this.#local = port === undefined ? null : socketName(host, port)
    if (this.#local !== null) {
      const name: SocketName =
        host === undefined ? { address: '::', family: 'IPv6', port: port! } : this.#local
      this.getsockname = (out) => {
        Object.assign(out, name)
        return 0
      }
    }
  }

  start(): void {
    this.#shared.take()
    this.#listen().then(
      () => {
        if (!this.#closed) process.nextTick(() => !this.#closed && this.#server.emit('listening'))
      },
      (cause) => {
        process.nextTick(() => this.#fail(cause))
      },
    )
  }

  async #listen(): Promise<void> {
    const { service } = this.#target
    if (this.#clustered)
      throw new VmringError(
        'ERR_VMRING_CLUSTER',
        `the workers of a cluster cannot share service '${service}': start one process without cluster, or listen with { exclusive: true } in one worker`,
      )
    const services = await this.#shared.listen(service)
    if (this.#closed) {
      await services.close()
      return
    }
    this.#services = services
    if (!this.#referenced) services.unref()
    services.on('channel', (channel) => this.#accept(channel))
  }

  #fail(cause: unknown): void {
    if (this.#closed) return
    this.close()
    const self = innerServer(this.#server)
    if (self._handle === this) self._handle = null
    this.#server.emit('error', listenFailure(cause, this.#target.at))
  }

  #accept(channel: Channel): void {
    const server = this.#server
    const self = innerServer(server)
    const { maxConnections } = server
    if (maxConnections != null && self._connections >= maxConnections) {
      server.emit('drop', ...(this.#local === null ? [] : [dropped(this.#local)]))
      void channel.close()
      return
    }
    this.#shared.take()
    channel.once('close', () => this.#shared.drop())
    const socket = acceptSocket(channel, this.#target.at, {
      allowHalfOpen: self.allowHalfOpen,
      highWaterMark: self.highWaterMark,
      paused: self.pauseOnConnect,
      local: this.#local,
    })
    self._connections++
    Object.assign(socket, { server, _server: server })
    server.emit('connection', socket)
    if (serverSockets.hasSubscribers) serverSockets.publish({ socket })
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    void this.#services?.close()
    this.#shared.drop()
  }

  ref(): void {
    this.#referenced = true
    this.#services?.ref()
  }

  unref(): void {
    this.#referenced = false
    this.#services?.unref()
  }
}

function dropped({ address, family, port }: SocketName): net.DropArgument {
  return {
    localAddress: address,
    localFamily: family,
    localPort: port,
    remoteAddress: address,
    remoteFamily: family,
    remotePort: port,
  }
}
