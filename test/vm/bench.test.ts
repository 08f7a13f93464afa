// `vmring bench` between two guests: what the engineer does who measures. The processor is emulated, and the report says so.
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Report } from '../../src/cli/bench/report.js'
import type { Guest } from '../../src/vm/index.js'
import { Group } from './group.js'
import { cli } from './ring.js'

const LIMIT_MS = 400_000

let group: Group
let a: Guest
let b: Guest
let region: string

beforeAll(async () => {
  group = await Group.boot({ guests: ['a', 'b'], host: ['--size', '64M', '--sections', '8'] })
  ;[a, b] = group.guests as [Guest, Guest]
  region = group.regions[0]!
}, 300_000)

afterAll(() => group?.[Symbol.asyncDispose](), 30_000)

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
  'every subcommand between two guests, nothing lost, and it says that the processor is emulated',
  async () => {
    const latency = await between('latency', '--transport', 'shm,socket', '--mode', 'event')
    const throughput = await between('throughput', '--transport', 'shm', '--mode', 'event', '--touch', 'all')
    const rate = await between('rate', '--rate', '200', '--transport', 'shm', '--mode', 'event')
    const scale = await between('scale', '--channels', '20', '--transport', 'shm', '--mode', 'event')
    const sound = { lost: 0, duplicated: 0, reordered: 0 }
    expect(latency.results).toMatchObject([
      { transport: 'shm', ...sound },
      { transport: 'socket', ...sound },
    ])
    expect(throughput.results).toMatchObject([{ transport: 'shm', touch: 'all', ...sound }])
    expect(rate.results).toMatchObject([{ transport: 'shm', test: 'rate', ...sound }])
    expect(scale.results).toMatchObject([{ transport: 'shm', channels: 20, ...sound }])
    const all = [latency, throughput, rate, scale].flatMap(({ results }) => results)
    for (const { samples } of all) expect(samples).toBeGreaterThan(0)
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
