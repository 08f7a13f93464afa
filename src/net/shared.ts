/**
 * The peer that the sockets and servers of this process share. Nothing happens before the first of them needs it. It keeps no
 * process alive by itself and is closed when the last of them has gone.
 */
import type { Channel } from '../channel/channel.js'
import type { Server as ChannelServer } from '../channel/server.js'
import { VmringError } from '../errors.js'
import { type AttachOptions, attach } from '../peer/attach.js'
import type { Peer } from '../peer/peer.js'
import type { ConnectOptions } from '../session/hub.js'

/** ms that an unused peer stays: programs that open one connection after the other should not attach for each */
const LINGER_MS = 1000
/** ms that it may take the second seat to hear of the first */
const MIRROR_WAIT_MS = 1000

export interface ConnectChannel {
  signal: AbortSignal
  /** ms to wait until somebody listens */
  wait?: number | undefined
  /** bytes of the ring in each direction, a power of two */
  ringSize?: number | undefined
}

/** Lends a peer to whoever needs one, and takes it back. */
export class SharedPeer {
  readonly #options: AttachOptions
  /** given by the program: it is the one to close it */
  readonly #given: Peer | null
  #peer: Peer | null = null
  #attaching: Promise<Peer> | null = null
  #users = 0
  /** connects under way: they keep the process alive, as those of node:net do */
  #waiting = 0
  #linger: NodeJS.Timeout | null = null
  /** a process that connects to itself does so from a second seat: channels lead to other peers */
  #mirror: SharedPeer | null = null
  /** services that this process is about to listen under: who connects without waiting for 'listening' means them */
  readonly #opening = new Set<string>()

  constructor(given: Peer | null, options: AttachOptions = {}) {
    this.#given = given
    this.#options = options
  }

  /** The peer if it is there already: what uses it needs no wait then. */
  get ready(): Peer | null {
    return this.#given ?? this.#peer
  }

  /** Each call is paid back by one drop(). */
  take(): void {
    this.#users++
    if (this.#linger !== null) clearTimeout(this.#linger)
    this.#linger = null
  }

  drop(): void {
    if (--this.#users > 0 || this.#given !== null) return
    this.#linger = setTimeout(() => this.#close(), LINGER_MS).unref()
  }

  #close(): void {
    this.#linger = null
    const peer = this.#peer
    this.#peer = null
    void peer?.close()
  }

  /** Rejects as attach() does. */
  get(): Promise<Peer> {
    const { ready } = this
    if (ready !== null) return Promise.resolve(ready)
    this.#attaching ??= this.#attach().finally(() => {
      this.#attaching = null
    })
    return this.#attaching
  }

  async #attach(): Promise<Peer> {
    const peer = await attach(this.#options)
    peer.unref()
    peer.once('close', () => {
      if (this.#peer === peer) this.#peer = null
    })
    this.#peer = peer
    return peer
  }

  /** As Peer.connect(), but also to services of this process. */
  async connect(service: string, { signal, wait, ringSize }: ConnectChannel): Promise<Channel> {
    // each gets a small share of what is left of the section, so that hundreds fit
    const options: ConnectOptions = {
      signal,
      many: true,
      ...(wait !== undefined && { wait }),
      ...(ringSize !== undefined && { ringSize }),
    }
    const peer = await this.get()
    signal.throwIfAborted()
    if (!peer.services.includes(service) && !this.#opening.has(service)) {
      return this.#connect(peer, service, options)
    }
    this.#mirror ??= new SharedPeer(null, { ...this.#options, region: peer.region })
    const mirror = this.#mirror
    mirror.take()
    try {
      const channel = await mirror.#connect(await mirror.get(), service, {
        ...options,
        wait: wait ?? MIRROR_WAIT_MS,
      })
      mirror.take()
      channel.once('close', () => mirror.drop())
      return channel
    } finally {
      mirror.drop()
    }
  }

  async #connect(peer: Peer, service: string, options: ConnectOptions): Promise<Channel> {
    const own = this.#given === null
    if (own && this.#waiting++ === 0) peer.ref()
    try {
      return await peer.connect(service, options)
    } finally {
      // the channel, if there is one, holds the loop by now
      if (own && --this.#waiting === 0) peer.unref()
    }
  }

  /** As Peer.listen(); EADDRINUSE also when another process of the region listens there, or was first of those that began at the same moment. */
  async listen(service: string): Promise<ChannelServer> {
    this.#opening.add(service)
    try {
      const peer = await this.get()
      return await peer.listenAlone(service)
    } finally {
      this.#opening.delete(service)
    }
  }

  /** Whether somebody in this region is known to listen there. */
  taken(service: string): boolean {
    return this.ready?.taken(service) ?? false
  }
}

let shared: SharedPeer | null = null

/** The peer of sockets and servers that are not given one of their own. */
export function sharedPeer(): SharedPeer {
  shared ??= new SharedPeer(null)
  return shared
}

/**
 * Has all later sockets and servers of this process use that peer, which stays the caller's to close; null: attach() by the usual
 * rules again. Options instead of a peer: how to attach when it is needed.
 */
export function usePeer(peer: Peer | AttachOptions | null): void {
  shared = peer === null ? null : lender(peer)
}

const lenders = new WeakMap<object, SharedPeer>()

export function lender(peer: Peer | AttachOptions): SharedPeer {
  if (typeof peer !== 'object' || peer === null)
    throw new VmringError('ERR_VMRING_ARGUMENT', `a peer comes from attach(); got ${typeof peer}`)
  let known = lenders.get(peer)
  if (known === undefined) {
    known = 'connect' in peer ? new SharedPeer(peer) : new SharedPeer(null, peer)
    lenders.set(peer, known)
  }
  return known
}
