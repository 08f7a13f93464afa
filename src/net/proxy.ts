/** `vmring proxy`: a service and an ordinary socket as one. Each connection is a channel of its own. */
import { EventEmitter, setMaxListeners } from 'node:events'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import type { Channel } from '../channel/channel.js'
import { asError, errnoOf, VmringError } from '../errors.js'
import type { Peer } from '../peer/peer.js'
import { type Endpoint, endpointOptions, endpointText } from './endpoint.js'
import { join, reset } from './join.js'

export interface ProxyOptions {
  service: string
  /** connections at a time; those above are turned away */
  maxConnections: number
  /** paths that channels may use; default: all there are */
  paths?: string[]
}

export interface ProxyEvents {
  /** one more, from this side to that; `open` counts it */
  open: [open: number]
  /** one less; the error that ended it, or null */
  done: [error: Error | null, open: number]
  /** a connection that did not come about: turned away, or the other side was not to be had */
  refused: [error: Error]
}

abstract class Carrier extends EventEmitter<ProxyEvents> {
  protected readonly live = new Set<{ channel: Channel | null; socket: Socket }>()
  protected readonly options: ProxyOptions

  constructor(options: ProxyOptions) {
    super()
    this.options = options
  }

  get open(): number {
    return this.live.size
  }

  protected get full(): boolean {
    return this.live.size >= this.options.maxConnections
  }

  protected async carry(pair: { channel: Channel; socket: Socket }): Promise<void> {
    this.emit('open', this.live.size)
    const error = await join(pair.channel, pair.socket)
    this.live.delete(pair)
    this.emit('done', error, this.live.size)
  }

  /** Resets what is open. */
  protected cut(): void {
    for (const { channel, socket } of this.live) {
      channel?.destroy(new VmringError('ERR_VMRING_CLOSED', 'the proxy was ended'))
      reset(socket)
    }
  }
}

/** Others reach a socket by the name of a service: `--listen SERVICE --to ADDRESS`. */
export class ServiceProxy extends Carrier {
  readonly #target: Endpoint
  readonly #timeout: number
  #closed = false

  /** `timeout`: ms to try to reach the target. */
  constructor(target: Endpoint, timeout: number, options: ProxyOptions) {
    super(options)
    this.#target = target
    this.#timeout = timeout
  }

  /** Rejects as Peer.listen() does. */
  async start(peer: Peer): Promise<void> {
    const server = await peer.listen(this.options.service)
    server.on('channel', (channel) => this.#onChannel(channel))
    this.close = async () => {
      this.#closed = true
      await server.close()
      this.cut()
    }
  }

  close: () => Promise<void> = async () => {}

  #onChannel(channel: Channel): void {
    if (this.#closed || this.full) {
      const error = full(this.options.maxConnections)
      channel.destroy(error)
      this.emit('refused', error)
      return
    }
    const socket = createConnection({ ...endpointOptions(this.#target), allowHalfOpen: true, noDelay: true })
    const pair = { channel, socket }
    this.live.add(pair)
    const refuse = (error: Error): void => {
      clearTimeout(timer)
      socket.off('connect', connected).on('error', () => {})
      channel.destroy(error)
      socket.destroy()
      this.live.delete(pair)
      this.emit('refused', error)
    }
    const connected = (): void => {
      clearTimeout(timer)
      socket.off('error', refuse)
      void this.carry(pair)
    }
    const timer = setTimeout(() => refuse(tooLate(this.#target, this.#timeout)), this.#timeout)
    socket.once('connect', connected).once('error', refuse)
    // The messages of a channel that ends meanwhile are lost with it; the socket must not stay.
    void channel.closed.then((error) => {
      if (socket.connecting)
        socket.destroy(error ?? new VmringError('ERR_VMRING_CLOSED', 'the channel was closed'))
    })
  }
}

/** A socket that leads to a service: `--from ADDRESS --connect SERVICE`. */
export class SocketProxy extends Carrier {
  readonly #server: Server
  readonly #wait: number
  readonly #stop = new AbortController()

  /** `wait`: ms that a new connection waits for somebody to listen. */
  constructor(peer: Peer, wait: number, options: ProxyOptions) {
    super(options)
    this.#wait = wait
    setMaxListeners(0, this.#stop.signal)
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true })
    this.#server.maxConnections = options.maxConnections
    this.#server.on('connection', (socket) => void this.#onSocket(peer, socket))
    this.#server.on('drop', () => this.emit('refused', full(options.maxConnections)))
  }

  /** `fd`: of a Unix socket that listens already. Resolves with the address, its port filled in. */
  start(from: Endpoint, fd: number | null): Promise<Endpoint> {
    return new Promise((resolve, reject) => {
      const server = this.#server
      server.once('error', reject)
      server.listen(fd === null ? endpointOptions(from) : { fd }, () => {
        server.off('error', reject)
        // accept(2) failed, for want of descriptors: later ones may work
        server.on('error', (error) => this.emit('refused', error))
        const bound = server.address()
        const port = typeof bound === 'object' ? bound?.port : undefined
        resolve(from.kind === 'tcp' && port !== undefined ? { ...from, port } : from)
      })
    })
  }

  async close(): Promise<void> {
    this.#stop.abort(new VmringError('ERR_VMRING_CLOSED', 'the proxy was ended'))
    this.#server.close()
    this.cut()
  }

  async #onSocket(peer: Peer, socket: Socket): Promise<void> {
    const waiting = { channel: null, socket }
    const ignore = (): void => {}
    socket.on('error', ignore)
    this.live.add(waiting)
    try {
      const { service, paths } = this.options
      const channel = await peer.connect(service, {
        wait: this.#wait,
        signal: this.#stop.signal,
        many: true,
        ...(paths && { paths }),
      })
      this.live.delete(waiting)
      socket.off('error', ignore)
      if (socket.destroyed) {
        channel.destroy()
        return
      }
      const pair = { channel, socket }
      this.live.add(pair)
      void this.carry(pair)
    } catch (error) {
      this.live.delete(waiting)
      reset(socket)
      this.emit('refused', asError(error))
    }
  }
}

function full(limit: number): VmringError {
  return new VmringError(
    'ERR_VMRING_REFUSED',
    `${limit} connections are open, which is the limit of this proxy (--max-connections)`,
  )
}

function tooLate(target: Endpoint, timeout: number): VmringError {
  return new VmringError(
    'ETIMEDOUT',
    `connect ETIMEDOUT ${endpointText(target)}: no answer within ${timeout / 1000} s`,
    { errno: errnoOf('ETIMEDOUT')!, syscall: 'connect', address: endpointText(target) },
  )
}
