/** The ivshmem device of a guest: finding it, opening it, and saying what is in the way. */
import { statSync } from 'node:fs'
import { type ErrorCode, errorTable, VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import type { DeviceConstructor, NativeDevice, PciDevice } from '../native/types.js'
import { foreignDriver, silentDevice, slowMemory, VFIO } from './device-words.js'

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
 * Opens a device: by vfio-pci when it is bound to that, through sysfs and without interrupts when it is bound to nothing.
 * Throws ERR_VMRING_DEVICE_… (_DRIVER: another driver has it, `driver` names it), ERR_VMRING_NO_VFIO,
 * ERR_VMRING_NO_IOMMU, ERR_VMRING_INTERRUPT_REMAPPING, ERR_VMRING_LOCKDOWN. `devices` is for tests.
 */
export function openDevice(address: string, devices: DeviceConstructor = native.Device): NativeDevice {
  const found = devices.list().find((device) => device.address === address)
  const foreign = found === undefined ? null : foreignDriver(found)
  if (foreign !== null) {
    const { driver } = found!
    const text = `${address}: ${foreign.message}; \`${foreign.fix}\``
    throw new VmringError('ERR_VMRING_DEVICE_DRIVER', text, { address, details: { driver } })
  }
  try {
    const device = found?.driver === VFIO ? devices.openVfio(address) : devices.openSysfs(address)
    if (device.slow) warnSlow(device)
    if (device.silent) warnSilent(device)
    return device
  } catch (error) {
    throw explain(address, error)
  }
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

const warned = new Set<string>()

/** Each code once per process. */
function warnOnce(code: string, warning: string, detail: string): void {
  if (warned.has(code)) return
  warned.add(code)
  process.emitWarning(warning, { code, detail })
}

function warnSilent({ address }: NativeDevice): void {
  const { message, fix } = silentDevice(address)
  warnOnce('VMRING_NO_INTERRUPTS', `${address}: ${message}`, fix)
}

function warnSlow(device: NativeDevice): void {
  const { message, fix } = slowMemory(device)
  warnOnce('VMRING_SLOW_MEMORY', `${device.address} is read at ${message}`, fix)
}
