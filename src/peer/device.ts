/** The ivshmem device of a guest: finding it, opening it, and saying what is in the way. */
import { statSync } from 'node:fs'
import { type ErrorCode, errorTable, VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import type { NativeDevice, PciDevice } from '../native/types.js'

interface DeviceFault extends Error {
  code: ErrorCode
  path: string
  detail: string
  /** of the process that has the device, 0 when it cannot be seen */
  pid: number
  errno?: number
  syscall?: string
}

/** The address of the guest's only device, null when there is none. Throws ERR_VMRING_SEVERAL_DEVICES. */
export function findDevice(): string | null {
  const devices = native.Device.list()
  if (devices.length <= 1) return devices[0]?.address ?? null
  throw new VmringError(
    'ERR_VMRING_SEVERAL_DEVICES',
    `there are ${devices.length} ivshmem devices; name one: ${devices.map((d) => `'pci:${d.address}' (${describe(d)})`).join(', ')}`,
    { details: { devices: devices.map(({ address }) => address) } },
  )
}

function describe({ memoryBytes, interrupts, driver }: PciDevice): string {
  return `${memoryBytes / 2 ** 20} MiB, ${interrupts ? 'doorbell' : 'plain'}, ${driver === '' ? 'no driver' : driver}`
}

/**
 * Opens a device: by vfio-pci when it is bound to that, without a driver through sysfs, without interrupts. Throws
 * ERR_VMRING_DEVICE_…, ERR_VMRING_NO_VFIO, ERR_VMRING_NO_IOMMU, ERR_VMRING_INTERRUPT_REMAPPING, ERR_VMRING_LOCKDOWN.
 */
export function openDevice(address: string): NativeDevice {
  try {
    const driver = native.Device.list().find((d) => d.address === address)?.driver ?? ''
    if (driver !== '' && driver !== 'vfio-pci') throw otherDriver(address, driver)
    const device = driver !== '' ? native.Device.openVfio(address) : native.Device.openSysfs(address)
    if (device.slow) warnSlow(device)
    return device
  } catch (error) {
    throw explain(address, error)
  }
}

/** Whatever that driver is for, somebody wanted it: the device is not used behind its back. */
function otherDriver(address: string, driver: string): VmringError {
  return new VmringError(
    'ERR_VMRING_DEVICE_DRIVER',
    `${address} has the driver ${driver}; give it to vfio-pci with \`vmring bind ${address}\`, or to none with \`vmring unbind ${address}\``,
    { address, details: { driver } },
  )
}

function explain(address: string, error: unknown): unknown {
  const fault = error as DeviceFault
  const entry = errorTable[fault.code]
  if (!(error instanceof Error) || entry === undefined) return error
  const { path, detail, pid, errno, syscall } = fault
  const owner =
    fault.code === 'ERR_VMRING_DEVICE_BUSY'
      ? `, by ${pid > 0 ? `process ${pid}` : 'a process of another user'}`
      : ''
  const what = fault.message.replace(/, process \d+.*/, '')
  const where = what.startsWith(address) ? '' : `${address}: `
  const cure = entry.cure.replaceAll('ADDRESS', address).replaceAll('/dev/vfio/GROUP', path)
  return new VmringError(fault.code, `${where}${what}${owner}; ${cure}`, {
    cause: error,
    address,
    ...(errno !== undefined && { errno }),
    ...(syscall !== undefined && { syscall }),
    details: { path, ...(detail !== '' && { detail }), ...(pid > 0 && { pid }) },
  })
}

const LOOK_MS = 500

/**
 * Calls `gone` when a device that is used through sysfs has been unplugged: there is no notice, and its memory reads as
 * ones from then on. Returns what ends the watch.
 */
export function watchSysfs({ address }: NativeDevice, gone: () => void): () => void {
  const path = `/sys/bus/pci/devices/${address}/resource2`
  // a device that was plugged in meanwhile has another inode
  const inode = () => statSync(path, { throwIfNoEntry: false })?.ino
  const first = inode()
  const timer = setInterval(() => {
    if (inode() === first) return
    clearInterval(timer)
    gone()
  }, LOOK_MS).unref()
  return () => clearInterval(timer)
}

let warned = false

/** Once per process. */
function warnSlow({ address, readSpeed }: NativeDevice): void {
  if (warned) return
  warned = true
  process.emitWarning(
    `the memory of ${address} is read at ${(readSpeed / 1e6).toFixed(0)} MB/s: this guest maps it uncached`,
    {
      code: 'VMRING_SLOW_MEMORY',
      detail:
        'On AMD hosts the guest decides about caching: map it by vfio-pci with a kernel that keeps ivshmem memory ' +
        'write-back, and never through resource2_wc. On Intel hosts check that the guest runs under KVM with EPT.',
    },
  )
}
