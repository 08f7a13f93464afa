/**
 * What `vmring doctor --open` sees in the memory of a device that nobody else has open: how fast it is read, and whether
 * there is a section for this guest. It joins nothing and writes nothing there; the device is open for
 * some milliseconds, a second when its interrupts do not come.
 */
import { type ErrorCode, errorTable } from '../errors.js'
import type { NativeBinding, NativeDevice, NativeRegion } from '../native/types.js'
import { silentDevice, slowMemory, speedWords, VFIO } from '../peer/device-words.js'
import type { Finding } from './finding.js'
import { bytes } from './output.js'
import type { SysfsDevice } from './sysfs.js'

const STATE_FREE = 0

export function memoryFindings(native: NativeBinding, device: SysfsDevice): Finding[] {
  const { address, driver } = device
  let opened: NativeDevice
  try {
    opened = driver === VFIO ? native.Device.openVfio(address) : native.Device.openSysfs(address)
  } catch (error) {
    return [failure('open', device, error)]
  }
  try {
    return [speed(opened), ...interrupts(opened), region(opened, device)]
  } catch (error) {
    return [failure('region', device, error)]
  } finally {
    opened.region.close()
    opened.close()
  }
}

function failure(check: string, device: SysfsDevice, error: unknown): Finding {
  const { code, message } = error as { code?: string; message: string }
  const known = code !== undefined && Object.hasOwn(errorTable, code) ? (code as ErrorCode) : null
  const fix = known === null ? 'dmesg | tail' : cure(known, device)
  return { check, status: 'wrong', message, fix, ...(known !== null && { code: known }) }
}

/** Of what is wrong with a region, on the side of the host; of everything else the table's. */
function cure(code: ErrorCode, { address, interrupts }: SysfsDevice): string {
  if (!code.startsWith('ERR_VMRING_REGION_')) return errorTable[code].cure.replaceAll('ADDRESS', address)
  if (interrupts) return 'on the host: start `vmring host` again, then the guests'
  if (code === 'ERR_VMRING_REGION_SIZE') {
    return 'QEMU: -object memory-backend-file,… with the size= that the file was formatted with'
  }
  const version = code === 'ERR_VMRING_REGION_MAGIC' ? '' : ', by the version of vmring that all sides have'
  return `on the host: vmring format FILE --force${version}; then start the guests again`
}

function speed(device: NativeDevice): Finding {
  const check = 'read speed'
  if (device.slow) return { check, status: 'note', ...slowMemory(device) }
  const message = `${speedWords(device.readSpeed)} through ${device.kind}: cached`
  return { check, status: 'ok', message }
}

/** What an open by root, as this may be, has mended is not seen. */
function interrupts({ silent, address }: NativeDevice): Finding[] {
  return silent ? [{ check: 'interrupts', status: 'note', ...silentDevice(address) }] : []
}

function region({ region, position }: NativeDevice, { memoryBytes, interrupts }: SysfsDevice): Finding {
  const check = 'section'
  if (region.blank) {
    const message = 'nobody has formatted the memory yet; the first to attach does'
    return { check, status: 'note', message, ...(interrupts && { fix: 'on the host: vmring host' }) }
  }
  const { sections, sectionSize, plain } = region.geometry()
  const shape = `${bytes(memoryBytes)}, ${sections} sections of ${bytes(sectionSize)}`
  const taken = entries(region, sections)
  const free = sections - taken.length
  const mine = plain ? undefined : taken.find(({ peerId }) => peerId === position)
  if (mine !== undefined) {
    return {
      check,
      status: 'ok',
      message: `${mine.section} is that of this guest, peer ${position} (${shape})`,
    }
  }
  if (plain && free > 0) {
    return { check, status: 'ok', message: `${free} of ${sections} are free in this plain region (${shape})` }
  }
  if (!plain && free > 0) {
    const message = `the daemon knows no peer ${position}: it was started again after this guest (${shape})`
    return {
      check,
      status: 'wrong',
      message,
      fix: 'QEMU monitor: device_del and device_add of the device, or start the guest again',
    }
  }
  const message = `all ${sections} are taken, none belongs to this guest`
  const fix = plain
    ? 'on the host: vmring format FILE --release SECTION    (of a process that is gone)'
    : `on the host: vmring host --sections ${Math.min(256, sections * 2)}`
  return { check, status: 'wrong', message, fix, code: 'ERR_VMRING_TOO_MANY_PEERS' }
}

function entries(region: NativeRegion, sections: number): { section: number; peerId: number }[] {
  const taken: { section: number; peerId: number }[] = []
  for (let section = 0; section < sections; section++) {
    const entry = region.readEntry(section)
    if (entry !== null && entry.state !== STATE_FREE) taken.push({ section, peerId: entry.peerId })
  }
  return taken
}
