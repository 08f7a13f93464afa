/** vmring's own channel, forced on shared memory. */
import { attach, type Channel, type Peer } from '../../index.js'
import type { Mode } from '../../native/types.js'
import type { Checker } from './content.js'
import type { Job } from './job.js'
import { type Acceptor, type Link, Queue, type Site, type Transport } from './link.js'

const CONNECT_MS = 30_000

export class ShmLink implements Link {
  readonly channel: Channel
  readonly #iterate: boolean
  /** goes into one record */
  readonly #once: boolean
  onDrain = (): void => {}

  constructor(channel: Channel, { size, api }: Job) {
    this.channel = channel
    this.#iterate = api === 'iterate'
    this.#once = size <= channel.inlineLimit
    channel.on('drain', () => this.onDrain())
    channel.on('error', () => {})
  }

  send(bytes: Uint8Array): number {
    if (this.#once) return this.channel.trySend(bytes) ? 1 : -1
    this.channel.send(bytes).then(
      () => this.onDrain(),
      () => {},
    )
    return 0
  }

  reserve(size: number) {
    return this.channel.reserve(size)
  }

  pool(): number {
    return 1
  }

  receive(checker: Checker): void {
    if (this.#iterate) void this.#loop(checker).catch(() => {})
    else this.channel.on('message', (message) => checker.whole(message.view))
  }

  async #loop(checker: Checker): Promise<void> {
    for await (const message of this.channel) checker.whole(message.view)
  }

  close(): Promise<void> {
    return this.channel.close()
  }
}

/** The one peer of a side, made when it is needed. */
export class PeerSource {
  readonly #region: string | undefined
  readonly #mode: Mode
  #promise: Promise<Peer> | null = null
  peer: Peer | null = null

  constructor(region: string | undefined, mode: Mode) {
    this.#region = region
    this.#mode = mode
  }

  get(): Promise<Peer> {
    const options = { ...(this.#region !== undefined && { region: this.#region }), mode: this.#mode }
    this.#promise ??= attach(options).then((peer) => {
      this.peer = peer
      return peer
    })
    return this.#promise
  }

  async close(): Promise<void> {
    await (await this.#promise)?.close()
  }
}

export function shm(source: PeerSource): Transport {
  return {
    async listen({ job, prefix }: Site): Promise<Acceptor> {
      const links = new Queue<Link>()
      const server = await (await source.get()).listen(`${prefix}data`, { backlog: 1024 })
      server.on('channel', (channel: Channel) => links.push(new ShmLink(channel, job)))
      return { address: `${prefix}data`, accept: () => links.next(), close: () => server.close() }
    },
    async connect({ job }: Site, address: string): Promise<Link> {
      const peer = await source.get()
      const options = { wait: CONNECT_MS, ringSize: job.ring, paths: ['shm'] }
      return new ShmLink(await peer.connect(address, options), job)
    },
  }
}
