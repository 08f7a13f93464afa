/**
 * A peer's membership in its region: the layers put together, and what happens when the region goes.
 *
 * A daemon that is started again has a new region, and a device that was unplugged can come back. This process then joins
 * that too: new channels use it. Those that were open go on in the region of a former daemon, whose memory and eventfds
 * need none; it is left when nothing in it is used.
 */
import { randomBytes } from 'node:crypto'
import { VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import type { StreamAddress } from '../native/socket-types.js'
import type { Mode, NativeDevice, NativeRegion } from '../native/types.js'
import type { IvshmemConnection } from '../path/ivshmem-client.js'
import { peerKey } from '../path/path.js'
import { ShmNetwork, type ShmPath } from '../path/shm.js'
import { SessionHub } from '../session/hub.js'
import type { Guard } from '../session/limits.js'
import type { PeerReport } from '../session/report.js'
import { Bells } from './bells.js'
import { watchSysfs } from './device.js'
import { Peer, type PeerBackend } from './peer.js'
import { RelayClient } from './relay.js'
import { Reporter } from './reporter.js'

/** A section of a region that is ours. Without connection and device there are no interrupts. */
export interface Seat {
  region: NativeRegion
  section: number
  peerId: number
  connection?: IvshmemConnection
  device?: NativeDevice
}

const REJOIN_MS = 250
const LOOK_MS = 1000

export interface JoinOptions {
  mode?: Mode | undefined
  /** takes a seat anew when the daemon or the device has gone; rejects while there is none */
  again?: () => Promise<Seat>
  guard: Guard
  /** what carries channels when the memory does not */
  relay: StreamAddress | null
}

export function joinRegion(address: string, seat: Seat, options: JoinOptions): Peer {
  return new RegionBackend(address, seat, options).peer
}

interface Membership {
  seat: Seat
  network: ShmNetwork
  reporter: Reporter | null
  bells: Bells | null
  /** entries of plain regions are ours to give back */
  claimed: boolean
  /** at the last look */
  unused: boolean
}

class RegionBackend implements PeerBackend {
  readonly address: string
  readonly peer: Peer
  readonly #uuid = randomBytes(16)
  readonly #hub: SessionHub
  readonly #mode: Mode
  readonly #again: (() => Promise<Seat>) | null
  readonly #relay: RelayClient | null
  /** the current one is the last */
  readonly #members: Membership[] = []
  #timer: NodeJS.Timeout | null = null
  #looking: NodeJS.Timeout | null = null
  #unwatch: (() => void) | null = null
  #held = true
  #closed = false

  constructor(address: string, seat: Seat, { mode = 'adaptive', again, guard, relay }: JoinOptions) {
    this.address = address
    this.#mode = mode
    this.#again = again ?? null
    const network = this.#enter(seat)
    this.#hub = new SessionHub({ uuid: this.#uuid, incarnation: network.peer.incarnation }, {}, guard)
    this.peer = new Peer(this.#hub, this)
    this.#hub.onReport = () => this.#current.reporter?.changed()
    this.#hub.onPaths = (remote) => this.#current.bells?.changed(remote)
    this.#hub.onBells = (path, flags) => this.#current.bells?.heard(path, flags)
    this.#relay = relay && new RelayClient(relay, this.#hub)
    this.#hub.dialer = this.#relay
    this.#start()
  }

  get #current(): Membership {
    return this.#members.at(-1)!
  }

  get section(): number {
    return this.#current.seat.section
  }

  /** Becomes a member, which nobody hears of before #start(). */
  #enter(seat: Seat): ShmNetwork {
    const { region, section, peerId, connection, device } = seat
    const network = new ShmNetwork(
      region,
      {
        section,
        peerId,
        uuid: this.#uuid,
        mode: this.#mode,
        doorbell: connection?.takeVector(0) ?? device?.vector(0) ?? -1,
        vector: 0,
        ...(device && { device }),
      },
      {
        onPath: (path) => this.#hub?.addPath(path),
        onLost: (error) => {
          this.peer?.regionLost(error)
          if (device !== undefined) this.#rejoinLater()
        },
      },
    )
    // The peer's own handle decides whether the loop goes on.
    connection?.unref()
    this.#members.push({
      seat,
      network,
      reporter: null,
      bells: null,
      claimed: region.geometry().plain,
      unused: false,
    })
    // @step attach: in the section
    return network
  }

  #start(): void {
    const member = this.#current
    const { seat, network } = member
    const { connection, device, section } = seat
    if (connection !== undefined) {
      const socket = this.address.slice('unix:'.length)
      member.reporter = new Reporter(socket, section, this.#uuid, () => this.#report(network))
    }
    connection?.start({
      onJoin: (id, vector, fd) => {
        network.peer.setDoorbell(id, vector, fd)
        native.closeFd(fd)
      },
      onLeave: (id) => network.peer.clearDoorbell(id),
      onLost: (error) => {
        this.peer.regionLost(error)
        this.#rejoinLater()
      },
    })
    if (device?.kind === 'vfio') device.onRequest = () => this.#unplug(member, device)
    // closed memory counts as lost, and the watchdog of the addon says so
    if (device?.kind === 'sysfs') this.#unwatch = watchSysfs(device, () => seat.region.close())
    const deaf = connection === undefined && (device?.interrupts !== true || device.silent)
    member.bells = new Bells(this.#hub, network, deaf)
    network.start()
    // @step attach: has looked around
  }

  #report({ peer }: ShmNetwork): PeerReport {
    const report = this.#hub.report()
    return { ...report, limits: { ...report.limits, muted: peer.counters().muted } }
  }

  // ---- the daemon goes and comes

  #rejoinLater(): void {
    if (this.#closed || this.#again === null) return
    this.#timer ??= setTimeout(() => {
      this.#timer = null
      void this.#rejoin(this.#again!)
    }, REJOIN_MS).unref()
  }

  async #rejoin(again: () => Promise<Seat>): Promise<void> {
    let seat: Seat
    try {
      seat = await again()
    } catch {
      this.#rejoinLater() // nobody there yet, or no seat free: both can change
      return
    }
    if (this.#closed) {
      leave(seat)
      return
    }
    const before = this.#current
    try {
      this.#enter(seat)
    } catch {
      leave(seat)
      this.#rejoinLater()
      return
    }
    // @step rejoin: in the new section
    before.reporter?.close()
    before.bells?.close()
    before.network.peer.unref()
    if (!this.#held) this.#current.network.peer.unref()
    this.#start()
    // @step rejoin: joined
    this.#current.reporter?.changed()
    this.#looking ??= setInterval(() => this.#look(), LOOK_MS).unref()
    this.peer.rejoined()
  }

  // ---- a former region

  #elsewhere(path: ShmPath): boolean {
    return (this.#hub.remotes.get(peerKey(path.remote.uuid))?.livePath(path) ?? null) !== null
  }

  /**
   * Leaves former regions without channels and leases, and without anybody who is reached there alone: a guest learns of
   * a new daemon only when its device is plugged in anew. The silent do not count, since without a daemon nobody would
   * say that they are dead. Twice unused, so that the others have had a second to see where we are now.
   */
  #look(): void {
    const current = this.#current
    for (const member of this.#members.filter((one) => one !== current)) {
      const { network } = member
      const unused =
        network.ends === 0 && network.paths.every((path) => path.stalled || this.#elsewhere(path))
      if (unused && member.unused) this.#forget(member)
      else member.unused = unused
    }
    if (this.#members.length > 1 || this.#looking === null) return
    clearInterval(this.#looking)
    this.#looking = null
  }

  #forget(member: Membership): void {
    const { network, seat } = member
    this.#members.splice(this.#members.indexOf(member), 1)
    const { paths } = network
    network.peer.close()
    // @step rejoin: has left the former region
    for (const path of paths) path.leave()
    leave(seat, network.lent)
  }

  // ---- the device goes: first whoever writes here stops, then what has come and gone out is copied, then it is let go of

  #unplug(member: Membership, device: NativeDevice): void {
    const error = new VmringError(
      'ERR_VMRING_REGION_LOST',
      `${this.address} is being unplugged; attach again when it is back`,
    )
    member.network.peer.detach()
    release(member)
    member.network.lose(error, device.detach(member.network.inUse()))
  }

  // ---- for Peer

  counters(): ReturnType<PeerBackend['counters']> {
    return this.#current.network.peer.counters()
  }

  hold(): void {
    this.#held = true
    this.#current.network.peer.ref()
  }

  drop(): void {
    this.#held = false
    this.#current.network.peer.unref()
  }

  close(): void {
    this.#closed = true
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#relay?.close()
    if (this.#looking !== null) clearInterval(this.#looking)
    this.#unwatch?.()
    for (const member of this.#members) {
      member.reporter?.close()
      member.bells?.close()
      member.network.peer.close()
      release(member)
      // @step detach: has said that it leaves
      leave(member.seat)
      // @step detach: gone
    }
  }
}

/** `lent`: the application has views of the memory; it goes when they are collected. */
function leave({ connection, region, device }: Seat, lent = false): void {
  connection?.close()
  if (!lent) region.close()
  device?.close()
}

function release(member: Membership): void {
  const { region, section } = member.seat
  // memory that is gone has nothing to give back
  if (member.claimed && !region.lost) region.releaseEntry(section)
  member.claimed = false
}
