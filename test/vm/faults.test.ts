// Guests in which a device cannot be used: each reason has a name of its own.
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Finding } from '../../src/cli/finding.js'
import { Bed, type Guest } from '../../src/vm/index.js'
import { sparseFile } from './hub.js'
import { compile, probeDevices } from './programs.js'
import { cli, MiB, setDriver } from './ring.js'

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

/** What attach() says, through `vmring cat`. */
async function refusal(guest: Guest, address: string, ...before: string[]): Promise<string> {
  const { code, stderr } = await guest.start([...before, ...cli, 'cat', '-r', `pci:${address}`, 'x']).done
  expect(code).not.toBe(0)
  return stderr
}

/** The codes in what `vmring doctor` finds. */
async function diagnosis(guest: Guest, env: Record<string, string> = {}): Promise<string[]> {
  const { stdout } = await guest.start([...cli, 'doctor', '--json'], { env }).done
  return (JSON.parse(stdout) as Finding[]).flatMap(({ code }) => code ?? [])
}

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
    const said = await refusal(guest, device!.address)
    expect(said).toContain('ERR_VMRING_LOCKDOWN')
    expect(said).toContain(`vmring bind ${device!.address}`)
    expect(await refusal(guest, '77:00.0')).toContain('ERR_VMRING_DEVICE_ABSENT')
    expect(await refusal(guest, '0000:00:00.0')).toContain('ERR_VMRING_DEVICE_TYPE')
    await guest.powerOff()
  }, 400_000)

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
    const said = await Promise.all(addresses.map((address) => refusal(guest, address)))
    expect(said.filter((text) => text.includes('ERR_VMRING_INTERRUPT_REMAPPING'))).toHaveLength(1)
    expect(said.filter((text) => text.includes('ERR_VMRING_DEVICE_GROUP'))).toHaveLength(1)
    expect(said.join()).toContain('virtio-pci')
    const unprivileged = ['setpriv', '--reuid=65534', '--clear-groups']
    expect(await refusal(guest, addresses[0]!, ...unprivileged)).toContain('ERR_VMRING_DEVICE_PERMISSION')
    await setDriver(guest, addresses[0]!, '')
    expect(await refusal(guest, addresses[0]!, ...unprivileged)).toContain('ERR_VMRING_DEVICE_PERMISSION')
    await setDriver(guest, addresses[0]!, 'vfio-pci')
    await guest.sh('echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts')
    const opened = await Promise.all(
      addresses.map((address) => probeDevices(guest, program, 'open', address)),
    )
    expect(opened.flat().filter((probe) => probe.vectors === 0)).toHaveLength(1)
    await guest.powerOff()
  }, 400_000)

  it('with a kernel that has no vfio, with another driver, and without any', async () => {
    const guest = await bed.boot({ devices: [{ kind: 'plain', id: 'iv0', file, size: MiB }], modules: [] })
    const [device] = await probeDevices(guest, program, 'list')
    expect(await probeDevices(guest, program, 'open', device!.address)).toEqual([
      expect.objectContaining({ fault: expect.stringContaining('no vfio') }),
    ])
    expect((await probeDevices(guest, program, 'sysfs', device!.address))[0]).toMatchObject({ memory: MiB })
    const { address } = device!
    await guest.sh(`modprobe pci-stub; d=/sys/bus/pci/devices/${address}
      echo pci-stub > $d/driver_override; echo ${address} > /sys/bus/pci/drivers_probe`)
    expect(await refusal(guest, address)).toMatch(/driver pci-stub has[\s\S]*ERR_VMRING_DEVICE_DRIVER/)
    expect(await diagnosis(guest)).toContain('ERR_VMRING_DEVICE_DRIVER')
    await guest.unplug('iv0')
    expect(await refusal(guest, address)).toContain('ERR_VMRING_DEVICE_ABSENT')
    const env = { VMRING_REGION: `pci:${address}` }
    expect(await diagnosis(guest, env)).toContain('ERR_VMRING_DEVICE_ABSENT')
    const unnamed = await guest.start([...cli, 'cat', 'x']).done
    expect(unnamed.stderr).toContain('ERR_VMRING_NO_REGION')
    await guest.powerOff()
  }, 400_000)
})
