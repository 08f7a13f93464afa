// vmring/vsock over AF_VSOCK: inside a guest, which talks to itself (vsock_loopback, CID 1). The checks run in one program there
// (apps/vsock.mjs); here stands what they must have seen.
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Bed, type Guest } from '../../src/vm/index.js'
import { breakInGuest, fewBytes } from './broken.js'

const MiB = 1024 * 1024
const app = join(import.meta.dirname, 'apps/vsock.mjs')
const root = join(import.meta.dirname, '../..')

let bed: Bed
let guest: Guest

beforeAll(async () => {
  bed = await Bed.open()
  guest = await bed.boot({
    name: 'vsock',
    modules: [],
    iommu: false,
    memory: 1024,
    cpus: 2,
    lifetime: 2_400_000,
  })
  // opening a socket would load the modules by itself
  await guest.sh('echo /bin/false > /proc/sys/kernel/modprobe')
}, 180_000)

afterAll(() => bed?.close(), 30_000)

async function phase(name: string, timeout = 120_000): Promise<Record<string, unknown>> {
  const { stdout, stderr } = await guest.run([process.execPath, '--expose-gc', app, name], { timeout })
  console.log(stderr)
  return JSON.parse(stdout)
}

const failure = (code: string, message: RegExp, more = {}) =>
  expect.objectContaining({ code, message: expect.stringMatching(message), ...more })

describe('modules that are missing are named', () => {
  it('no virtio sockets at all', async () => {
    const said = await phase('none')
    const absent = failure('EAFNOSUPPORT', /modprobe vsock`/)
    expect(said).toEqual({
      connectLocal: absent,
      connectHost: absent,
      connectGuest: absent,
      listenElsewhere: absent,
      listenAny: absent,
      localCid: failure('ENODEV', /modprobe vmw_vsock_virtio_transport.*modprobe vhost_vsock/),
    })
  })

  it('the core without a transport', async () => {
    await guest.sh('modprobe vsock')
    const said = await phase('core')
    expect(said).toEqual({
      connectLocal: failure('ENODEV', /modprobe vsock_loopback`/, {
        errno: -19,
        syscall: 'connect',
        address: '1',
        port: 5000,
      }),
      connectHost: failure('ENODEV', /modprobe vmw_vsock_virtio_transport`.*vhost-vsock-pci/),
      connectGuest: failure('ENODEV', /modprobe vhost_vsock`/),
      listenElsewhere: failure('EADDRNOTAVAIL', /does not have this CID/, { address: '77', port: 5000 }),
      listenLocal: failure('EADDRNOTAVAIL', /modprobe vsock_loopback`/),
      localCid: failure('ENODEV', /no CID of its own/),
    })
  })
})

it('loopback: the whole suite', async () => {
  await guest.sh('modprobe vsock_loopback')
  const said = await phase('loopback', 900_000)
  expect(said).toEqual({
    connectLocal: failure('ECONNREFUSED', /nobody listens at this port/),
    // without another transport loopback stands in for CID 2 too
    connectHost: failure('ECONNREFUSED', /nobody listens/),
    connectGuest: failure('ENODEV', /modprobe vhost_vsock`/),
    listenElsewhere: failure('EADDRNOTAVAIL', /does not have this CID/),
    localCid: expect.anything(),
    addresses: { cid: null, listening: true, localCid: 1 },
    bothWays: { bytes: 64 * MiB, seconds: expect.any(Number) },
    thousand: { open: expect.any(Number), count: 1000, left: 0 },
    halfClose: 'ok',
    reset: { events: expect.arrayContaining(['close']) },
    writeToReset: { code: expect.stringMatching(/^(EPIPE|ECONNRESET)$/) },
    timeouts: 'ok',
    slowReader: expect.anything(),
    nobody: failure('ECONNREFUSED', /nobody listens/, { errno: -111, cause: 'ECONNRESET', address: '1' }),
    inUse: failure('EADDRINUSE', /another socket listens/, { errno: -98, syscall: 'listen' }),
    permission: failure('EACCES', /CAP_NET_BIND_SERVICE/, { errno: -13, syscall: 'listen', port: 1023 }),
    aborted: { code: 'ABORT_ERR' },
  })
  expect((said.thousand as { open: number }).open).toBeGreaterThanOrEqual(2000)
  const { held, queue, buffer, grown } = said.slowReader as Record<string, number>
  // the kernel's credit (256 KiB), one chunk in the writer's queue, one read in the reader's
  expect(held).toBeLessThan(2 * MiB)
  expect(queue).toBeLessThan(MiB)
  expect(buffer).toBeLessThan(MiB / 4)
  expect(grown).toBeLessThan(40 * MiB)
}, 960_000)

/** What is read of vitest's JSON report. */
interface Report {
  numPassedTests: number
  testResults: { assertionResults: { status: string; fullName: string; failureMessages: string[] }[] }[]
}

it('the conformance suite of paths, over virtio sockets', async () => {
  await guest.sh('modprobe vsock_loopback')
  const vitest = join(root, 'node_modules/vitest/vitest.mjs')
  const only = [
    'run',
    '--project',
    'conformance',
    '--testNamePattern',
    'virtio socket',
    '--testTimeout',
    '120000',
  ]
  const argv = [process.execPath, vitest, ...only, '--root', root, '--reporter', 'json']
  const { stdout, stderr } = await guest.start(['env', 'VMRING_TEST_VSOCK_CID=1', 'NO_COLOR=1', ...argv], {
    timeout: 900_000,
  }).done
  expect(stdout, stderr).toContain('{"numTotalTest')
  const report = JSON.parse(stdout.slice(stdout.indexOf('{"numTotalTest'))) as Report
  const { numPassedTests, testResults } = report
  const results = testResults.flatMap(({ assertionResults }) => assertionResults)
  const failed = results.filter(({ status }) => status === 'failed')
  console.log(`conformance over AF_VSOCK: ${numPassedTests} passed, ${failed.length} failed`)
  expect(failed.map(({ fullName, failureMessages }) => [fullName, ...failureMessages])).toEqual([])
  expect(numPassedTests).toBeGreaterThan(15)
}, 1_000_000)

it('connections that are cut, split, stalled and delayed here and there', async () => {
  const came = await breakInGuest(guest, { sample: fewBytes, timeout: 600_000 })
  console.log(came.map((one) => JSON.stringify(one)).join('\n'))
  expect(came).toHaveLength(10)
}, 660_000)
