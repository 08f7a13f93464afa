/** This process in a region: where channels and servers come from. */
import { EventEmitter } from 'node:events'
import { Channel, type ChannelHost } from '../channel/channel.js'
import { Hold } from '../channel/hold.js'
import { type ListenOptions, Server } from '../channel/server.js'
import { VmringError } from '../errors.js'
import type { PeerCounters } from '../native/types.js'
import { rethrowLater } from '../ring/ends.js'
import { listenAlone, takenByOthers } from '../session/claim.js'
import {
  type ConnectOptions,
  checkService,
  type Remote,
  type SessionHub,
  validCapacity,
} from '../session/hub.js'

export interface PeerInfo {
  /** index in the peer table of the region, −1 when it is reached without a region */
  section: number
  /** hexadecimal */
  uuid: string
  incarnation: number
  stalled: boolean
  paths: string[]
  services: string[]
}

/** What lies below a peer: the region it has attached to. */
export interface PeerBackend {
  /** as given to attach(), or found by it */
  readonly address: string
  /** section of this peer, −1 without a region */
  readonly section: number
  counters(): PeerCounters | null
  hold(): void
  drop(): void
  close(): void
}

export interface PeerEvents {
  /** the memory of the region, or the daemon that tells who joins it, is gone */
  lost: [error: Error]
  /** the daemon is there again: new channels use its new region, those that were open go on in the old one */
  rejoined: []
  close: []
}

const MAX_MESSAGE_SIZE = 2 ** 31

/** Made by attach(). One peer is one process (or worker) and one event loop. */
export class Peer extends EventEmitter<PeerEvents> {
  readonly #hub: SessionHub
  readonly #backend: PeerBackend
  readonly #servers = new Set<Server>()
  readonly #host: ChannelHost
  #holds = 0
  readonly #own: Hold
  #closing: Promise<void> | null = null

  constructor(hub: SessionHub, backend: PeerBackend) {
    super()
    this.#hub = hub
    this.#backend = backend
    this.#host = {
      hold: () => this.#hold(),
      drop: () => this.#drop(),
      counters: () => (this.#closing === null ? backend.counters() : null),
    }
    this.#own = new Hold(this.#host)
    this.ref()
  }

  /** Address of the region, as attach() took it. */
  get region(): string {
    return this.#backend.address
  }

  get section(): number {
    return this.#backend.section
  }

  /** Hexadecimal, new at every start. */
  get uuid(): string {
    return Buffer.from(this.#hub.identity.uuid).toString('hex')
  }

  get services(): string[] {
    return this.#hub.services
  }

  /** Counters of the whole peer: doorbells, sleeps, memory of the own section; null without a region. */
  counters(): PeerCounters | null {
    return this.#host.counters()
  }

  /** The other processes that are there now. */
  peers(): PeerInfo[] {
    return [...this.#hub.remotes.values()].map(describe)
  }

  /** Listens under a service name. Rejects with EADDRINUSE when this peer already does, ERR_VMRING_POLICY when the relay forbids it. */
  async listen(service: string, options: ListenOptions = {}): Promise<Server> {
    checkService(service)
    checkSize('maxMessageSize', options.maxMessageSize)
    const server = new Server(this.#hub, this.#host, service, options)
    this.#servers.add(server)
    server.once('close', () => this.#servers.delete(server))
    try {
      await this.#hub.dialer?.listen(service)
    } catch (error) {
      await server.close()
      throw error
    }
    return server
  }

  /**
   * Opens a channel to whoever listens under `service`. Rejects with ECONNREFUSED when nobody does (within `wait` ms),
   * ERR_VMRING_NO_PATH, ERR_VMRING_SECTION_FULL, ERR_VMRING_TIMEOUT, or the reason of the signal.
   */
  async connect(service: string, options: ConnectOptions = {}): Promise<Channel> {
    checkService(service)
    checkSize('maxMessageSize', options.maxMessageSize)
    if (options.ringSize !== undefined && !validCapacity(options.ringSize)) {
      throw new VmringError(
        'ERR_VMRING_ARGUMENT',
        `ringSize ${options.ringSize} is no power of two from 4 KiB to 1 GiB`,
      )
    }
    if (options.wait !== undefined && !(options.wait >= 0)) {
      throw new VmringError('ERR_VMRING_ARGUMENT', `wait ${options.wait} is no number of milliseconds`)
    }
    return new Channel(await this.#hub.connect(service, options), this.#host)
  }

  /** @internal As listen(), for one process of the region alone: EADDRINUSE also when another one has the name. */
  listenAlone(service: string): Promise<Server> {
    checkService(service)
    return listenAlone(this.#hub, service, () => this.listen(service))
  }

  /** @internal Whether this process, or another one that is not silent, is known to listen under that name. */
  taken(service: string): boolean {
    return this.services.includes(service) || takenByOthers(this.#hub, service)
  }

  /** Closes servers, resets channels that are still open, leaves the region. Close channels first to flush them. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    for (const server of [...this.#servers]) await server.close()
    await this.#hub.close()
    this.unref()
    this.#backend.close()
    try {
      this.emit('close')
    } catch (error) {
      rethrowLater(error)
    }
  }

  /** @internal */
  regionLost(error: Error): void {
    try {
      this.emit('lost', error)
    } catch (thrown) {
      rethrowLater(thrown)
    }
  }

  /** @internal */
  rejoined(): void {
    try {
      this.emit('rejoined')
    } catch (thrown) {
      rethrowLater(thrown)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Keeps the event loop alive until close() (the default). Channels and servers do so by themselves. */
  ref(): this {
    if (this.#closing === null) this.#own.take()
    return this
  }

  unref(): this {
    this.#own.release()
    return this
  }

  #hold(): void {
    if (this.#holds++ === 0) this.#backend.hold()
  }

  #drop(): void {
    if (--this.#holds === 0) this.#backend.drop()
  }
}

function describe(remote: Remote): PeerInfo {
  return {
    section: remote.section,
    uuid: Buffer.from(remote.ref.uuid).toString('hex'),
    incarnation: remote.ref.incarnation,
    stalled: remote.stalled,
    paths: remote.pathNames(),
    services: [...remote.services],
  }
}

function checkSize(name: string, value: number | undefined): void {
  if (value === undefined || (Number.isInteger(value) && value >= 0 && value <= MAX_MESSAGE_SIZE)) return
  throw new VmringError(
    'ERR_VMRING_ARGUMENT',
    `${name} ${value} is no whole number of bytes up to ${MAX_MESSAGE_SIZE}`,
  )
}
