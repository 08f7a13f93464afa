import { describe, expect, it } from 'vitest'
import { examineGuest, type GuestOptions } from '../../src/cli/doctor-guest.js'
import type { NativeBinding } from '../../src/native/types.js'
import { slowMemory } from '../../src/peer/device-words.js'
import { FakeSystem } from '../support/sysfs.js'

const A = '0000:01:00.0'
const B = '0000:02:00.0'

function examine(fake: FakeSystem, options: Partial<GuestOptions> = {}) {
  const { findings } = examineGuest(fake.roots, { native: null, arch: 'x64', ...options })
  for (const { status, fix, code, message } of findings) {
    // everything wrong comes with its cure
    if (status === 'wrong') expect([fix, message]).toEqual([expect.stringMatching(/./), message])
    if (status === 'ok') expect([fix, code]).toEqual([undefined, undefined])
  }
  const of = (check: string) => findings.find((finding) => finding.check === check)
  const wrong = findings.filter(({ status }) => status === 'wrong').map(({ code, check }) => code ?? check)
  return { findings, of, wrong }
}

const ready = () => new FakeSystem({ [A]: { group: '7', driver: 'vfio-pci' } })

describe('vmring doctor in a guest', () => {
  it('without a device: one line, and nothing wrong', () => {
    const { findings, wrong } = examine(new FakeSystem({ [A]: { id: ['0x8086', '0x1000'] } }))
    expect(findings).toHaveLength(1)
    expect(wrong).toEqual([])
    expect(examine(new FakeSystem(), { region: `pci:${A}` }).wrong).toEqual(['ERR_VMRING_DEVICE_ABSENT'])
  })

  it('ready: everything is said, nothing is wrong', () => {
    const { findings, wrong } = examine(ready())
    expect(wrong).toEqual([])
    expect(findings.map(({ check }) => check)).toEqual(
      'device,BAR 2,driver,vfio,IOMMU,group,permission,lockdown,caching,memory'.split(','),
    )
  })

  it('a plain device needs neither driver nor IOMMU', () => {
    const { findings, wrong } = examine(new FakeSystem({ [A]: { plain: true } }))
    expect(wrong).toEqual([])
    expect(findings.map(({ check }) => check)).toEqual(
      'device,BAR 2,driver,permission,lockdown,caching,memory'.split(','),
    )
  })

  it('several devices', () => {
    const two = new FakeSystem({ [A]: { plain: true }, [B]: { plain: true } })
    const { wrong, of } = examine(two)
    expect(wrong).toEqual(['ERR_VMRING_SEVERAL_DEVICES'])
    expect(of('device')!.fix).toContain(`VMRING_REGION=pci:${A}`)
    expect(examine(two, { region: `pci:${B}` }).wrong).toEqual([])
    expect(examine(two, { region: 'pci:0000:09:00.0' }).wrong).toEqual(['ERR_VMRING_DEVICE_ABSENT'])
  })

  it('no driver: it works by polling, and `vmring bind` is named; another driver is wrong', () => {
    const none = examine(new FakeSystem({ [A]: { group: '7' } }))
    expect(none.wrong).toEqual([])
    expect(none.of('driver')).toMatchObject({ status: 'note', fix: `sudo vmring bind ${A}` })
    expect(none.of('vfio')).toMatchObject({
      status: 'note',
      fix: expect.stringContaining('modprobe -a vfio-pci'),
    })
    const other = new FakeSystem({ [A]: { group: '7', driver: 'uio_pci_generic' } })
    expect(examine(other).wrong).toContain('ERR_VMRING_DEVICE_DRIVER')
  })

  it('a kernel without vfio', () => {
    const fake = new FakeSystem({ [A]: { group: '7' } })
    fake.file('modules/6.1.0-test/modules.dep', 'kernel/other.ko:\n')
    const { of } = examine(fake)
    expect(of('vfio')).toMatchObject({
      code: 'ERR_VMRING_NO_VFIO',
      message: expect.stringContaining('6.1.0-test'),
    })
    expect(of('vfio')!.fix).toContain('CONFIG_VFIO_PCI')
  })

  it.each([
    ['no IOMMU at all', {}, 'x64', '-device intel-iommu,intremap=on'],
    ['an Intel one that is off', { 'sys/firmware/acpi/tables/DMAR': '' }, 'x64', 'intel_iommu=on'],
    [
      'one of AMD that is off',
      { 'sys/firmware/acpi/tables/IVRS': '', 'proc/cmdline': 'amd_iommu=off' },
      'x64',
      'take out amd_iommu=off',
    ],
    ['arm64', {}, 'arm64', 'iommu=smmuv3'],
  ])('%s', (_name, files, arch, fix) => {
    const fake = new FakeSystem({ [A]: {} })
    for (const [name, text] of Object.entries(files)) fake.file(name, text)
    const { of } = examine(fake, { arch })
    expect(of('IOMMU')).toMatchObject({ status: 'note', code: 'ERR_VMRING_NO_IOMMU' })
    expect(of('IOMMU')!.fix).toContain(fix)
  })

  it('an IOMMU that does not remap interrupts', () => {
    const fake = ready()
    fake.file('sys/class/iommu/dmar0/intel-iommu/ecap', 'f00f5a\n')
    expect(examine(fake).wrong).toEqual([])
    fake.file('sys/class/iommu/dmar0/intel-iommu/ecap', 'f00f42\n')
    expect(examine(fake).wrong).toEqual(['ERR_VMRING_INTERRUPT_REMAPPING'])
    fake.file('sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts', 'Y\n')
    expect(examine(fake).wrong).toEqual([])
  })

  it('a group that is not viable', () => {
    const fake = new FakeSystem({
      [A]: { group: '7', driver: 'vfio-pci' },
      '0000:00:1c.0': { id: ['0x1b36', '0x000c'], group: '7', driver: 'pcieport' },
    })
    expect(examine(fake).wrong).toEqual([])
    fake.device('0000:01:01.0', { id: ['0x8086', '0x100e'], group: '7', driver: 'e1000' })
    const { wrong, of } = examine(fake)
    expect(wrong).toEqual(['ERR_VMRING_DEVICE_GROUP'])
    expect(of('group')).toMatchObject({ message: expect.stringContaining('0000:01:01.0 (e1000)') })
    expect(of('group')!.fix).toContain('pcie-root-port')
  })

  it('lockdown is in the way of sysfs, not of vfio', () => {
    const polled = new FakeSystem({ [A]: { group: '7' } })
    polled.file('sys/kernel/security/lockdown', 'none [integrity] confidentiality\n')
    expect(examine(polled).wrong).toEqual(['ERR_VMRING_LOCKDOWN'])
    const bound = ready()
    bound.file('sys/kernel/security/lockdown', 'none [integrity] confidentiality\n')
    expect(examine(bound).wrong).toEqual([])
  })

  it('a device that is too small, and the file of the group missing', () => {
    expect(examine(new FakeSystem({ [A]: { plain: true, size: 1 << 16 } })).wrong).toEqual([
      'ERR_VMRING_REGION_SIZE',
    ])
    const fake = ready()
    const { roots } = fake
    const { findings } = examineGuest({ ...roots, dev: `${roots.dev}/other` }, { native: null })
    expect(findings.find(({ check }) => check === 'permission')).toMatchObject({ status: 'wrong' })
  })

  it('no permission', () => {
    const bound = ready()
    const not = (part: string) => ({ mayOpen: (path: string) => !path.endsWith(part) })
    const group = examine(bound, not('vfio/7'))
    expect(group.wrong).toEqual(['ERR_VMRING_DEVICE_PERMISSION'])
    expect(group.of('permission')!.fix).toBe(`sudo vmring bind ${A} --group GROUP`)
    expect(examine(bound, not('vfio/vfio')).of('permission')!.fix).toContain('chmod 0666')
    const polled = examine(new FakeSystem({ [A]: { plain: true } }), not('resource2'))
    expect(polled.wrong).toEqual(['ERR_VMRING_DEVICE_PERMISSION'])
    expect(polled.of('permission')!.fix).toContain('chown')
  })

  it('a process that maps resource2_wc', () => {
    const fake = ready()
    fake.file('proc/4711/maps', `7f00-7f01 rw-s 00000000 00:12 1 /sys/devices/pci0000:00/${A}/resource2_wc\n`)
    expect(examine(fake).wrong).toEqual(['caching'])
  })

  it('a device that another process has is left alone', () => {
    const fake = ready()
    fake.link('proc/4711/fd/5', `${fake.roots.dev}/vfio/7`)
    const native = {} as NativeBinding // any use of it would throw
    const { of, wrong } = examine(fake, { native })
    expect(of('in use')).toMatchObject({ message: expect.stringContaining('4711') })
    expect(wrong).toEqual([])
  })
})

describe('the memory of a device that nobody has', () => {
  interface Shape {
    blank?: boolean
    plain?: boolean
    peers?: (number | null)[]
    error?: string
    slow?: boolean
    position?: number
  }

  function binding({
    blank = false,
    plain = false,
    peers = [3, null],
    error,
    slow = false,
    position = 3,
  }: Shape) {
    let closed = 0
    const close = () => void closed++
    const open = () => {
      if (error !== undefined) throw Object.assign(new Error(`it says ${error}`), { code: error })
      const readEntry = (section: number) => {
        const peerId = peers[section] ?? null
        return { state: peerId === null ? 0 : 2, peerId: peerId ?? 0 }
      }
      const geometry = () => ({ sections: peers.length, sectionSize: 1 << 20, plain })
      const region = { blank, geometry, readEntry, close }
      return { region, close, position, slow, readSpeed: slow ? 5e7 : 5e9, kind: 'vfio' }
    }
    const native = { Device: { openVfio: open, openSysfs: open } } as unknown as NativeBinding
    return { native, closed: () => closed }
  }

  it('the section of this guest, and everything is closed again', () => {
    const { native, closed } = binding({})
    const { of, wrong } = examine(ready(), { native })
    expect(wrong).toEqual([])
    expect(of('section')).toMatchObject({ status: 'ok', message: expect.stringContaining('peer 3') })
    expect(of('read speed')).toMatchObject({ status: 'ok', message: expect.stringContaining('5.0 GB/s') })
    expect(closed()).toBe(2)
  })

  it.each<[string, Shape, string[], string]>([
    ['full', { peers: [1, 2] }, ['ERR_VMRING_TOO_MANY_PEERS'], '--sections 4'],
    ['plain and full', { plain: true, peers: [1, 2] }, ['ERR_VMRING_TOO_MANY_PEERS'], '--release'],
    ['plain and free', { plain: true }, [], ''],
    ['the daemon is another', { peers: [1, null] }, ['section'], 'device_add'],
    ['blank', { blank: true }, [], 'vmring host'],
    ['another version', { error: 'ERR_VMRING_REGION_VERSION' }, ['ERR_VMRING_REGION_VERSION'], 'vmring host'],
    [
      'in use by nobody we can see',
      { error: 'ERR_VMRING_DEVICE_BUSY' },
      ['ERR_VMRING_DEVICE_BUSY'],
      'one process',
    ],
  ])('%s', (_name, shape, expected, fix) => {
    const { native } = binding(shape)
    const { wrong, findings } = examine(ready(), { native })
    expect(wrong).toEqual(expected)
    if (fix !== '') expect(findings.map((finding) => finding.fix ?? '').join()).toContain(fix)
  })

  it('slow memory is reported, in the words of attach()', () => {
    const { native } = binding({ slow: true })
    const said = slowMemory({ readSpeed: 5e7, kind: 'vfio' })
    expect(examine(ready(), { native }).of('read speed')).toEqual({
      check: 'read speed',
      status: 'note',
      ...said,
    })
    expect(said.message).toContain('50 MB/s')
  })

  it('is not opened unless asked for', () => {
    const { of, wrong } = examine(ready(), { native: null })
    expect(of('memory')).toMatchObject({ status: 'note', fix: 'vmring doctor --open' })
    expect(of('read speed')).toBeUndefined()
    expect(wrong).toEqual([])
  })
})
