import { describe, expect, it } from 'vitest'
import { bind, unbind } from '../../src/cli/bind.js'
import { FakeSystem } from '../support/sysfs.js'

const A = '0000:01:00.0'
const B = '0000:02:00.0'
const folder = `/sys/bus/pci/devices/${A}`

describe('vmring bind', () => {
  it('loads the modules, overrides, probes; the second time it does nothing', () => {
    const fake = new FakeSystem({ [A]: { group: '7' } })
    const result = bind(fake.roots, fake.hands, undefined, {})
    expect(fake.done).toEqual([
      'modprobe vfio-pci vfio_iommu_type1',
      `${folder}/driver_override = vfio-pci`,
      `/sys/bus/pci/drivers_probe = ${A}`,
    ])
    expect(result).toMatchObject({ address: A, driver: 'vfio-pci', changed: true, iommuGroup: '7' })
    expect(result.path).toBe(`${fake.roots.dev}/vfio/7`)
    expect(result.text).toContain('--group GROUP')
    fake.done.length = 0
    const again = bind(fake.roots, fake.hands, 'pci:01:00.0', {})
    expect(again).toMatchObject({ changed: false, commands: [] })
    expect(again.text).toContain('already')
    expect(fake.done).toEqual([])
  })

  it('takes the device from another driver first', () => {
    const fake = new FakeSystem({ [A]: { group: '7', driver: 'uio_pci_generic' } })
    fake.load('vfio-pci')
    fake.load('vfio_iommu_type1')
    bind(fake.roots, fake.hands, A, {})
    expect(fake.done).toEqual([
      `${folder}/driver_override = vfio-pci`,
      `${folder}/driver/unbind = ${A}`,
      `/sys/bus/pci/drivers_probe = ${A}`,
    ])
  })

  it('gives the group file to a group', () => {
    const fake = new FakeSystem({ [A]: { group: '7', driver: 'vfio-pci' } })
    const result = bind(fake.roots, fake.hands, undefined, { group: '1234' })
    expect(fake.done).toEqual(['/dev/vfio/7 to 1234'])
    expect(result.commands).toEqual([
      `chgrp 1234 ${fake.roots.dev}/vfio/7 && chmod 0660 ${fake.roots.dev}/vfio/7`,
    ])
    expect(() => bind(fake.roots, fake.hands, undefined, { group: 'no such group' })).toThrow(/no group/)
  })

  it('--dry-run prints what a shell would do, and does nothing', () => {
    const fake = new FakeSystem({ [A]: { group: '7' } })
    const { text, changed } = bind(fake.roots, fake.hands, undefined, { dryRun: true })
    expect(text.split('\n')).toEqual([
      'modprobe -a vfio-pci vfio_iommu_type1',
      `echo vfio-pci > ${fake.root}${folder}/driver_override`,
      `echo ${A} > ${fake.roots.sys}/bus/pci/drivers_probe`,
    ])
    expect(changed).toBe(false)
    expect(fake.done).toEqual([])
  })

  it('says which device, when there is none, another, or several', () => {
    const none = new FakeSystem({ [A]: { id: ['0x8086', '0x1000'] } })
    const fails = (fake: FakeSystem, named?: string) => {
      try {
        bind(fake.roots, fake.hands, named, {})
      } catch (error) {
        return `${(error as { code: string }).code} ${(error as Error).message}`
      }
      return 'no error'
    }
    expect(fails(none)).toContain('ERR_VMRING_DEVICE_ABSENT')
    expect(fails(none, B)).toContain('ERR_VMRING_DEVICE_ABSENT')
    expect(fails(none, A)).toContain('ERR_VMRING_DEVICE_TYPE')
    expect(fails(none, '../../../etc')).toContain('ERR_VMRING_ARGUMENT')
    const two = new FakeSystem({ [A]: { group: '7' }, [B]: { group: '8', plain: true, size: 1 << 22 } })
    const said = fails(two)
    expect(said).toContain('ERR_VMRING_SEVERAL_DEVICES')
    expect(said).toContain(`${A} (ivshmem-doorbell, 64 MiB, no driver)`)
    expect(said).toContain(`${B} (ivshmem-plain, 4 MiB, no driver)`)
    expect(fails(two, B)).toBe('no error')
  })

  it('says what is in the way: no IOMMU, no vfio in the kernel, a kernel that refuses, a process', () => {
    const code = (fake: FakeSystem) => {
      try {
        bind(fake.roots, fake.hands, undefined, {})
      } catch (error) {
        return (error as { code: string }).code
      }
      return null
    }
    const alone = new FakeSystem({ [A]: {} })
    expect(code(alone)).toBe('ERR_VMRING_NO_IOMMU')
    expect(alone.done).toEqual([])

    const small = new FakeSystem({ [A]: { group: '7' } })
    small.modules = []
    expect(code(small)).toBe(
      process.geteuid?.() === 0 ? 'ERR_VMRING_NO_VFIO' : 'ERR_VMRING_DEVICE_PERMISSION',
    )

    const stubborn = new FakeSystem({ [A]: { group: '7' } })
    expect(() => bind(stubborn.roots, { ...stubborn.hands, write: () => {} }, undefined, {})).toThrow(
      expect.objectContaining({ code: 'ERR_VMRING_DEVICE' }),
    )

    const denied = Object.assign(new Error('EACCES'), { code: 'EACCES' })
    const write = () => {
      throw denied
    }
    expect(() => bind(stubborn.roots, { ...stubborn.hands, write }, undefined, {})).toThrow(
      expect.objectContaining({ code: 'ERR_VMRING_DEVICE_PERMISSION', cause: denied }),
    )

    const busy = new FakeSystem({ [A]: { group: '7' } })
    busy.link('proc/4711/fd/5', `${busy.root}${folder}/resource2`)
    expect(() => bind(busy.roots, busy.hands, undefined, {})).toThrow(
      expect.objectContaining({ code: 'ERR_VMRING_DEVICE_BUSY', pid: 4711 }),
    )
    expect(busy.done).toEqual([])
  })
})

describe('vmring unbind', () => {
  it('clears the override and takes the driver away; the second time it does nothing', () => {
    const fake = new FakeSystem({ [A]: { group: '7', driver: 'vfio-pci' } })
    const result = unbind(fake.roots, fake.hands, undefined, {})
    expect(fake.done).toEqual([`${folder}/driver_override = `, `${folder}/driver/unbind = ${A}`])
    expect(result).toMatchObject({ driver: '', changed: true })
    fake.done.length = 0
    expect(unbind(fake.roots, fake.hands, undefined, {}).changed).toBe(false)
    expect(fake.done).toEqual([])
    expect(bind(fake.roots, fake.hands, undefined, {})).toMatchObject({ driver: 'vfio-pci' })
  })

  it('does not hang on a process that has the device: it names it', () => {
    const fake = new FakeSystem({ [A]: { group: '7', driver: 'vfio-pci' } })
    fake.link('proc/4711/fd/5', `${fake.roots.dev}/vfio/7`)
    expect(() => unbind(fake.roots, fake.hands, undefined, {})).toThrow(
      expect.objectContaining({ code: 'ERR_VMRING_DEVICE_BUSY', pid: 4711 }),
    )
    expect(fake.done).toEqual([])
  })
})
