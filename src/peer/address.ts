/** Region addresses: 'unix:SOCKET', 'file:PATH', 'pci:0000:00:02.0' (or 'pci:00:02.0'), or null for none. */
import { VmringError } from '../errors.js'

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
