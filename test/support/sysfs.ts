// A made-up /sys, /dev, /proc and /lib/modules in a temporary folder, and hands that do to it what a kernel would do.
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { onTestFinished } from 'vitest'
import type { Hands } from '../../src/cli/bind.js'
import type { Roots } from '../../src/cli/sysfs.js'

export interface FakeDevice {
  /** default an ivshmem device */
  id?: [vendor: string, device: string]
  driver?: string
  group?: string
  size?: number
  plain?: boolean
}

export class FakeSystem {
  readonly root = mkdtempSync(join(tmpdir(), 'vmring-sys-'))
  readonly roots: Roots
  /** what was done, in order */
  readonly done: string[] = []
  /** the drivers that modprobe finds */
  modules = ['vfio-pci', 'vfio_iommu_type1']

  constructor(devices: Record<string, FakeDevice> = {}) {
    const at = (name: string) => join(this.root, name)
    this.roots = { sys: at('sys'), dev: at('dev'), proc: at('proc'), modules: at('modules') }
    onTestFinished(() => rmSync(this.root, { recursive: true, force: true }))
    this.file('proc/sys/kernel/osrelease', '6.1.0-test\n')
    this.file('proc/cmdline', 'quiet intel_iommu=on\n')
    this.file('modules/6.1.0-test/modules.dep', 'kernel/vfio-pci.ko:\nkernel/vfio_iommu_type1.ko:\n')
    this.file('dev/vfio/vfio', '')
    this.file('sys/bus/pci/drivers_probe', '')
    for (const [address, device] of Object.entries(devices)) this.device(address, device)
  }

  file(name: string, text: string): void {
    mkdirSync(dirname(join(this.root, name)), { recursive: true })
    writeFileSync(join(this.root, name), text)
  }

  link(name: string, target: string): void {
    const path = join(this.root, name)
    mkdirSync(dirname(path), { recursive: true })
    rmSync(path, { force: true })
    symlinkSync(target, path)
  }

  device(address: string, { id, driver, group, size = 1 << 26, plain }: FakeDevice): void {
    const folder = `sys/bus/pci/devices/${address}`
    const bar = (start: number, length: number) =>
      length === 0 ? '0x0 0x0 0x0' : `0x${start.toString(16)} 0x${(start + length - 1).toString(16)} 0x0`
    this.file(`${folder}/vendor`, `${id?.[0] ?? '0x1af4'}\n`)
    this.file(`${folder}/device`, `${id?.[1] ?? '0x1110'}\n`)
    const bars = [bar(0xfe000000, 256), bar(0xfe001000, plain ? 0 : 4096), bar(0xe0000000, size)]
    this.file(`${folder}/resource`, `${bars.join('\n')}\n`)
    this.file(`${folder}/resource0`, '')
    this.file(`${folder}/resource2`, '')
    this.file(`${folder}/driver_override`, '(null)\n')
    if (group !== undefined) {
      this.link(`${folder}/iommu_group`, `../../../kernel/iommu_groups/${group}`)
      this.file(`sys/kernel/iommu_groups/${group}/devices/${address}`, '')
    }
    if (driver !== undefined) this.bind(address, driver)
  }

  load(module: string): void {
    this.file(`sys/module/${module.replaceAll('-', '_')}/refcnt`, '0')
    if (module === 'vfio-pci') this.file('sys/bus/pci/drivers/vfio-pci/bind', '')
  }

  bind(address: string, driver: string): void {
    const folder = `sys/bus/pci/devices/${address}`
    this.file(`sys/bus/pci/drivers/${driver}/unbind`, '')
    this.link(`${folder}/driver`, `../../drivers/${driver}`)
    if (driver !== 'vfio-pci') return
    for (const module of this.modules) this.load(module)
    this.file(`${folder}/driver_override`, 'vfio-pci\n')
    this.file(`dev/vfio/${basename(readlinkSync(join(this.root, folder, 'iommu_group')))}`, '')
  }

  read(name: string): string {
    try {
      return readFileSync(join(this.root, name), 'utf8').trim()
    } catch {
      return ''
    }
  }

  readonly hands: Hands = {
    write: (path, text) => {
      this.done.push(`${path.slice(this.root.length)} = ${text.trim()}`)
      if (path.endsWith('/driver/unbind')) rmSync(dirname(path))
      else writeFileSync(path, text)
      if (!path.endsWith('/drivers_probe')) return
      const folder = `sys/bus/pci/devices/${text}`
      if (this.read(`${folder}/driver_override`) === 'vfio-pci') this.bind(text, 'vfio-pci')
    },
    modprobe: (modules) => {
      this.done.push(`modprobe ${modules.join(' ')}`)
      const missing = modules.find((module) => !this.modules.includes(module))
      if (missing !== undefined) return { ok: false, said: `FATAL: Module ${missing} not found` }
      for (const module of modules) this.load(module)
      return { ok: true, said: '' }
    },
    give: (path, gid) => {
      this.done.push(`${path.slice(this.root.length)} to ${gid}`)
    },
  }
}
