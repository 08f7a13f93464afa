// Guests in which a device cannot be used: each reason has a name of its own.
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Bed } from './bed/index.js'
import { sparseFile } from './hub.js'
import { compile, probeDevices } from './programs.js'

const MiB = 1 << 20

let bed: Bed
let program: string
let file: string

beforeAll(async () => {
  bed = await Bed.open()
  program = await compile('device_probe.cc', bed.folder)
  file = join(bed.folder, 'memory')
  sparseFile(file, MiB)
}, 120_000)

afterAll(() => bed?.close(), 30_000)

describe('a device that cannot be used', () => {
  it('without an IOMMU, and under kernel lockdown', async () => {
    const guest = await bed.boot({
      devices: [{ kind: 'plain', id: 'iv0', file, size: MiB }],
      iommu: false,
      append: 'lockdown=integrity',
    })
    const [device] = await probeDevices(guest, program, 'list')
    expect(device!.group).toBe(-1)
    expect(await probeDevices(guest, program, 'open', device!.address)).toEqual([
      expect.objectContaining({ fault: 'in no IOMMU group' }),
    ])
    expect(await probeDevices(guest, program, 'sysfs', device!.address)).toEqual([
      expect.objectContaining({ fault: 'refused by kernel lockdown' }),
    ])
    await guest.powerOff()
  }, 180_000)

  it('without interrupt remapping, and in a group that is not viable', async () => {
    const second = join(bed.folder, 'second')
    sparseFile(second, MiB)
    const guest = await bed.boot({
      devices: [{ kind: 'plain', id: 'iv0', file, size: MiB }],
      iommu: 'no-remap',
      // behind a conventional bridge all devices are in one group
      qemu: [
        ...['-device', 'pcie-pci-bridge,id=bridge,bus=pcie.0'],
        ...['-object', `memory-backend-file,id=second,size=1M,share=on,mem-path=${second}`],
        ...['-device', 'ivshmem-plain,memdev=second,bus=bridge,addr=1'],
        ...['-device', 'virtio-rng-pci,bus=bridge,addr=2'],
      ],
    })
    const addresses = await guest.bindVfio()
    const faults = await Promise.all(
      addresses.map((address) => probeDevices(guest, program, 'open', address)),
    )
    const byFault = Object.fromEntries(faults.flat().map((probe) => [probe.fault, probe]))
    expect(Object.keys(byFault).sort()).toEqual([
      'the IOMMU does not remap interrupts',
      'the IOMMU group is not viable',
    ])
    expect(byFault['the IOMMU group is not viable']!.detail).toMatch(/virtio-pci/)
    await guest.sh('echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts')
    const opened = await Promise.all(
      addresses.map((address) => probeDevices(guest, program, 'open', address)),
    )
    expect(opened.flat().filter((probe) => probe.vectors === 0)).toHaveLength(1)
    await guest.powerOff()
  }, 180_000)

  it('with a kernel that has no vfio', async () => {
    const guest = await bed.boot({ devices: [{ kind: 'plain', id: 'iv0', file, size: MiB }], modules: [] })
    const [device] = await probeDevices(guest, program, 'list')
    expect(await probeDevices(guest, program, 'open', device!.address)).toEqual([
      expect.objectContaining({ fault: expect.stringContaining('no vfio') }),
    ])
    expect((await probeDevices(guest, program, 'sysfs', device!.address))[0]).toMatchObject({ memory: MiB })
    await guest.powerOff()
  }, 180_000)
})
