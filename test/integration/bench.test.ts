// `vmring bench` as a command: short runs, everything it writes, everything it refuses. Nothing here looks at how fast it was.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { Report } from '../../src/cli/bench/report.js'
import {
  descendants,
  exists,
  SLACK,
  scratch,
  startCli,
  startDaemon,
  until,
  vmring,
} from '../support/processes.js'

const short = ['--duration', '0.1', '--warmup', '0.05', '--runs', '1']
const left = (directory: string) => readdirSync(directory)

async function bench(args: string[], env: NodeJS.ProcessEnv = {}) {
  const directory = scratch()
  const said = await vmring(['bench', ...args], { env: { TMPDIR: directory, ...env }, deadline: 110_000 })
  expect(left(directory)).toEqual([])
  return said
}

async function measured(...args: string[]): Promise<Report> {
  const { code, text, stderr } = await bench([...args, ...short, '--json', '-'])
  expect({ code, stderr }).toMatchObject({ code: 0 })
  return JSON.parse(text)
}

const number = expect.any(Number)
const sound = { lost: 0, duplicated: 0, reordered: 0 }
const roundTrip = {
  min: number,
  p50: number,
  p90: number,
  p99: number,
  'p99.9': number,
  'p99.99': number,
  max: number,
}
const always = {
  run: 1,
  touch: 'header',
  size: 64,
  channels: 1,
  messagesPerSecond: number,
  bytesPerSecond: number,
  samples: number,
  ...sound,
  cpuSeconds: number,
  openNanoseconds: number,
  sameProcess: false,
}
const ours = { peers: 2, doorbells: number, suppressed: number, bytesPerChannel: number }

test('latency: every transport of one machine, every interface; the JSON has these fields and no others', async () => {
  const report = await measured(
    ...[
      'latency',
      '--transport',
      'shm,socket,unix,tcp,messageport,zeromq',
      '--mode',
      'adaptive',
      '--api',
      'sync,event,iterate',
    ],
  )
  expect(Object.keys(report)).toEqual(['version', 'environment', 'floor', 'results'])
  expect(report.floor).toEqual({
    cacheLineRoundTrip: number,
    ringRoundTrip: number,
    eventfdRoundTrip: number,
    memcpyBytesPerSecond: number,
  })
  expect(Object.values(report.floor).every((value) => value > 0)).toBe(true)
  expect(report.environment).toMatchObject({
    commit: expect.anything(),
    cpu: expect.any(String),
    kernel: expect.any(String),
    node: process.versions.node,
    emulated: expect.any(Boolean),
    arguments: expect.arrayContaining(['bench', 'latency']),
    placement: expect.any(String),
  })
  const foreign = { ...always, test: 'latency', api: 'event', fill: 'copy', idleGap: 0, roundTrip }
  const shm = { ...foreign, ...ours, transport: 'shm', mode: 'adaptive' }
  expect(report.results).toEqual([
    { ...shm, api: 'sync' },
    { ...shm, api: 'event' },
    { ...shm, api: 'iterate' },
    { ...shm, transport: 'socket' },
    { ...foreign, transport: 'unix' },
    { ...foreign, transport: 'tcp' },
    { ...foreign, transport: 'messageport', sameProcess: true },
    { ...foreign, transport: 'zeromq' },
  ])
  for (const { samples, roundTrip: trip } of report.results) {
    expect(samples).toBeGreaterThan(0)
    expect(trip!.min).toBeGreaterThan(0)
    expect(trip!.p50).toBeGreaterThanOrEqual(trip!.min)
    expect(trip!.max).toBeGreaterThanOrEqual(trip!['p99.99'])
  }
}, 120_000)

test('throughput: filled in place and copied, every byte summed, whole and in pieces', async () => {
  const args = [
    '--mode',
    'busy',
    '--api',
    'sync,event',
    '--fill',
    'copy,reserve',
    '--touch',
    'all',
    '--size',
    '64k',
  ]
  const { results } = await measured('throughput', '--transport', 'shm,unix,messageport,zeromq', ...args)
  expect(results.map(({ transport, api, fill }) => [transport, api, fill])).toEqual([
    ['shm', 'sync', 'copy'],
    ['shm', 'sync', 'reserve'],
    ['shm', 'event', 'copy'],
    ['shm', 'event', 'reserve'],
    ['unix', 'event', 'copy'],
    ['messageport', 'event', 'copy'],
    ['zeromq', 'event', 'copy'],
  ])
  for (const result of results) {
    expect(result).toMatchObject({ test: 'throughput', touch: 'all', size: 65536, ...sound })
    expect(result).not.toHaveProperty('roundTrip')
    expect(result).not.toHaveProperty('idleGap')
    expect(result.bytesPerSecond).toBeCloseTo(result.messagesPerSecond * 65536, -1)
  }
  // above the ring's limit
  const large = await measured(
    'throughput',
    '--transport',
    'shm',
    '--mode',
    'adaptive',
    '--size',
    '1m',
    '--ring',
    '64k',
  )
  expect(large.results[0]).toMatchObject({ size: 2 ** 20, ...sound })
}, 120_000)

test('rate and scale', async () => {
  const rate = await measured('rate', '--transport', 'shm,unix', '--mode', 'event', '--rate', '500')
  expect(rate.results.map(({ transport, lost }) => [transport, lost])).toEqual([
    ['shm', 0],
    ['unix', 0],
  ])
  const scale = await measured(
    'scale',
    '--transport',
    'shm,unix',
    '--mode',
    'event',
    '--channels',
    '1,30',
    '--peers',
    '2,5',
  )
  expect(scale.results.map(({ transport, peers, channels }) => [transport, peers, channels])).toEqual([
    ['shm', 2, 1],
    ['shm', 5, 1],
    ['unix', undefined, 1],
    ['shm', 2, 30],
    ['shm', 5, 30],
    ['unix', undefined, 30],
  ])
  for (const { transport, bytesPerChannel, openNanoseconds } of scale.results) {
    expect(openNanoseconds).toBeGreaterThan(0)
    if (transport === 'shm') expect(bytesPerChannel).toBeGreaterThan(2 * 16 * 1024)
  }
}, 120_000)

test('rounds go there and back, and the files are whole', async () => {
  const directory = scratch()
  const at = (name: string) => join(directory, name)
  const outputs = ['json', 'hgrm', 'svg', 'html'].flatMap((name) => [`--${name}`, at(`out.${name}`)])
  const args = ['latency', '--transport', 'unix,tcp', ...short, '--runs', '2', ...outputs]
  const { code, text, stderr } = await bench(args)
  expect(code).toBe(0)
  for (const word of ['there and back', 'p99.9', 'unix', 'tcp', 'eventfd', 'Node'])
    expect(text).toContain(word)
  // no terminal: a line for each step
  expect(stderr.split('\n').filter((line) => line !== '')).toHaveLength(6)
  const report: Report = JSON.parse(readFileSync(at('out.json'), 'utf8'))
  expect(report.results.map(({ run, transport }) => [run, transport])).toEqual([
    [1, 'unix'],
    [1, 'tcp'],
    [2, 'tcp'],
    [2, 'unix'],
  ])
  expect(readdirSync(directory).sort()).toEqual([
    'out.html',
    'out.json',
    'out.svg',
    'out.tcp-64.hgrm',
    'out.unix-64.hgrm',
  ])
  expect(readFileSync(at('out.unix-64.hgrm'), 'utf8')).toMatch(
    /Value +Percentile TotalCount 1\/\(1-Percentile\)[\s\S]*#\[Max/,
  )
  const svg = readFileSync(at('out.svg'), 'utf8')
  expect(svg).toMatch(/^<svg [\s\S]*<polyline [\s\S]*<\/svg>\n$/)
  expect(svg).not.toContain('NaN')
  const html = readFileSync(at('out.html'), 'utf8')
  expect(html).toContain('<polyline')
  expect(html.replace('http://www.w3.org/2000/svg', '')).not.toMatch(/https?:|<script|<link/)
}, 120_000)

// A transport of somebody else's, which does to every 20th message what it is told to.
const faults = `
import { once } from 'node:events'
import net from 'node:net'
import { join } from 'node:path'
const fault = process.env.BENCH_TEST_FAULT
class Link {
  onDrain = () => {}
  count = 0
  held = null
  constructor(socket) { this.socket = socket; socket.on('error', () => {}) }
  send(bytes) {
    const copy = bytes.slice()
    const bad = ++this.count % 20 === 0
    if (bad && fault === 'change') copy[copy.length - 1] ^= 1
    if (bad && fault === 'lose') return 1
    if (bad && fault === 'reorder') {
      this.held = copy
      setImmediate(() => this.release()) // the last one of a run has none to come after
      return 1
    }
    this.socket.write(copy)
    if (bad && fault === 'double') this.socket.write(copy)
    this.release()
    if (this.socket.writableLength < 65536) return 1
    this.socket.once('drain', () => this.onDrain())
    return 0
  }
  release() {
    if (this.held !== null) this.socket.write(this.held)
    this.held = null
  }
  pool() { return 1 }
  receive(checker) { this.socket.on('data', (chunk) => checker.piece(chunk)) }
  close() { this.socket.destroy() }
}
export default {
  async listen({ directory }) {
    const path = join(directory, 'own')
    const server = net.createServer().listen(path)
    await once(server, 'listening')
    const first = once(server, 'connection')
    return { address: path, accept: async () => new Link((await first)[0]), close: () => server.close() }
  },
  async connect(site, address) {
    const socket = net.connect(address)
    await once(socket, 'connect')
    return new Link(socket)
  },
}
`

test.each([
  ['nothing', 'throughput', null],
  ['lose', 'throughput', 'lost'],
  ['lose', 'latency', 'lost'],
  ['double', 'throughput', 'duplicated'],
  ['reorder', 'throughput', 'reordered'],
  ['change', 'throughput', 'lost'],
] as const)(
  'a transport that does "%s" to a message (%s)',
  async (fault, kind, field) => {
    const file = join(scratch(), 'own.mjs')
    writeFileSync(file, faults)
    const args = [kind, '--transport', file, ...short, '--touch', 'all', '--size', '100', '--json', '-']
    const { code, text } = await bench(args, { BENCH_TEST_FAULT: fault })
    const [result] = (JSON.parse(text) as Report).results
    const others = { ...sound, ...(field !== null && { [field]: number }) }
    expect(result).toMatchObject(others)
    if (field !== null) expect(result![field]).toBeGreaterThan(0)
    expect(code).toBe(field === null ? 0 : 1)
  },
  120_000,
)

test.each([
  [['latency', '--transport', 'pigeon'], 2, /'pigeon' is none of shm, socket, unix/],
  [['latency', '--mode', 'lazy'], 2, /--mode: 'lazy' is none of busy, adaptive, event/],
  [['latency', '--size', '1g'], 2, /--size: 1073741824 bytes/],
  [['latency', '--size', '8'], 2, /16 bytes to 16 MiB/],
  [['latency', '--runs', '0'], 2, /--runs/],
  [['latency', '--cpu', '0'], 2, /--cpu names two processors/],
  [['latency', '--cpu', '0,1022'], 2, /there is no processor 1022/],
  [['latency', '--channels', '1,2'], 2, /bench scale alone/],
  [['latency', '--fill', 'reserve', '--size', '64k', '--ring', '64k'], 2, /above a quarter of the ring/],
  [['latency', '--transport', 'vsock'], 1, /measured between guests/],
  [['latency', '--listen', 'a', '--connect', 'a'], 2, /two sides/],
  [['latency', '--connect', 'a', '--transport', 'unix'], 2, /does not lead to another machine/],
  [['latency', '--connect', 'a', '--wait', 'long'], 2, /--wait/],
  [['latency', '--json', '/nowhere/out.json'], 1, /\/nowhere\/out.json.*ENOENT/],
  [['latency', '--svg', '/'], 1, /EISDIR/],
  [['latency', '--region', 'unix:/nowhere/host.sock'], 1, /\/nowhere\/host.sock/],
  [['latency', '--connect', 'nobody', '--region', 'unix:/nowhere/host.sock'], 1, /\/nowhere\/host.sock/],
  [['guess'], 2, /unknown command/],
] as const)('vmring bench %j is refused', async (args, code, message) => {
  const said = await bench([...args])
  expect(said.stderr).toMatch(message)
  expect(said).toMatchObject({ code, text: '' })
})

test('without the package zeromq: said before anything is measured', async () => {
  const hook = new URL('../support/without-zeromq.mjs', import.meta.url).href
  const said = await bench(['latency', '--transport', 'zeromq'], { NODE_OPTIONS: `--import=${hook}` })
  expect(said.stderr).toMatch(/npm install zeromq/)
  expect(said).toMatchObject({ code: 1, text: '' })
})

test('between two machines: each side starts one process for each run', async () => {
  const { region } = await startDaemon()
  const directory = scratch()
  const env = { TMPDIR: directory }
  const there = ['--region', region]
  const nobody = await vmring(['bench', 'latency', '--connect', 'run', '--wait', '0.3', ...there], { env })
  expect(nobody.code).toBe(1)
  expect(nobody.stderr).toMatch(/nobody listens.*ECONNREFUSED/s)
  const listener = startCli(['bench', 'latency', '--listen', 'run', ...there], { env })
  const args = ['--transport', 'shm,socket', '--mode', 'adaptive', '--api', 'sync', ...short, '--runs', '2']
  const { code, text, stderr } = await vmring(
    ['bench', 'latency', '--connect', 'run', ...there, ...args, '--json', '-'],
    { env, deadline: 100_000 },
  )
  expect({ code, stderr }).toMatchObject({ code: 0 })
  const report: Report = JSON.parse(text)
  expect(report.results.map(({ transport, lost }) => [transport, lost])).toEqual([
    ['shm', 0],
    ['socket', 0],
    ['socket', 0],
    ['shm', 0],
  ])
  expect(report.environment).toMatchObject({ other: { cpu: expect.any(String) } })
  expect((await listener.finish()).code).toBe(0)
  expect(left(directory)).toEqual([])
}, 150_000)

test.each(['SIGINT', 'SIGTERM'] as const)(
  '%s: what was measured is printed, and nothing stays',
  async (name) => {
    const directory = scratch()
    const json = join(scratch(), 'out.json')
    const args = [
      'bench',
      'latency',
      '--mode',
      'busy',
      '--api',
      'sync',
      ...short,
      '--runs',
      '100',
      '--json',
      json,
    ]
    const running = startCli(args, { env: { TMPDIR: directory } })
    await until(() => /\n3 of/.test(running.stderr) || !running.alive, 20_000 * SLACK, 'two runs are done')
    const children = descendants(running.pid)
    expect(children.length).toBeGreaterThan(0)
    running.signal(name)
    const { code, stdout } = await running.finish()
    expect(code).toBe(name === 'SIGINT' ? 130 : 143)
    expect(stdout.toString()).toMatch(/there and back[\s\S]*shm busy sync/)
    expect(JSON.parse(readFileSync(json, 'utf8')).results.length).toBeGreaterThanOrEqual(2)
    expect(children.filter(exists)).toEqual([])
    expect(left(directory)).toEqual([])
  },
  120_000,
)

test('interrupted before the first run, it writes nothing', async () => {
  const directory = scratch()
  const json = join(scratch(), 'out.json')
  const running = startCli(['bench', 'latency', ...short, '--json', json], { env: { TMPDIR: directory } })
  await until(() => left(directory).length > 0 || !running.alive, 10_000 * SLACK, 'it began')
  running.signal('SIGINT')
  const { code, stdout } = await running.finish()
  expect({ code, stdout: stdout.toString() }).toEqual({ code: 130, stdout: '' })
  expect(existsSync(json)).toBe(false)
  expect(left(directory)).toEqual([])
})
