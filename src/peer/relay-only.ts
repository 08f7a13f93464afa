/** A peer without a region: the relay leads to everybody. */
import { randomBytes } from 'node:crypto'
import type { StreamAddress } from '../native/socket-types.js'
import { abortable } from '../session/dialer.js'
import { SessionHub } from '../session/hub.js'
import type { Guard } from '../session/limits.js'
import { relayText } from './address.js'
import { Peer, type PeerBackend } from './peer.js'
import { RelayClient } from './relay.js'

const LONG_MS = 2 ** 30

/** Rejects with what the relay, or the way to it, says. */
export async function attachRelay(address: StreamAddress, guard: Guard, signal?: AbortSignal): Promise<Peer> {
  const backend = new RelayBackend(address, guard)
  try {
    await abortable(backend.relay.ready(), signal)
    return backend.peer
  } catch (error) {
    await backend.peer.close()
    throw error
  }
}

class RelayBackend implements PeerBackend {
  readonly address: string
  readonly section = -1
  readonly peer: Peer
  readonly relay: RelayClient
  #alive: NodeJS.Timeout | null = null

  constructor(address: StreamAddress, guard: Guard) {
    this.address = relayText(address)
    const identity = {
      uuid: new Uint8Array(randomBytes(16)),
      incarnation: randomBytes(4).readUInt32LE() || 1,
    }
    const hub = new SessionHub(identity, {}, guard)
    this.relay = new RelayClient(address, hub)
    hub.dialer = this.relay
    this.peer = new Peer(hub, this)
  }

  counters(): null {
    return null
  }

  hold(): void {
    this.#alive ??= setInterval(() => {}, LONG_MS)
  }

  drop(): void {
    if (this.#alive !== null) clearInterval(this.#alive)
    this.#alive = null
  }

  close(): void {
    this.relay.close()
  }
}
