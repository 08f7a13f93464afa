/** attach(): finds the region, joins it, and puts the layers together. */
import { randomBytes } from 'node:crypto'
import { closeSync, openSync, readSync } from 'node:fs'
import { asError, VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import type { Geometry, Mode, NativeRegion } from '../native/types.js'
import { connectIvshmem, type IvshmemConnection } from '../path/ivshmem-client.js'
import { ShmNetwork } from '../path/shm.js'
import { SessionHub } from '../session/hub.js'
import { parseRegion } from './address.js'
import { Peer, type PeerBackend } from './peer.js'
import { Reporter } from './reporter.js'

export interface AttachOptions {
  /** 'unix:SOCKET', 'file:PATH', 'pci:0000:00:02.0', or null for none; default: VMRING_REGION, else what is found */
  region?: string | null
  /** how to wait for messages; default 'adaptive' */
  mode?: Mode
  /** relay for peers that share no memory: 'unix:PATH' or 'vsock:CID:PORT' */
  relay?: string
  /** gives up with the signal's reason */
  signal?: AbortSignal
  /** plain regions only: the section to take instead of the first free one */
  section?: number
  /** plain regions only: take `section` although somebody holds it; he must be gone for good */
  takeOver?: boolean
}

export const DEFAULT_SOCKET = '/run/vmring/default.sock'
const HEADER_PROBE_BYTES = 4096
const BYTES_PER_SECTION = 1024 * 1024
const MODES: readonly string[] = ['event', 'adaptive', 'busy']

/**
 * Joins a region. Rejects with ERR_VMRING_NO_REGION when none was named and none is there, ERR_VMRING_TOO_MANY_PEERS,
 * ERR_VMRING_REGION_… when the memory is no usable region, ERR_VMRING_SERVER_… when the daemon misbehaves, or the
 * system's error (ENOENT, EACCES, …).
 */
export async function attach(options: AttachOptions = {}): Promise<Peer> {
  options.signal?.throwIfAborted()
  if (options.mode !== undefined && !MODES.includes(options.mode)) {
    throw new VmringError('ERR_VMRING_ARGUMENT', `mode '${options.mode}' is none of ${MODES.join(', ')}`)
  }
  const named = options.region === undefined ? process.env.VMRING_REGION || undefined : options.region
  if (named === undefined) return attachDefault(options)
  return attachTo(named, options)
}

async function attachTo(address: string | null, options: AttachOptions): Promise<Peer> {
  const region = parseRegion(address)
  switch (region.kind) {
    case 'unix':
      return attachSocket(region.path, options)
    case 'file':
      return attachFile(region.path, options)
    case 'pci':
      throw new VmringError(
        'ERR_VMRING_NOT_SUPPORTED',
        `${address}: this version cannot open PCI devices; name a 'unix:' or 'file:' region`,
      )
    default:
      throw new VmringError(
        'ERR_VMRING_NOT_SUPPORTED',
        "region null: this version has no relay; name a 'unix:' or 'file:' region",
      )
  }
}

async function attachDefault(options: AttachOptions): Promise<Peer> {
  const socket = process.env.VMRING_SOCKET || DEFAULT_SOCKET
  try {
    return await attachSocket(socket, options)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'ENOENT' && code !== 'ECONNREFUSED' && code !== 'ENOTDIR') throw error
    const attempts = ['VMRING_REGION: not set', `unix:${socket}: ${asError(error).message}`]
    throw new VmringError(
      'ERR_VMRING_NO_REGION',
      `no region found (${attempts.join('; ')}); start \`vmring host\`, or name a region in attach() or VMRING_REGION`,
      { cause: error, attempts },
    )
  }
}

async function attachSocket(path: string, options: AttachOptions): Promise<Peer> {
  const connection = await connectIvshmem(path, options.signal ? { signal: options.signal } : {})
  let region: NativeRegion | null = null
  try {
    region = native.Region.fromFd(connection.takeMemory())
    const geometry = region.geometry()
    const { peerId } = connection
    const section = findEntry(region, geometry, peerId)
    if (section < 0) throw tooManyPeers(`unix:${path}`, geometry)
    return build(`unix:${path}`, region, section, peerId, connection, options)
  } catch (error) {
    region?.close()
    connection.close()
    throw error
  }
}

function attachFile(path: string, options: AttachOptions): Peer {
  let region: NativeRegion | null = null
  try {
    const blank = isBlank(path)
    region = native.Region.open(path)
    if (blank) region.format({ sections: plainSections(region.size), daemonIncarnation: 0 })
    const geometry = region.geometry()
    const section = region.claimEntry(options.section ?? -1, options.takeOver ?? false)
    if (section < 0) throw tooManyPeers(`file:${path}`, geometry)
    try {
      return build(
        `file:${path}`,
        region,
        section,
        region.readEntry(section)?.peerId ?? section,
        null,
        options,
      )
    } catch (error) {
      region.releaseEntry(section)
      throw error
    }
  } catch (error) {
    region?.close()
    throw error
  }
}

/** True for a file that nobody has formatted: zeros where the header would be. */
function isBlank(path: string): boolean {
  const fd = openSync(path, 'r')
  try {
    const head = Buffer.alloc(HEADER_PROBE_BYTES)
    return readSync(fd, head, 0, head.length, 0) === head.length && head.every((byte) => byte === 0)
  } finally {
    closeSync(fd)
  }
}

function plainSections(size: number): number {
  return Math.max(2, Math.min(16, Math.floor(size / BYTES_PER_SECTION)))
}

function findEntry(region: NativeRegion, geometry: Geometry, peerId: number): number {
  for (let section = 0; section < geometry.sections; section++) {
    const entry = region.readEntry(section)
    if (entry !== null && entry.state !== 0 && entry.peerId === peerId) return section
  }
  return -1
}

function tooManyPeers(address: string, { sections }: Geometry): VmringError {
  return new VmringError(
    'ERR_VMRING_TOO_MANY_PEERS',
    `all ${sections} sections of ${address} are taken; give the region more sections, or end a peer`,
  )
}

function build(
  address: string,
  region: NativeRegion,
  section: number,
  peerId: number,
  connection: IvshmemConnection | null,
  options: AttachOptions,
): Peer {
  const uuid = randomBytes(16)
  let hub: SessionHub | null = null
  const network = new ShmNetwork(
    region,
    {
      section,
      peerId,
      uuid,
      mode: options.mode ?? 'adaptive',
      doorbell: connection?.takeVector(0) ?? -1,
      vector: 0,
    },
    {
      onPath: (path) => hub?.addPath(path),
      onGone: (remote) => hub?.peerGone(remote),
      onLost: (error) => peer.regionLost(error),
    },
  )
  hub = new SessionHub({ uuid, incarnation: network.peer.incarnation })
  const backend = new RegionBackend(address, region, section, network, connection)
  const peer = new Peer(hub, backend)
  if (connection !== null) {
    const reporter = new Reporter(address.slice('unix:'.length), section, uuid, () => hub.report())
    hub.onReport = () => reporter.changed()
    peer.once('close', () => reporter.close())
  }
  connection?.start({
    onJoin: (id, vector, fd) => {
      network.peer.setDoorbell(id, vector, fd)
      native.closeFd(fd)
    },
    onLeave: (id) => network.peer.clearDoorbell(id),
    onLost: (error) => peer.regionLost(error),
  })
  network.start()
  return peer
}

class RegionBackend implements PeerBackend {
  readonly address: string
  readonly section: number
  readonly #region: NativeRegion
  readonly #network: ShmNetwork
  readonly #connection: IvshmemConnection | null

  constructor(
    address: string,
    region: NativeRegion,
    section: number,
    network: ShmNetwork,
    connection: IvshmemConnection | null,
  ) {
    this.address = address
    this.section = section
    this.#region = region
    this.#network = network
    this.#connection = connection
    // The peer's own handle decides whether the loop goes on.
    connection?.unref()
  }

  counters(): ReturnType<PeerBackend['counters']> {
    return this.#network.peer.counters()
  }

  hold(): void {
    this.#network.peer.ref()
  }

  drop(): void {
    this.#network.peer.unref()
  }

  close(): void {
    this.#network.peer.close()
    // memory that is gone has nothing to give back
    if (this.#connection === null && !this.#region.lost) this.#region.releaseEntry(this.section)
    this.#connection?.close()
    this.#region.close()
  }
}
