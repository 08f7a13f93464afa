/** The ivshmem devices of a guest as sysfs shows them, without the addon. Every root can be another folder, for tests. */
import { existsSync, readdirSync, readFileSync, readlinkSync, realpathSync } from 'node:fs'
import { basename, join } from 'node:path'
import { VmringError } from '../errors.js'
import { parseRegion } from '../peer/address.js'
import { bytes } from './output.js'

export interface Roots {
  sys: string
  dev: string
  proc: string
  modules: string
}

export const SYSTEM: Roots = { sys: '/sys', dev: '/dev', proc: '/proc', modules: '/lib/modules' }

const IVSHMEM = '0x1af4:0x1110'

export interface SysfsDevice {
  /** 0000:00:02.0 */
  address: string
  /** the device's folder in sysfs */
  folder: string
  /** '' for none */
  driver: string
  override: string
  /** ivshmem-doorbell; false: ivshmem-plain */
  interrupts: boolean
  memoryBytes: number
  /** where BAR 2 lies in the guest's memory */
  memoryStart: bigint
  /** null for none */
  group: string | null
}

/** The text of a file without white space around it; '' when it cannot be read. */
export function text(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return ''
  }
}

export function names(folder: string): string[] {
  try {
    return readdirSync(folder).sort()
  } catch {
    return []
  }
}

function linkName(path: string): string | null {
  try {
    return basename(readlinkSync(path))
  } catch {
    return null
  }
}

/** The driver of any PCI device, '' for none. */
export function driverOf(roots: Roots, address: string): string {
  return linkName(join(roots.sys, 'bus/pci/devices', address, 'driver')) ?? ''
}

export function readDevice(roots: Roots, address: string): SysfsDevice {
  const folder = join(roots.sys, 'bus/pci/devices', address)
  // one line "start end flags" per BAR
  const bars = text(join(folder, 'resource'))
    .split('\n')
    .map((line) => line.split(/\s+/).map((word) => (/^0x[0-9a-f]+$/i.test(word) ? BigInt(word) : 0n)))
  const size = (index: number) => {
    const [start = 0n, end = 0n] = bars[index] ?? []
    return end > start ? Number(end - start + 1n) : 0
  }
  const override = text(join(folder, 'driver_override'))
  return {
    address,
    folder,
    driver: driverOf(roots, address),
    override: override === '(null)' ? '' : override,
    interrupts: size(1) !== 0,
    memoryBytes: size(2),
    memoryStart: bars[2]?.[0] ?? 0n,
    group: linkName(join(folder, 'iommu_group')),
  }
}

/** Every ivshmem device, by address. */
export function listDevices(roots: Roots): SysfsDevice[] {
  const all = join(roots.sys, 'bus/pci/devices')
  return names(all)
    .filter((name) => `${text(join(all, name, 'vendor'))}:${text(join(all, name, 'device'))}` === IVSHMEM)
    .map((name) => readDevice(roots, name))
}

export function describeDevice({ address, interrupts, memoryBytes, driver }: SysfsDevice): string {
  const kind = interrupts ? 'ivshmem-doorbell' : 'ivshmem-plain'
  return `${address} (${kind}, ${bytes(memoryBytes)}, ${driver === '' ? 'no driver' : driver})`
}

/** '00:02.0', '0000:00:02.0' and 'pci:0000:00:02.0' → '0000:00:02.0'. */
export function parseAddress(named: string): string {
  try {
    const region = parseRegion(named.startsWith('pci:') ? named : `pci:${named}`)
    if (region.kind === 'pci') return region.device
  } catch {
    // said below, in words that fit a device
  }
  throw new VmringError(
    'ERR_VMRING_ARGUMENT',
    `${JSON.stringify(named)} is no PCI address; give one such as 0000:00:02.0`,
  )
}

/** The device that was named, else the only one. Throws ERR_VMRING_DEVICE_ABSENT, _DEVICE_TYPE, _SEVERAL_DEVICES. */
export function chooseDevice(roots: Roots, named: string | undefined, command: string): SysfsDevice {
  const devices = listDevices(roots)
  if (named !== undefined) {
    const address = parseAddress(named)
    const device = devices.find((one) => one.address === address)
    if (device !== undefined) return device
    const there = existsSync(join(roots.sys, 'bus/pci/devices', address))
    throw new VmringError(
      there ? 'ERR_VMRING_DEVICE_TYPE' : 'ERR_VMRING_DEVICE_ABSENT',
      there ? `${address} is no ivshmem device (1af4:1110)` : `there is no PCI device at ${address}`,
      { address },
    )
  }
  if (devices.length > 1) {
    throw new VmringError(
      'ERR_VMRING_SEVERAL_DEVICES',
      `there are ${devices.length} ivshmem devices: ${devices.map(describeDevice).join(', ')}; ` +
        `name one: \`vmring ${command} ${devices[0]!.address}\``,
      { details: { devices: devices.map(({ address }) => address) } },
    )
  }
  if (devices.length === 0) {
    throw new VmringError('ERR_VMRING_DEVICE_ABSENT', 'this machine has no ivshmem device (1af4:1110)')
  }
  return devices[0]!
}

/** The kernel was built or loaded so that it does without an IOMMU. */
export function withoutIommu(roots: Roots): boolean {
  return text(join(roots.sys, 'module/vfio/parameters/enable_unsafe_noiommu_mode')) === 'Y'
}

/** The file by which programs open a device that is bound to vfio-pci. */
export function groupPath(roots: Roots, group: string): string {
  const free = join(roots.dev, 'vfio', `noiommu-${group}`)
  return existsSync(free) ? free : join(roots.dev, 'vfio', group)
}

/** The process that has the device open or mapped, null when none can be seen (those of other users are hidden). */
export function ownerOf(roots: Roots, device: SysfsDevice): number | null {
  const paths = new Set<string>()
  if (device.group !== null) paths.add(groupPath(roots, device.group))
  for (const name of ['resource2', 'resource2_wc']) paths.add(join(device.folder, name))
  for (const path of [...paths]) {
    try {
      paths.add(realpathSync(path)) // what /proc shows has no links in it
    } catch {
      // not there
    }
  }
  for (const pid of names(roots.proc).filter((name) => /^\d+$/.test(name))) {
    if (Number(pid) === process.pid) continue
    const open = names(join(roots.proc, pid, 'fd')).some((fd) => {
      try {
        return paths.has(readlinkSync(join(roots.proc, pid, 'fd', fd)))
      } catch {
        return false // closed meanwhile
      }
    })
    if (open || mapped(roots, pid, paths)) return Number(pid)
  }
  return null
}

function mapped(roots: Roots, pid: string, paths: Set<string>): boolean {
  const maps = text(join(roots.proc, pid, 'maps'))
  if (!maps.includes('/resource2')) return false
  return maps.split('\n').some((line) => paths.has(line.slice(Math.max(0, line.indexOf('/')))))
}
