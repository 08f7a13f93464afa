// `vmring bench` between two guests: what the engineer does who measures. The processor is emulated, and the report says so.
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Report } from '../../src/cli/bench/report.js'
import { Bed, type Guest } from '../../src/vm/index.js'
import { cli, Daemon, devices, setDriver } from './ring.js'

const LIMIT_MS = 400_000

let bed: Bed
let daemon: Daemon
let a: Guest
let b: Guest
let region: string

beforeAll(async () => {
  bed = await Bed.open()
  daemon = await Daemon.start(join(bed.folder, 'host'), '--size', '64M', '--sections', '8')
  const guest = (name: string) => ({
    name,
    devices: [{ kind: 'doorbell' as const, id: 'iv0', socket: daemon.socket }],
  })
  ;[a, b] = (await bed.bootAll([guest('a'), guest('b')])) as [Guest, Guest]
  const { address } = (await devices(a))[0]!
  region = `pci:${address}`
  await Promise.all([a, b].map((one) => setDriver(one, address, 'vfio-pci')))
}, 300_000)

afterAll(async () => {
  await bed?.close()
  await daemon?.[Symbol.asyncDispose]()
}, 30_000)

const short = ['--duration', '1', '--warmup', '0.5', '--runs', '1']

async function between(test: string, ...options: string[]): Promise<Report> {
  const common = ['bench', test, '--region', region]
  const listener = a.start([...cli, ...common, '--listen', 'bench'], { timeout: LIMIT_MS })
  const args = [...cli, ...common, '--connect', 'bench', '--wait', '120', ...options, ...short, '--json', '-']
  const { stdout } = await b.run(args, { timeout: LIMIT_MS })
  await listener.success()
  return JSON.parse(stdout.slice(stdout.indexOf('{')))
}

it(
  'latency and throughput between two guests, nothing lost, and it says that the processor is emulated',
  async () => {
    const latency = await between('latency', '--transport', 'shm,socket', '--mode', 'event')
    const throughput = await between('throughput', '--transport', 'shm', '--mode', 'event', '--touch', 'all')
    const sound = { lost: 0, duplicated: 0, reordered: 0 }
    expect(latency.results).toMatchObject([
      { transport: 'shm', ...sound },
      { transport: 'socket', ...sound },
    ])
    expect(throughput.results).toMatchObject([{ transport: 'shm', touch: 'all', ...sound }])
    for (const { samples } of [...latency.results, ...throughput.results]) expect(samples).toBeGreaterThan(0)
    const { emulated, other } = latency.environment as unknown as Record<string, Record<string, unknown>>
    expect([emulated, other?.emulated]).toEqual(
      [a, b].map(({ accelerator }) => accelerator.startsWith('tcg')),
    )
    console.log(latency.results.map(({ transport, roundTrip }) => [transport, roundTrip?.p50]))
    console.log(throughput.results.map(({ messagesPerSecond, doorbells }) => [messagesPerSecond, doorbells]))
  },
  2 * LIMIT_MS,
)

it(
  'a guest whose other side is not there says so before it measures',
  async () => {
    const job = b.start(
      [...cli, 'bench', 'latency', '--region', region, '--connect', 'nobody', '--wait', '1'],
      {
        timeout: LIMIT_MS,
      },
    )
    const { code, stderr } = await job.done
    expect(code).toBe(1)
    expect(stderr).toMatch(/nobody listens/)
  },
  LIMIT_MS,
)
