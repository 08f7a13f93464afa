// Which way a device is opened depends on its driver; what attach() and `vmring doctor` say about another driver is the same.
import { expect, it } from 'vitest'
import { examineGuest } from '../../src/cli/doctor-guest.js'
import { listDevices } from '../../src/cli/sysfs.js'
import type { DeviceConstructor, NativeDevice } from '../../src/native/types.js'
import { openDevice } from '../../src/peer/device.js'
import { silentDevice, slowMemory } from '../../src/peer/device-words.js'
import { type FakeDevice, FakeSystem } from '../support/sysfs.js'

const A = '0000:01:00.0'
const B = '0000:02:00.0'

/** The addon as openDevice() sees it, over a made-up /sys; what is opened is written down. */
function over(fake: FakeSystem) {
  const opened: string[] = []
  const open = (kind: 'vfio' | 'sysfs') => (address: string) => {
    opened.push(`${kind} ${address}`)
    return { address, kind, slow: false } as NativeDevice
  }
  const list = () =>
    listDevices(fake.roots).map(({ group, ...device }) => ({
      ...device,
      iommuGroup: Number(group ?? -1),
      revision: 1,
    }))
  const devices: DeviceConstructor = { list, openVfio: open('vfio'), openSysfs: open('sysfs') }
  return { devices, opened }
}

it('vfio-pci when that has the device, sysfs when nobody has', () => {
  const { devices, opened } = over(
    new FakeSystem({ [A]: { group: '7', driver: 'vfio-pci' }, [B]: { plain: true } }),
  )
  openDevice(A, devices)
  openDevice(B, devices)
  openDevice('0000:09:00.0', devices) // not there: opening says so
  expect(opened).toEqual([`vfio ${A}`, `sysfs ${B}`, 'sysfs 0000:09:00.0'])
})

it.each<[string, FakeDevice, string]>([
  ['doorbell', { group: '7', driver: 'uio_pci_generic' }, `sudo vmring bind ${A}`],
  ['plain', { plain: true, driver: 'uio_ivshmem' }, `sudo vmring unbind ${A}`],
])('another driver has it (%s): ERR_VMRING_DEVICE_DRIVER, in the words of doctor', (_kind, device, cure) => {
  const fake = new FakeSystem({ [A]: device })
  const { devices, opened } = over(fake)
  let error: Error | undefined
  try {
    openDevice(A, devices)
  } catch (thrown) {
    error = thrown as Error
  }
  expect(error).toMatchObject({ code: 'ERR_VMRING_DEVICE_DRIVER', address: A, driver: device.driver })
  expect(error!.message).toContain(device.driver)
  expect(error!.message).toContain(cure)
  expect(opened).toEqual([])
  const { findings } = examineGuest(fake.roots, { native: null, arch: 'x64' })
  const said = findings.find(({ check }) => check === 'driver')!
  expect(said).toMatchObject({ status: 'wrong', code: 'ERR_VMRING_DEVICE_DRIVER', fix: cure })
  expect(error!.message).toContain(said.message)
})

it('slow memory is warned of once', async () => {
  const { devices } = over(new FakeSystem({ [A]: { plain: true } }))
  const slow = { address: A, kind: 'sysfs', slow: true, readSpeed: 4e7 } as NativeDevice
  const warned = new Promise<Error>((resolve) => process.once('warning', resolve))
  for (let i = 0; i < 2; i++) openDevice(A, { ...devices, openSysfs: () => slow })
  const { message, fix } = slowMemory(slow)
  expect(await warned).toMatchObject({
    code: 'VMRING_SLOW_MEMORY',
    message: `${A} is read at ${message}`,
    detail: fix,
  })
  let more = 0
  process.on('warning', () => more++)
  openDevice(A, { ...devices, openSysfs: () => slow })
  await new Promise((resolve) => setImmediate(resolve))
  expect(more).toBe(0)
})

it('a device whose interrupts do not arrive is warned of', async () => {
  const { devices } = over(new FakeSystem({ [A]: {} }))
  const silent = { address: A, kind: 'sysfs', slow: false, silent: true } as NativeDevice
  const warned = new Promise<Error>((resolve) => process.once('warning', resolve))
  openDevice(A, { ...devices, openSysfs: () => silent })
  expect(await warned).toMatchObject({
    code: 'VMRING_NO_INTERRUPTS',
    message: `${A}: ${silentDevice(A).message}`,
    detail: expect.stringContaining(`/sys/bus/pci/devices/${A}/config`),
  })
})
