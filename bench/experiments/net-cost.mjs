// What vmring/net and node:net cost per unit of work, on both sides of a connection, once warm: processor time (which other work on the
// machine stretches far less than the clock), context switches, page faults, and what the peer did. bench/micro/net.mjs has the clock.
//   node bench/experiments/net-cost.mjs [--rounds N] [--only stream,echo,http] [--mode event|adaptive|busy] [--ring BYTES]
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import http from 'node:http'
import plain from 'node:net'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const BLOCK = 64 * 1024
/** units before the count begins, and units counted */
const WORK = { stream: [5000, 35_000], echo: [5000, 25_000], http: [40_000, 40_000] }
const UNIT = { stream: '64 KiB', echo: 'round trip', http: 'request' }
const file = fileURLToPath(import.meta.url)
const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '2' },
    only: { type: 'string', default: 'stream,echo,http' },
    mode: { type: 'string' },
    ring: { type: 'string' },
    role: { type: 'string' },
    what: { type: 'string' },
    transport: { type: 'string' },
    address: { type: 'string' },
  },
})
const { what, transport, address } = values
const [warm, counted] = WORK[what] ?? []
let counters = () => null

async function module() {
  if (transport !== 'vmring') return plain
  const net = await import('../../dist/net/index.js')
  const { sharedPeer } = await import('../../dist/net/shared.js')
  if (values.mode !== undefined) net.usePeer({ mode: values.mode })
  counters = () => sharedPeer().ready?.counters() ?? null
  return net
}

let began = null
let units = 0

/** Counts; prints the figures of `counted` units after the first `warm`. */
function count(many = 1) {
  units += many
  if (began === null && units >= warm) began = { units, usage: process.resourceUsage(), peer: counters() }
  if (began === null || began.done || units < warm + counted) return
  began.done = true
  const usage = process.resourceUsage()
  const peer = counters()
  const per = (to, from, name) => (to?.[name] - from?.[name]) / (units - began.units)
  const shown = {}
  for (const [name, key] of Object.entries({
    user: 'userCPUTime',
    system: 'systemCPUTime',
    switches: 'voluntaryContextSwitches',
    preempted: 'involuntaryContextSwitches',
    faults: 'minorPageFault',
  }))
    shown[name] = per(usage, began.usage, key)
  if (peer !== null)
    for (const name of ['doorbells', 'sleeps', 'wakeups']) shown[name] = per(peer, began.peer, name)
  process.stdout.write(`${JSON.stringify(shown)}\n`)
}

const servers = {
  stream: (net) =>
    net.createServer((socket) => {
      let bytes = 0
      socket.on('data', ({ length }) => {
        bytes += length
        const whole = Math.floor(bytes / BLOCK)
        if (whole > 0) count(whole)
        bytes -= whole * BLOCK
      })
    }),
  echo: (net) =>
    net.createServer((socket) =>
      socket.on('data', (chunk) => {
        count()
        socket.write(chunk)
      }),
    ),
  http(net) {
    net.install?.()
    return http.createServer((_request, response) => {
      count()
      response.end('hello world')
    })
  },
}

const connected = (net) =>
  new Promise((resolve) => {
    const ring = values.ring === undefined ? {} : { ringSize: Number(values.ring) }
    const socket = net.connect({ path: address, ...ring }, () => resolve(socket))
  })

const clients = {
  async stream(net) {
    const socket = await connected(net)
    const block = Buffer.alloc(BLOCK, 1)
    const fill = () => {
      do count()
      while (socket.write(block))
    }
    socket.on('drain', fill)
    fill()
  },
  async echo(net) {
    const socket = await connected(net)
    const message = Buffer.alloc(64, 1)
    socket.on('data', () => {
      count()
      socket.write(message)
    })
    socket.write(message)
  },
  async http(net) {
    net.install?.()
    const { default: autocannon } = await import('autocannon')
    const run = autocannon({ url: 'http://localhost', socketPath: address, connections: 64, duration: 60 })
    run.on('response', () => count())
  },
}

if (values.role === 'server') {
  const server = servers[what](await module())
  server.listen(address, () => process.stdout.write('ready\n'))
} else if (values.role === 'client') {
  await clients[what](await module())
} else {
  await main()
}

function lines(child) {
  const waiting = []
  const ready = []
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (more) => {
    text += more
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      const line = text.slice(0, end)
      text = text.slice(end + 1)
      if (waiting.length > 0) waiting.shift()(line)
      else ready.push(line)
    }
  })
  return () =>
    ready.length > 0 ? Promise.resolve(ready.shift()) : new Promise((resolve) => waiting.push(resolve))
}

async function main() {
  const directory = mkdtempSync(join(tmpdir(), 'vmring-net-cost-'))
  const region = join(directory, 'region')
  const env = { ...process.env, VMRING_REGION: `unix:${region}`, VMRING_RELAY: 'none' }
  const started = []
  const start = (args) => {
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'], env })
    started.push(child)
    return { child, next: lines(child) }
  }
  const end = async (child) => {
    const gone = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGKILL')
    await gone
  }
  const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
  const host = start([cli, 'host', '--socket', region, '--no-relay'])
  await host.next()
  for (const work of values.only.split(',')) {
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const by of round % 2 === 0 ? ['unix', 'vmring'] : ['vmring', 'unix']) {
        const at = by === 'vmring' ? `vmring:cost-${work}-${round}` : join(directory, `${work}-${round}.sock`)
        const common = ['--what', work, '--transport', by, '--address', at]
        if (values.mode !== undefined) common.push('--mode', values.mode)
        if (values.ring !== undefined) common.push('--ring', values.ring)
        const server = start([file, '--role', 'server', ...common])
        await server.next()
        const client = start([file, '--role', 'client', ...common])
        const sides = { client: JSON.parse(await client.next()), server: JSON.parse(await server.next()) }
        await end(client.child)
        await end(server.child)
        for (const [side, shown] of Object.entries(sides)) {
          const text = Object.entries(shown).map(
            ([name, value]) => `${name} ${value.toFixed(value < 1 ? 3 : 1)}`,
          )
          console.log(`${work} ${by} ${side}, per ${UNIT[work]} (times in µs): ${text.join(', ')}`)
        }
        console.log(`  load ${loadavg()[0].toFixed(1)}`)
      }
    }
  }
  await end(host.child)
  rmSync(directory, { recursive: true })
}
