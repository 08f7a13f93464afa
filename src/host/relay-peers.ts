import type { PeerName } from '../path/relay-frames.js'
import type { Connection } from './relay-connection.js'
import { BINDING_MS, MAX_ORIGIN_SERVICES, MAX_REMEMBERED } from './relay-limits.js'
import type { Origin } from './relay-origin.js'
import type { Splice } from './splice.js'

/** Two peers that are joined. */
export interface Link {
  readonly caller: RelayPeer
  readonly target: RelayPeer
  readonly splice: Splice
}

/** A process (one start of it) that says HELLO, or still has a splice. */
export class RelayPeer {
  readonly name: PeerName
  readonly uuid: string
  readonly key: string
  readonly origin: Origin
  /** the control connection; null: it has gone, splices are left */
  control: Connection | null = null
  since = Date.now()
  readonly services = new Set<string>()
  /** what it has listened under since its HELLO: running channels may outlive their service */
  readonly known = new Set<string>()
  readonly links = new Set<Link>()
  /** of splices that are over */
  sent = 0
  received = 0

  constructor(name: PeerName, origin: Origin) {
    this.name = name
    this.uuid = hex(name.uuid)
    this.key = keyOf(name)
    this.origin = origin
  }
}

interface Binding {
  readonly origin: Origin
  holders: number
  /** when nobody holds it: the moment from which another origin may have it */
  until: number
  /** it has been told to leave shared memory */
  revoked: boolean
}

/**
 * Who is who. A UUID belongs to the origin that said HELLO with it first, as long as one of its processes is here and a while
 * longer, so that nobody steps into the gap between two connections of another.
 */
export class PeerBook {
  readonly #peers = new Map<string, RelayPeer>()
  readonly #bindings = new Map<string, Binding>()
  /** peers by service, the one whose turn it is first */
  readonly #listeners = new Map<string, RelayPeer[]>()

  get all(): Iterable<RelayPeer> {
    return this.#peers.values()
  }

  find(name: PeerName): RelayPeer | undefined {
    return this.#peers.get(keyOf(name))
  }

  /**
   * The process that is meant, if it can be called: an incarnation is of one membership in one region, so those who have met it in
   * another region know it under another.
   */
  callable(name: PeerName): RelayPeer | undefined {
    const known = this.find(name)
    return known?.control ? known : this.withUuid(hex(name.uuid)).find(({ control }) => control !== null)
  }

  /** It has been here, or a process of the same UUID has, not long ago. */
  met({ uuid }: PeerName): boolean {
    return this.#bindings.has(hex(uuid))
  }

  withUuid(uuid: string): RelayPeer[] {
    return [...this.#peers.values()].filter((peer) => peer.uuid === uuid)
  }

  /** Null: the UUID is another origin's. */
  bind(name: PeerName, origin: Origin): RelayPeer | null {
    const uuid = hex(name.uuid)
    let binding = this.#bindings.get(uuid)
    if (binding !== undefined && binding.origin !== origin) {
      if (binding.holders > 0 || binding.until > Date.now()) return null
      binding = undefined
    }
    const known = this.#peers.get(keyOf(name))
    if (known !== undefined) return known
    if (binding === undefined) {
      this.#makeRoom()
      binding = { origin, holders: 0, until: 0, revoked: false }
    }
    // the latest stands last: room is made at the front
    this.#bindings.delete(uuid)
    this.#bindings.set(uuid, binding)
    binding.holders++
    const peer = new RelayPeer(name, origin)
    this.#peers.set(peer.key, peer)
    return peer
  }

  /** Forgets the peer when nothing of it is left. */
  release(peer: RelayPeer): void {
    if (peer.control !== null || peer.links.size > 0 || !this.#peers.delete(peer.key)) return
    const binding = this.#bindings.get(peer.uuid)!
    if (--binding.holders === 0) binding.until = Date.now() + BINDING_MS
  }

  revoked(uuid: string): boolean {
    return this.#bindings.get(uuid)?.revoked ?? false
  }

  setRevoked(uuid: string, revoked: boolean): void {
    const binding = this.#bindings.get(uuid)
    if (binding !== undefined) binding.revoked = revoked
  }

  listen(peer: RelayPeer, service: string): void {
    if (peer.services.has(service)) return
    peer.services.add(service)
    if (peer.known.size >= MAX_ORIGIN_SERVICES)
      for (const old of peer.known)
        if (!peer.services.has(old)) {
          peer.known.delete(old)
          break
        }
    peer.known.add(service)
    peer.origin.services++
    const others = this.#listeners.get(service)
    if (others) others.push(peer)
    else this.#listeners.set(service, [peer])
  }

  unlisten(peer: RelayPeer, service: string): void {
    if (!peer.services.delete(service)) return
    peer.origin.services--
    const others = this.#listeners.get(service)!
    others.splice(others.indexOf(peer), 1)
    if (others.length === 0) this.#listeners.delete(service)
  }

  /** Everybody who listens there, in the order of their turns. */
  listeners(service: string): readonly RelayPeer[] {
    return this.#listeners.get(service) ?? []
  }

  /** It has had its turn. */
  toEnd(service: string, peer: RelayPeer): void {
    const all = this.#listeners.get(service)!
    all.push(...all.splice(all.indexOf(peer), 1))
  }

  #makeRoom(): void {
    if (this.#bindings.size < MAX_REMEMBERED) return
    const now = Date.now()
    let oldest: string | undefined
    for (const [uuid, { holders, until }] of this.#bindings) {
      if (holders > 0) continue
      if (until <= now) this.#bindings.delete(uuid)
      else oldest ??= uuid
    }
    if (this.#bindings.size >= MAX_REMEMBERED && oldest !== undefined) this.#bindings.delete(oldest)
  }
}

export function keyOf({ uuid, incarnation }: PeerName): string {
  return `${hex(uuid)}:${incarnation}`
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')
}
