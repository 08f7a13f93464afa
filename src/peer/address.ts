/** Region and relay addresses. Regions: 'unix:SOCKET', 'file:PATH', 'pci:0000:00:02.0' (or 'pci:00:02.0'), or null for none. */
import { VmringError } from '../errors.js'
import type { StreamAddress } from '../native/socket-types.js'
import { RELAY_PORT } from '../path/relay-frames.js'

export type RegionAddress =
  | { kind: 'unix'; path: string }
  | { kind: 'file'; path: string }
  | { kind: 'pci'; device: string }
  | { kind: 'none' }

const PCI_DEVICE = /^([0-9a-f]{4}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$/i

/** Throws ERR_VMRING_REGION_ADDRESS. */
export function parseRegion(address: string | null): RegionAddress {
  if (address === null) return { kind: 'none' }
  const colon = typeof address === 'string' ? address.indexOf(':') : -1
  const kind = colon < 0 ? '' : address.slice(0, colon)
  const rest = colon < 0 ? '' : address.slice(colon + 1)
  if (rest !== '' && !rest.includes('\0')) {
    if (kind === 'unix' || kind === 'file') return { kind, path: rest }
    const device = kind === 'pci' ? PCI_DEVICE.exec(rest) : null
    if (device !== null) return { kind: 'pci', device: (device[1] ? rest : `0000:${rest}`).toLowerCase() }
  }
  throw new VmringError(
    'ERR_VMRING_REGION_ADDRESS',
    `${JSON.stringify(address)} is no region address; use 'unix:SOCKET', 'file:PATH', 'pci:0000:00:02.0' or null`,
  )
}

const VSOCK_RELAY = /^vsock:(\d{1,10})(?::(\d{1,10}))?$/
/** VMADDR_CID_ANY and VMADDR_PORT_ANY name nobody. */
const VSOCK_MOST = 0xfffffffe

/** 'unix:PATH', 'vsock:CID:PORT', 'vsock:CID' (the usual port), or 'none': null. Throws ERR_VMRING_RELAY_ADDRESS. */
export function parseRelay(address: string): StreamAddress | null {
  if (address === 'none') return null
  const vsock = typeof address === 'string' ? VSOCK_RELAY.exec(address) : null
  if (vsock !== null) {
    const [cid, port] = [Number(vsock[1]), Number(vsock[2] ?? RELAY_PORT)]
    if (cid <= VSOCK_MOST && port <= VSOCK_MOST) return { cid, port }
  } else if (typeof address === 'string' && /^unix:[^\0]+$/s.test(address)) {
    return { path: address.slice('unix:'.length) }
  }
  throw new VmringError(
    'ERR_VMRING_RELAY_ADDRESS',
    `${JSON.stringify(address)} is no relay address; use 'unix:PATH', 'vsock:CID:PORT' (the host is CID 2), or 'none'`,
  )
}

export function relayText(address: StreamAddress): string {
  return 'path' in address ? `unix:${address.path}` : `vsock:${address.cid}:${address.port}`
}
