/** `vmring bind` and `vmring unbind`: the ivshmem device of a guest to vfio-pci, and back to no driver. Sysfs only. */
import { spawnSync } from 'node:child_process'
import { chmodSync, chownSync, existsSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { type ErrorCode, VmringError } from '../errors.js'
import { groupId } from '../host/options.js'
import { VFIO } from '../peer/device-words.js'
import { printJson } from './output.js'
import {
  chooseDevice,
  describeDevice,
  groupPath,
  ownerOf,
  type Roots,
  readDevice,
  SYSTEM,
  type SysfsDevice,
  withoutIommu,
} from './sysfs.js'

const MODULES = [VFIO, 'vfio_iommu_type1']

interface BindFlags {
  group?: string
  dryRun?: boolean
  json?: boolean
}

export function bindCommand(): Command {
  return new Command('bind')
    .summary('bind the ivshmem device of a guest to vfio-pci')
    .description(
      'Binds the ivshmem device of this guest to vfio-pci, which delivers its interrupts. Needs root. Does nothing when it is ' +
        'bound already.',
    )
    .argument('[address]', 'PCI address, such as 0000:00:02.0 (default: the only ivshmem device)')
    .option('--group <group>', 'let the members of this group open the device, by name or number')
    .option('--dry-run', 'print the commands, do nothing')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
Examples:
  $ sudo vmring bind                        the only ivshmem device
  $ sudo vmring bind --group vmring         and give it to the group vmring
  $ vmring bind 0000:01:00.0 --dry-run      what it would do`,
    )
    .action((address: string | undefined, flags: BindFlags) =>
      print(bind(SYSTEM, HANDS, address, flags), flags),
    )
}

export function unbindCommand(): Command {
  return new Command('unbind')
    .summary('take the ivshmem device of a guest from its driver')
    .description(
      'Takes the ivshmem device of this guest from its driver, so that it is used through sysfs, without interrupts. Needs ' +
        'root. Does nothing when it has no driver.',
    )
    .argument('[address]', 'PCI address, such as 0000:00:02.0 (default: the only ivshmem device)')
    .option('--dry-run', 'print the commands, do nothing')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
Examples:
  $ sudo vmring unbind
  $ vmring unbind 0000:01:00.0 --dry-run`,
    )
    .action((address: string | undefined, flags: BindFlags) =>
      print(unbind(SYSTEM, HANDS, address, flags), flags),
    )
}

/** What changes something; tests put a made-up kernel here. */
export interface Hands {
  write(path: string, text: string): void
  modprobe(modules: string[]): { ok: boolean; said: string }
  /** gives a device file to a group, mode 0660 */
  give(path: string, gid: number): void
}

const HANDS: Hands = {
  write: (path, text) => writeFileSync(path, text),
  modprobe(modules) {
    const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin` }
    const { status, error, stderr } = spawnSync('modprobe', ['-a', ...modules], { env, encoding: 'utf8' })
    const missing = error as NodeJS.ErrnoException | undefined
    const said =
      missing?.code === 'ENOENT' ? 'there is no modprobe (package kmod)' : (missing?.message ?? stderr)
    return { ok: status === 0, said: said.trim() }
  },
  give(path, gid) {
    chownSync(path, statSync(path).uid, gid)
    chmodSync(path, 0o660)
  },
}

export interface BindResult {
  address: string
  /** '' for none */
  driver: string
  changed: boolean
  dryRun: boolean
  /** as a shell would say them */
  commands: string[]
  iommuGroup: string | null
  /** what programs open, when bound */
  path: string | null
  text: string
}

/** Throws ERR_VMRING_DEVICE_…, ERR_VMRING_SEVERAL_DEVICES, ERR_VMRING_NO_VFIO, ERR_VMRING_NO_IOMMU, _ARGUMENT. */
export function bind(roots: Roots, hands: Hands, named: string | undefined, flags: BindFlags): BindResult {
  const gid = flags.group === undefined ? null : groupId(flags.group)
  const device = chooseDevice(roots, named, 'bind')
  const { address, folder } = device
  const work = new Work(device, hands, flags.dryRun === true)
  if (device.driver !== VFIO) {
    if (device.group === null && !withoutIommu(roots)) {
      throw new VmringError('ERR_VMRING_NO_IOMMU', `${address} is in no IOMMU group`, { address })
    }
    refuseBusy(roots, device)
  }
  const missing = MODULES.filter((module) => !loaded(roots, module))
  if (missing.length > 0) work.modprobe(missing)
  if (device.override !== VFIO) work.write(join(folder, 'driver_override'), VFIO)
  if (device.driver !== VFIO) {
    if (device.driver !== '') work.write(join(folder, 'driver/unbind'), address)
    work.write(join(roots.sys, 'bus/pci/drivers_probe'), address)
  }
  const now = flags.dryRun ? device : readDevice(roots, address)
  if (!flags.dryRun && now.driver !== VFIO) {
    throw new VmringError('ERR_VMRING_DEVICE', `${address}: the kernel did not bind it to ${VFIO}`, {
      address,
    })
  }
  const path = now.group === null ? null : groupPath(roots, now.group)
  if (gid !== null && path !== null) work.give(path, gid, flags.group!)
  const access = flags.dryRun || path === null ? [] : accessText(address, path)
  return work.result(now, path, [
    `${address}: ${work.changed ? '' : 'already '}bound to ${VFIO}, IOMMU group ${now.group ?? 'none'}`,
    ...access,
  ])
}

/** Throws ERR_VMRING_DEVICE_…, ERR_VMRING_SEVERAL_DEVICES. */
export function unbind(roots: Roots, hands: Hands, named: string | undefined, flags: BindFlags): BindResult {
  const device = chooseDevice(roots, named, 'unbind')
  const { address, folder } = device
  const work = new Work(device, hands, flags.dryRun === true)
  // The kernel would wait until that process lets go, and this one with it.
  if (device.driver !== '') refuseBusy(roots, device)
  if (device.override !== '') work.write(join(folder, 'driver_override'), '\n')
  if (device.driver !== '') work.write(join(folder, 'driver/unbind'), address)
  const now = flags.dryRun ? device : readDevice(roots, address)
  if (!flags.dryRun && now.driver !== '') {
    throw new VmringError('ERR_VMRING_DEVICE', `${address}: the kernel left it to ${now.driver}`, { address })
  }
  return work.result(now, null, [
    `${address}: ${work.changed ? 'has no driver now' : 'has no driver already'}`,
  ])
}

/** Steps, done or only written down. */
class Work {
  readonly commands: string[] = []
  changed = false
  readonly #device: SysfsDevice
  readonly #hands: Hands
  readonly #dry: boolean

  constructor(device: SysfsDevice, hands: Hands, dry: boolean) {
    this.#device = device
    this.#hands = hands
    this.#dry = dry
  }

  write(path: string, text: string): void {
    this.changed = true
    this.#step(`echo ${text.trim() === '' ? "''" : text} > ${path}`, path, () =>
      this.#hands.write(path, text),
    )
  }

  give(path: string, gid: number, group: string): void {
    this.#step(`chgrp ${group} ${path} && chmod 0660 ${path}`, path, () => this.#hands.give(path, gid))
  }

  modprobe(modules: string[]): void {
    this.commands.push(`modprobe -a ${modules.join(' ')}`)
    if (this.#dry) return
    const { ok, said } = this.#hands.modprobe(modules)
    if (ok) return
    const code = isRoot() ? 'ERR_VMRING_NO_VFIO' : 'ERR_VMRING_DEVICE_PERMISSION'
    throw this.#failure(code, `modprobe -a ${modules.join(' ')}: ${said === '' ? 'failed' : said}`)
  }

  result(device: SysfsDevice, path: string | null, lines: string[]): BindResult {
    const { address, driver, group } = device
    const dry = this.commands.length === 0 ? [`# ${address}: nothing to do`] : this.commands
    return {
      address,
      driver,
      changed: this.changed && !this.#dry,
      dryRun: this.#dry,
      commands: this.commands,
      iommuGroup: group,
      path,
      text: (this.#dry ? dry : lines).join('\n'),
    }
  }

  #step(command: string, path: string, act: () => void): void {
    this.commands.push(command)
    if (this.#dry) return
    try {
      act()
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      const denied = code === 'EACCES' || code === 'EPERM' || (code === 'EROFS' && !isRoot())
      throw this.#failure(
        denied ? 'ERR_VMRING_DEVICE_PERMISSION' : 'ERR_VMRING_DEVICE',
        denied
          ? `no permission to write ${path}; binding needs root: run it with sudo`
          : `${path}: ${message}`,
        error,
      )
    }
  }

  #failure(code: ErrorCode, message: string, cause?: unknown): VmringError {
    const { address } = this.#device
    return new VmringError(code, `${address}: ${message}`, { address, cause })
  }
}

function isRoot(): boolean {
  return process.geteuid?.() === 0
}

function loaded(roots: Roots, module: string): boolean {
  // a driver that is built in shows itself as a driver, and as a module only when it has parameters
  const driver = module === VFIO && existsSync(join(roots.sys, 'bus/pci/drivers', VFIO))
  return driver || existsSync(join(roots.sys, 'module', module.replaceAll('-', '_')))
}

function refuseBusy(roots: Roots, device: SysfsDevice): void {
  const pid = ownerOf(roots, device)
  if (pid === null) return
  throw new VmringError(
    'ERR_VMRING_DEVICE_BUSY',
    `${describeDevice(device)} is in use by process ${pid}; end that first: \`kill ${pid}\``,
    { address: device.address, details: { pid } },
  )
}

function accessText(address: string, path: string): string[] {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat === undefined) return [`${path} does not exist: see \`vmring doctor\``]
  const mode = (stat.mode & 0o777).toString(8).padStart(4, '0')
  const who = `${path}: user ${stat.uid}, group ${stat.gid}, mode ${mode}`
  if ((stat.mode & 0o060) === 0o060 && stat.gid !== 0) return [who]
  return [
    who,
    `  to let a group open it: vmring bind ${address} --group GROUP    (or chown USER ${path}, until the next boot)`,
  ]
}

function print(result: BindResult, flags: BindFlags): void {
  const { text, ...rest } = result
  if (flags.json) printJson(rest)
  else process.stdout.write(`${text}\n`)
}
