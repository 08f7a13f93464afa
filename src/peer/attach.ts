/** attach(): finds the region, joins it, and puts the layers together. */

import { existsSync } from 'node:fs'
import { defaultSocket } from '../default-socket.js'
import { asError, VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import type { StreamAddress } from '../native/socket-types.js'
import type { Geometry, Mode, NativeDevice, NativeRegion } from '../native/types.js'
import { connectIvshmem } from '../path/ivshmem-client.js'
import { RELAY_PORT } from '../path/relay-frames.js'
import { Guard, type Limits } from '../session/limits.js'
import { parseRegion, parseRelay, relayText } from './address.js'
import { findDevice, openDevice } from './device.js'
import type { Peer } from './peer.js'
import { joinRegion, type Seat } from './region.js'
import { attachRelay } from './relay-only.js'

export interface AttachOptions {
  /** 'unix:SOCKET', 'file:PATH', 'pci:0000:00:02.0', or null for none; default: VMRING_REGION, else what is found */
  region?: string | null
  /** how to wait for messages; default 'adaptive' */
  mode?: Mode
  /**
   * relay for peers that share no memory: 'unix:PATH', 'vsock:CID:PORT' or 'none'; default: VMRING_RELAY, else SOCKET.relay
   * beside a daemon's socket, and the host (vsock:2:5790) in a guest
   */
  relay?: string
  /** what one other process may make this one spend; see there */
  limits?: Limits
  /** gives up with the signal's reason */
  signal?: AbortSignal
  /** plain regions only: the section to take instead of the first free one */
  section?: number
  /** plain regions only: take `section` although somebody holds it; he must be gone for good */
  takeOver?: boolean
}

const VMADDR_CID_HOST = 2
const BYTES_PER_SECTION = 1024 * 1024
const MODES: readonly string[] = ['event', 'adaptive', 'busy']

/**
 * Joins a region. Rejects with ERR_VMRING_NO_REGION when none was named and none is there, ERR_VMRING_TOO_MANY_PEERS,
 * ERR_VMRING_REGION_… when the memory is no usable region, ERR_VMRING_SERVER_… when the daemon misbehaves,
 * ERR_VMRING_DEVICE_… and its like when a guest's device cannot be used, or the system's error (ENOENT, EACCES, …).
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
      return attachDevice(region.device, options)
    default: {
      const relay = relayFor(options, guestRelay())
      if (relay !== null) return attachRelay(relay, new Guard(options.limits), options.signal)
      throw new VmringError(
        'ERR_VMRING_NO_REGION',
        "neither region nor relay; name a relay in attach() or VMRING_RELAY: 'unix:PATH' or 'vsock:CID:PORT'",
      )
    }
  }
}

/** The relay that was named; else the one that goes with the region. */
function relayFor({ relay }: AttachOptions, usual: StreamAddress | null): StreamAddress | null {
  const named = relay ?? (process.env.VMRING_RELAY || undefined)
  return named === undefined ? usual : parseRelay(named)
}

/** In a guest with a virtio socket: the host. */
function guestRelay(): StreamAddress | null {
  return existsSync('/dev/vsock') ? { cid: VMADDR_CID_HOST, port: RELAY_PORT } : null
}

async function attachDefault(options: AttachOptions): Promise<Peer> {
  const device = findDevice()
  if (device !== null) return attachDevice(device, options)
  const socket = defaultSocket()
  try {
    return await attachSocket(socket, options)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'ENOENT' && code !== 'ECONNREFUSED' && code !== 'ENOTDIR') throw error
    const attempts = [
      'VMRING_REGION: not set',
      'ivshmem device: none',
      `unix:${socket}: ${asError(error).message}`,
    ]
    const relay = relayFor(options, guestRelay())
    if (relay !== null) {
      try {
        return await attachRelay(relay, new Guard(options.limits), options.signal)
      } catch (failure) {
        options.signal?.throwIfAborted()
        attempts.push(`relay ${relayText(relay)}: ${asError(failure).message}`)
      }
    }
    throw new VmringError(
      'ERR_VMRING_NO_REGION',
      `no region found (${attempts.join('; ')}); start \`vmring host\` (with --relay-vsock for guests without the device), or name a region in attach() or VMRING_REGION`,
      { cause: error, attempts },
    )
  }
}

async function attachSocket(path: string, options: AttachOptions): Promise<Peer> {
  const address = `unix:${path}`
  const again = () => connectSeat(path)
  const guard = new Guard(options.limits)
  const relay = relayFor(options, { path: `${path}.relay` })
  return joinRegion(address, await connectSeat(path, options.signal), {
    mode: options.mode,
    again,
    guard,
    relay,
  })
}

async function connectSeat(path: string, signal?: AbortSignal): Promise<Seat> {
  const connection = await connectIvshmem(path, signal ? { signal } : {})
  // @step attach: the daemon has said everything
  let region: NativeRegion | null = null
  try {
    region = native.Region.fromFd(connection.takeMemory())
    // @step attach: the memory is mapped
    const geometry = region.geometry()
    const { peerId } = connection
    const section = findEntry(region, geometry, peerId)
    if (section < 0) throw tooManyPeers(`unix:${path}`, geometry)
    return { region, section, peerId, connection }
  } catch (error) {
    region?.close()
    connection.close()
    throw error
  }
}

function attachFile(path: string, options: AttachOptions): Peer {
  const region = native.Region.open(path)
  try {
    return attachPlain(`file:${path}`, region, null, options)
  } catch (error) {
    region.close()
    throw error
  }
}

function attachDevice(address: string, options: AttachOptions): Peer {
  const relay = relayFor(options, guestRelay())
  const guard = new Guard(options.limits)
  const device = openDevice(address)
  const { region, kind } = device
  const name = `pci:${address}`
  try {
    if (region.blank || region.geometry().plain) return attachPlain(name, region, device, options)
    const again = async () => {
      const back = openDevice(address)
      if (back.kind === kind) return deviceSeat(name, back)
      back.close()
      throw new VmringError('ERR_VMRING_DEVICE_DRIVER', `${name} is back, but without its driver`)
    }
    return joinRegion(name, deviceSeat(name, device), { mode: options.mode, again, guard, relay })
  } catch (error) {
    region.close()
    device.close()
    throw error
  }
}

/** In a daemon's region the section is that of the device's peer id. Closes the device when there is none. */
function deviceSeat(name: string, device: NativeDevice): Seat {
  const { region, position } = device
  try {
    const section = findEntry(region, region.geometry(), position)
    if (section < 0) throw tooManyPeers(name, region.geometry())
    return { region, section, peerId: position, device }
  } catch (error) {
    region.close()
    device.close()
    throw error
  }
}

/** No daemon: formats blank memory and claims an entry. */
function attachPlain(
  address: string,
  region: NativeRegion,
  device: NativeDevice | null,
  options: AttachOptions,
): Peer {
  if (region.blank) region.formatTogether(plainSections(region.size))
  const geometry = region.geometry()
  const section = region.claimEntry(options.section ?? -1, options.takeOver ?? false)
  if (section < 0) throw tooManyPeers(address, geometry)
  try {
    const peerId = device?.interrupts ? device.position : (region.readEntry(section)?.peerId ?? section)
    const relay = relayFor(options, device === null ? null : guestRelay())
    return joinRegion(
      address,
      { region, section, peerId, ...(device && { device }) },
      { mode: options.mode, guard: new Guard(options.limits), relay },
    )
  } catch (error) {
    region.releaseEntry(section)
    throw error
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
