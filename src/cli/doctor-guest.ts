/** What `vmring doctor` says about the ivshmem devices of a guest. Reads sysfs and /proc only; doctor-memory.ts opens devices, when asked to. */
import { accessSync, constants, existsSync } from 'node:fs'
import { join } from 'node:path'
import type { ErrorCode } from '../errors.js'
import type { NativeBinding } from '../native/types.js'
import { foreignDriver, VFIO } from '../peer/device-words.js'
import { memoryFindings } from './doctor-memory.js'
import type { Finding } from './finding.js'
import { bytes } from './output.js'
import {
  describeDevice,
  driverOf,
  groupPath,
  listDevices,
  names,
  ownerOf,
  type Roots,
  type SysfsDevice,
  text,
  withoutIommu,
} from './sysfs.js'

const LEAST_MEMORY = 2 ** 20
const QEMU_DEVICE =
  'QEMU: -chardev socket,path=/run/vmring/default.sock,id=vmring -device ivshmem-doorbell,chardev=vmring,vectors=2'
/** Drivers that leave DMA to others, so that a group with them is viable. */
const HARMLESS = ['', VFIO, 'pcieport', 'pci-stub']

export interface GuestOptions {
  /** VMRING_REGION */
  region?: string | undefined
  /** null: devices are not opened */
  native: NativeBinding | null
  arch?: string
  /** whether this user may read and write a file */
  mayOpen?: (path: string) => boolean
}

export interface GuestFindings {
  /** how many devices there are */
  devices: number
  findings: Finding[]
}

export function examineGuest(roots: Roots, options: GuestOptions): GuestFindings {
  const devices = listDevices(roots)
  const [first] = devices
  if (first === undefined) return { devices: 0, findings: [noDevice(roots, options.region)] }
  const named = options.region?.startsWith('pci:') ? options.region.slice('pci:'.length).toLowerCase() : null
  const findings: Finding[] = []
  if (named !== null && !devices.some(({ address }) => address.endsWith(named))) {
    const message = `VMRING_REGION names ${named}, which is none of ${devices.map(describeDevice).join(', ')}`
    findings.push(
      wrong('device', message, 'ERR_VMRING_DEVICE_ABSENT', `export VMRING_REGION=pci:${first.address}`),
    )
  } else if (devices.length > 1 && !options.region) {
    const message = `${devices.length} ivshmem devices, and VMRING_REGION names none of them`
    const fix = `export VMRING_REGION=pci:${first.address}    (or another of those below)`
    findings.push(wrong('device', message, 'ERR_VMRING_SEVERAL_DEVICES', fix))
  }
  for (const device of devices) findings.push(...examineDevice(roots, device, options))
  return { devices: devices.length, findings }
}

function noDevice(roots: Roots, region: string | undefined): Finding {
  const check = 'device'
  if (region?.startsWith('pci:')) {
    return wrong(
      check,
      `VMRING_REGION is ${region}, but there is no ivshmem device`,
      'ERR_VMRING_DEVICE_ABSENT',
      QEMU_DEVICE,
    )
  }
  const message = 'no ivshmem device here: a guest has one, a host needs none'
  const guest = text(join(roots.sys, 'class/dmi/id/sys_vendor')) === 'QEMU'
  return { check, status: 'note', message, ...(guest && { fix: QEMU_DEVICE }) }
}

function examineDevice(roots: Roots, device: SysfsDevice, options: GuestOptions): Finding[] {
  const owner = ownerOf(roots, device)
  const findings = [
    ok('device', describeDevice(device)),
    size(device),
    driver(device),
    ...vfio(roots, device),
    ...iommu(roots, device, options.arch ?? process.arch),
    ...group(roots, device),
    ...permission(roots, device, options.mayOpen ?? writable),
    ...lockdown(roots, device),
    caching(roots, device),
  ]
  if (owner !== null) {
    const message = `process ${owner} has ${device.address}, and the section that belongs to it`
    findings.push({ check: 'in use', status: 'note', message, code: 'ERR_VMRING_DEVICE_BUSY' })
  } else if (!findings.some(({ status }) => status === 'wrong')) {
    findings.push(...(options.native === null ? [unseen] : memoryFindings(options.native, device)))
  }
  return findings
}

/** Opening takes the device from a program that starts at this moment, so it has to be asked for. */
const unseen: Finding = {
  check: 'memory',
  status: 'note',
  message: 'not looked at: its sections and its speed show only when the device is opened for a moment',
  fix: 'vmring doctor --open',
}

function ok(check: string, message: string): Finding {
  return { check, status: 'ok', message }
}

function wrong(check: string, message: string, code: ErrorCode, fix: string): Finding {
  return { check, status: 'wrong', message, code, fix }
}

/** Without it the device can still be used by polling through sysfs, as long as no driver has it. */
function lacking(device: SysfsDevice, check: string, message: string, code: ErrorCode, fix: string): Finding {
  if (device.driver !== '') return wrong(check, message, code, fix)
  return { check, status: 'note', message: `${message}; until then it is used by polling`, code, fix }
}

/** vfio brings interrupts only: a plain device has none, and is as good without. */
function wantsVfio({ interrupts, driver }: SysfsDevice): boolean {
  return interrupts || driver === VFIO
}

function size({ memoryBytes, interrupts }: SysfsDevice): Finding {
  const check = 'BAR 2'
  const power = memoryBytes > 0 && Number.isInteger(Math.log2(memoryBytes))
  if (power && memoryBytes >= LEAST_MEMORY) return ok(check, `${bytes(memoryBytes)}, a power of two`)
  const message = `${bytes(memoryBytes)}: a region is a power of two of at least ${bytes(LEAST_MEMORY)}`
  const fix = interrupts
    ? 'on the host: vmring host --size 64M, and start the guest again'
    : 'QEMU: -object memory-backend-file,id=vmring,share=on,mem-path=FILE,size=64M'
  return wrong(check, message, 'ERR_VMRING_REGION_SIZE', fix)
}

function driver(device: SysfsDevice): Finding {
  const { address, driver, interrupts } = device
  const check = 'driver'
  const foreign = foreignDriver(device)
  if (foreign !== null) return wrong(check, foreign.message, 'ERR_VMRING_DEVICE_DRIVER', foreign.fix)
  if (driver === VFIO) return ok(check, VFIO)
  if (!interrupts) return ok(check, 'none, and none is needed: ivshmem-plain has no interrupts')
  const message = 'none: used through sysfs, by polling; bound to vfio-pci it has interrupts'
  const fix = `sudo vmring bind ${address}`
  return { check, status: 'note', message, fix }
}

function vfio(roots: Roots, device: SysfsDevice): Finding[] {
  if (!wantsVfio(device)) return []
  const check = 'vfio'
  const code = 'ERR_VMRING_NO_VFIO'
  const there = {
    [VFIO]: existsSync(join(roots.sys, 'bus/pci/drivers', VFIO)),
    vfio_iommu_type1: existsSync(join(roots.sys, 'module/vfio_iommu_type1')) || withoutIommu(roots),
  }
  const missing = Object.entries(there).flatMap(([name, here]) => (here ? [] : [name]))
  if (missing.length === 0) return [ok(check, 'vfio-pci and vfio_iommu_type1 are loaded')]
  if (missing.some((module) => !available(roots, module))) {
    const release = text(join(roots.proc, 'sys/kernel/osrelease'))
    const message = `kernel ${release} has no ${missing.join(' and no ')}`
    const fix =
      'boot a kernel with CONFIG_VFIO_PCI; on Debian: apt-get install linux-image-$(dpkg --print-architecture)'
    return [lacking(device, check, message, code, fix)]
  }
  const message = `not loaded: ${missing.join(', ')}`
  return [lacking(device, check, message, code, `sudo modprobe -a ${missing.join(' ')}`)]
}

/** True as well when nobody can tell: modprobe will. */
function available(roots: Roots, module: string): boolean {
  const folder = join(roots.modules, text(join(roots.proc, 'sys/kernel/osrelease')))
  const list = `${text(join(folder, 'modules.dep'))}\n${text(join(folder, 'modules.builtin'))}`
  return list === '\n' ? existsSync(folder) : list.includes(`/${module}.ko`)
}

function iommu(roots: Roots, device: SysfsDevice, arch: string): Finding[] {
  if (!wantsVfio(device)) return []
  const check = 'IOMMU'
  if (device.group === null || names(join(roots.sys, 'kernel/iommu_groups')).length === 0) {
    if (withoutIommu(roots)) {
      const message = 'none, and vfio is told to do without: the device can reach all memory of this guest'
      return [{ check, status: 'note', message }]
    }
    return [lacking(device, check, ...noIommu(roots, arch))]
  }
  const unmapped = names(join(roots.sys, 'class/iommu')).filter((name) => {
    // bit 3 of the extended capabilities of an Intel IOMMU: it remaps interrupts
    const ecap = text(join(roots.sys, 'class/iommu', name, 'intel-iommu/ecap'))
    return ecap !== '' && (Number.parseInt(ecap.slice(-2), 16) & 8) === 0
  })
  const refused = /\b(intremap=off|nointremap)\b/.test(text(join(roots.proc, 'cmdline')))
  const allowed = text(join(roots.sys, 'module/vfio_iommu_type1/parameters/allow_unsafe_interrupts')) === 'Y'
  if ((unmapped.length === 0 && !refused) || allowed) {
    return [ok(check, `on; ${device.address} is in group ${device.group}`)]
  }
  const fix = refused
    ? 'guest kernel: take intremap=off out of its arguments'
    : 'QEMU: -M q35,kernel-irqchip=split -device intel-iommu,intremap=on'
  const or = '    (or vfio_iommu_type1.allow_unsafe_interrupts=1 as a kernel argument)'
  const message = 'on, but it does not remap interrupts, so vfio refuses'
  return [lacking(device, check, message, 'ERR_VMRING_INTERRUPT_REMAPPING', fix + or)]
}

function noIommu(roots: Roots, arch: string): [message: string, code: ErrorCode, fix: string] {
  const code = 'ERR_VMRING_NO_IOMMU'
  const table = (name: string) => existsSync(join(roots.sys, 'firmware/acpi/tables', name))
  const argument = (text: string) =>
    `guest kernel: ${text}    (in GRUB_CMDLINE_LINUX of /etc/default/grub, then update-grub and reboot)`
  if (arch === 'arm64') return ['off: this machine has none', code, 'QEMU: -M virt,iommu=smmuv3']
  if (table('DMAR'))
    return ['off, though this machine has an Intel one', code, argument('add intel_iommu=on')]
  if (table('IVRS')) {
    const off = /\bamd_iommu=off\b/.test(text(join(roots.proc, 'cmdline')))
    const fix = argument(off ? 'take out amd_iommu=off' : 'add amd_iommu=on iommu=pt')
    return ['off, though this machine has one of AMD', code, fix]
  }
  const fix =
    'QEMU: -M q35,kernel-irqchip=split -device intel-iommu,intremap=on; guest kernel: add intel_iommu=on'
  return ['off: this machine has none', code, fix]
}

function group(roots: Roots, device: SysfsDevice): Finding[] {
  if (device.group === null || !wantsVfio(device)) return []
  const others = names(join(roots.sys, 'kernel/iommu_groups', device.group, 'devices')).flatMap((address) => {
    const driver = driverOf(roots, address)
    return address === device.address || HARMLESS.includes(driver) ? [] : [`${address} (${driver})`]
  })
  if (others.length === 0) return [ok('group', `group ${device.group} is viable`)]
  const message = `group ${device.group} is not viable: ${others.join(', ')} shares it`
  const fix =
    'QEMU: -device pcie-root-port,id=vmring-port,chassis=99 -device ivshmem-doorbell,…,bus=vmring-port'
  return [lacking(device, 'group', message, 'ERR_VMRING_DEVICE_GROUP', fix)]
}

function permission(roots: Roots, device: SysfsDevice, mayOpen: (path: string) => boolean): Finding[] {
  const { address, driver, folder } = device
  const code = 'ERR_VMRING_DEVICE_PERMISSION'
  const check = 'permission'
  if (driver === VFIO && device.group !== null) {
    const path = groupPath(roots, device.group)
    const container = join(roots.dev, 'vfio/vfio')
    if (!existsSync(path)) {
      const message = `${path} does not exist, although the device is bound`
      return [wrong(check, message, 'ERR_VMRING_NO_VFIO', 'sudo vmring unbind && sudo vmring bind')]
    }
    if (!mayOpen(path)) {
      return [
        wrong(check, `this user may not open ${path}`, code, `sudo vmring bind ${address} --group GROUP`),
      ]
    }
    if (!mayOpen(container)) {
      return [wrong(check, `this user may not open ${container}`, code, `sudo chmod 0666 ${container}`)]
    }
    return [ok(check, `this user may open ${path}`)]
  }
  if (driver !== '') return []
  const path = join(folder, 'resource2')
  if (mayOpen(path)) return [ok(check, `this user may open ${path}`)]
  const fix = `sudo chown $(id -un) ${path} ${join(folder, 'resource0')}`
  return [wrong(check, `this user may not open ${path}`, code, fix)]
}

function writable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK)
    return true
  } catch {
    return false
  }
}

function lockdown(roots: Roots, { address, driver }: SysfsDevice): Finding[] {
  const check = 'lockdown'
  const state = text(join(roots.sys, 'kernel/security/lockdown'))
  // "none [integrity] confidentiality": the brackets mark the level in force
  const level = /\[(\w+)\]/.exec(state)?.[1] ?? 'none'
  if (level === 'none') return [ok(check, 'none')]
  if (driver === VFIO) return [ok(check, `${level}; vfio is allowed under it`)]
  const message = `${level} (Secure Boot): the kernel forbids mapping the device through sysfs`
  return [wrong(check, message, 'ERR_VMRING_LOCKDOWN', `sudo vmring bind ${address}`)]
}

function caching(roots: Roots, device: SysfsDevice): Finding {
  const check = 'caching'
  const wc = join(device.folder, 'resource2_wc')
  const user = names(roots.proc).find(
    (pid) =>
      /^\d+$/.test(pid) && text(join(roots.proc, pid, 'maps')).includes(`${device.address}/resource2_wc`),
  )
  if (user !== undefined) {
    return {
      check,
      status: 'wrong',
      message: `process ${user} maps ${wc}: write combining reorders stores, and messages are torn`,
      fix: `kill ${user}    (map resource2 instead)`,
    }
  }
  const cpu = /^vendor_id\s*:\s*(\S+)/m.exec(text(join(roots.proc, 'cpuinfo')))?.[1] ?? ''
  if (cpu === 'AuthenticAMD' || cpu === 'HygonGenuine') {
    const message =
      'a processor of AMD maps uncached when the guest asks for it, as vfio-pci and resource2 do; vmring doctor --open measures it'
    return { check, status: 'note', message }
  }
  return ok(check, 'through resource2 or vfio, nobody uses resource2_wc')
}
