// What can be wrong with a guest, and that `vmring doctor` names each with its code and its cure.
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Finding } from '../../src/cli/finding.js'
import { native } from '../../src/native/binding.js'
import { Bed, type Guest } from '../../src/vm/index.js'
import { sparseFile } from './hub.js'
import { cli, Daemon, MiB, setDriver } from './ring.js'

let bed: Bed
let daemon: Daemon

beforeAll(async () => {
  bed = await Bed.open()
  daemon = await Daemon.start(join(bed.folder, 'host'), '--size', '1M', '--sections', '2')
})

afterAll(async () => {
  await bed?.close()
  await daemon?.[Symbol.asyncDispose]()
}, 30_000)

/** The findings, by device. */
async function doctor(guest: Guest, ...before: string[]): Promise<Map<string, Finding[]>> {
  const argv = [...before, ...cli, 'doctor', '--open', '--json']
  const { stdout } = await guest.start(argv, { timeout: 150_000 }).done
  const byDevice = new Map<string, Finding[]>()
  let current: Finding[] = []
  for (const finding of JSON.parse(stdout) as Finding[]) {
    if (finding.status === 'wrong') expect(finding.fix, finding.message).toBeTruthy()
    const address = finding.check === 'device' ? /^(\S+) \(ivshmem/.exec(finding.message)?.[1] : undefined
    if (address !== undefined) {
      current = []
      byDevice.set(address, current)
    }
    current.push(finding)
  }
  return byDevice
}

function codes(findings: Finding[] | undefined): string[] {
  return (findings ?? []).flatMap(({ code }) => code ?? [])
}

/** A formatted file of 4 MiB, after `change`. */
function region(
  name: string,
  change: (bytes: Buffer) => Buffer,
): { kind: 'plain'; id: string; file: string; size: number } {
  const file = join(bed.folder, name)
  execFileSync(cli[0]!, [cli[1]!, 'format', file, '--size', '4M', '--sections', '2'])
  const bytes = change(readFileSync(file))
  writeFileSync(file, bytes)
  return { kind: 'plain', id: name, file, size: bytes.length }
}

it('memory that is no region, of another version, cut off, or full', async () => {
  const same = (bytes: Buffer) => bytes
  const full = region('full', same)
  const members = [native.Region.open(full.file), native.Region.open(full.file)]
  for (const member of members) expect(member.claimEntry(-1, false)).toBeGreaterThanOrEqual(0)
  const guest = await bed.boot({
    name: 'memory',
    iommu: false,
    modules: [],
    devices: [
      region('good', same),
      region('garbage', (bytes) => bytes.fill(0x5a)),
      region('version', (bytes) => {
        bytes.writeUInt16LE(99, 12)
        return bytes
      }),
      region('cut', (bytes) => bytes.subarray(0, MiB)),
      full,
    ],
  })
  const findings = await doctor(guest)
  const found = [...findings.values()].map(codes)
  const regions = [...findings.keys()].map((address) => `pci:${address}`)
  const attached = await guest.run([
    process.execPath,
    join(import.meta.dirname, 'apps/attach.mjs'),
    ...regions,
  ])
  for (const member of members) member.close()
  expect(found[0]).toEqual([])
  expect(found[1]).toEqual(['ERR_VMRING_REGION_MAGIC'])
  expect(found[2]).toEqual(['ERR_VMRING_REGION_VERSION'])
  expect(found[3]).toEqual(['ERR_VMRING_REGION_TRUNCATED'])
  expect(found[4]).toEqual(['ERR_VMRING_TOO_MANY_PEERS'])
  // attach() says the same
  expect(JSON.parse(attached.stdout)).toEqual([null, ...found.slice(1).flat()])
  await guest.powerOff()
}, 400_000)

it('no IOMMU that remaps interrupts, a group with others, no permission, lockdown', async () => {
  const second = join(bed.folder, 'second')
  sparseFile(second, MiB)
  const guest = await bed.boot({
    name: 'machine',
    iommu: 'no-remap',
    append: 'lockdown=integrity',
    devices: [{ kind: 'doorbell', id: 'iv0', socket: daemon.socket }],
    // devices behind a conventional bridge share a group
    qemu: [
      ...['-device', 'pcie-pci-bridge,id=bridge,bus=pcie.0'],
      ...['-object', `memory-backend-file,id=second,size=1M,share=on,mem-path=${second}`],
      ...['-device', 'ivshmem-plain,memdev=second,bus=bridge,addr=1'],
      ...['-device', 'virtio-rng-pci,bus=bridge,addr=2'],
    ],
  })
  const unbound = await doctor(guest)
  for (const [, findings] of unbound) expect(codes(findings)).toContain('ERR_VMRING_LOCKDOWN')
  const [doorbell, plain] = (await guest.bindVfio()).sort((a, b) => {
    return (
      Number(unbound.get(b)![0]!.message.includes('doorbell')) -
      Number(unbound.get(a)![0]!.message.includes('doorbell'))
    )
  })
  const bound = await doctor(guest)
  expect(codes(bound.get(doorbell!))).toEqual(['ERR_VMRING_INTERRUPT_REMAPPING'])
  expect(codes(bound.get(plain!))).toContain('ERR_VMRING_DEVICE_GROUP')
  expect(bound.get(plain!)!.find(({ check }) => check === 'group')!.message).toContain('virtio-pci')
  const unprivileged = await doctor(guest, 'setpriv', '--reuid=65534', '--clear-groups')
  expect(codes(unprivileged.get(doorbell!))).toContain('ERR_VMRING_DEVICE_PERMISSION')
  await setDriver(guest, doorbell!, '')
  await guest.sh('echo Y > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts')
  await guest.bindVfio()
  const allowed = (await doctor(guest)).get(doorbell!)!
  expect(codes(allowed)).toEqual([])
  expect(allowed.find(({ check }) => check === 'section')).toMatchObject({ status: 'ok' })
  expect(allowed.find(({ check }) => check === 'lockdown')!.message).toContain('integrity')
  await guest.powerOff()
}, 400_000)
