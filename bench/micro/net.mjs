// vmring/net against node:net on a Unix socket, between two processes, in turns: a one-way stream of 64 KiB writes, a 64-byte echo,
// and http with keep-alive over 64 connections (with autocannon if it can be found, else not at all).
//   npm run bench:net -- [--rounds N] [--seconds S] [--only stream,echo,http] [--mode event|adaptive|busy] [--json]
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import http from 'node:http'
import plain from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { median } from '../claims.mjs'

const BLOCK = 64 * 1024
const WARM_MS = 300
const file = fileURLToPath(import.meta.url)
const ours = () => import('../../dist/net/index.js')

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '1' },
    only: { type: 'string', default: 'stream,echo,http' },
    json: { type: 'boolean', default: false },
    mode: { type: 'string' },
    role: { type: 'string' },
    transport: { type: 'string' },
    address: { type: 'string' },
    what: { type: 'string' },
  },
})
const ms = Number(values.seconds) * 1000

async function module() {
  if (values.transport !== 'vmring') return plain
  const net = await ours()
  if (values.mode !== undefined) net.usePeer({ mode: values.mode })
  return net
}

const servers = {
  async stream() {
    const net = await module()
    return net.createServer((socket) => {
      let bytes = 0
      socket.on('data', (chunk) => {
        bytes += chunk.length
      })
      socket.on('end', () => socket.end(String(bytes)))
    })
  },
  async echo() {
    const net = await module()
    return net.createServer((socket) => socket.on('data', (chunk) => socket.write(chunk)))
  },
  async http() {
    const net = await module()
    net.install?.()
    return http.createServer((_request, response) => response.end('hello world'))
  },
}

const clients = {
  /** bytes a second, counted where they arrive */
  async stream(net, address) {
    const socket = net.connect({
      path: address,
      allowHalfOpen: true,
    })
    const block = Buffer.alloc(BLOCK, 1)
    let started = 0
    let until = Number.POSITIVE_INFINITY
    const fill = () => {
      while (performance.now() < until) if (!socket.write(block)) return
      if (!socket.writableEnded) socket.end()
    }
    socket.on('drain', fill)
    await new Promise((resolve) => socket.once('connect', resolve))
    started = performance.now()
    until = started + ms + WARM_MS
    fill()
    let text = ''
    for await (const chunk of socket) text += chunk
    return Number(text) / ((performance.now() - started) / 1000)
  },
  /** microseconds there and back, median */
  async echo(net, address) {
    const socket = net.connect({ path: address })
    await new Promise((resolve) => socket.once('connect', resolve))
    const message = Buffer.alloc(64, 1)
    const times = []
    const started = performance.now()
    await new Promise((resolve) => {
      let sent = process.hrtime.bigint()
      let bytes = 0
      socket.on('data', (chunk) => {
        bytes += chunk.length
        if (bytes < 64) return
        bytes = 0
        const now = process.hrtime.bigint()
        const elapsed = performance.now() - started
        if (elapsed > WARM_MS) times.push(Number(now - sent))
        if (elapsed > ms + WARM_MS) return resolve()
        sent = process.hrtime.bigint()
        socket.write(message)
      })
      socket.write(message)
    })
    socket.destroy()
    return median(times) / 1000
  },
  /** requests a second */
  async http(net, address) {
    net.install?.()
    const { default: autocannon } = await import('autocannon')
    const result = await autocannon({
      url: 'http://localhost',
      socketPath: address,
      connections: 64,
      // both transports once warm: the engine needs tens of thousands of requests until it has compiled everything
      warmup: { connections: 64, duration: 3 },
      duration: Math.max(1, Number(values.seconds)),
    })
    if (result.errors > 0 || result.non2xx > 0) throw new Error(`autocannon: ${result.errors} errors`)
    return result.requests.average
  },
}

async function serve() {
  const server = await servers[values.what]()
  server.listen(values.address, () => process.stdout.write('ready\n'))
  process.on('SIGTERM', () => process.exit(0))
}

async function drive() {
  const result = await clients[values.what](await module(), values.address)
  process.stdout.write(`${JSON.stringify(result)}\n`)
  process.exit(0)
}

function child(role, what, transport, address, env) {
  const args = ['--role', role, '--what', what, '--transport', transport, '--address', address]
  return spawn(
    process.execPath,
    [file, ...args, ...(values.mode ? ['--mode', values.mode] : []), '--seconds', values.seconds],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, ...env },
    },
  )
}

const firstLine = (from) =>
  new Promise((resolve, reject) => {
    let text = ''
    from.stdout.on('data', (chunk) => {
      text += chunk
      if (text.includes('\n')) resolve(text.split('\n')[0])
    })
    from.once('exit', (code) => reject(new Error(`child ended with ${code}`)))
  })

const gone = (process_) => new Promise((resolve) => process_.once('exit', resolve))

async function measure(what, transport, directory, env, round) {
  const address = transport === 'vmring' ? `vmring:bench-${what}` : join(directory, `${what}-${round}.sock`)
  const server = child('server', what, transport, address, env)
  await firstLine(server)
  const client = child('client', what, transport, address, env)
  const result = JSON.parse(await firstLine(client))
  server.kill('SIGTERM')
  await gone(server)
  return result
}

const shown = {
  stream: (value) => `${(value / 1e9).toFixed(2)} GB/s`,
  echo: (value) => `${value.toFixed(1)} µs`,
  http: (value) => `${Math.round(value)} requests/s`,
}

async function main() {
  const directory = mkdtempSync(join(tmpdir(), 'vmring-bench-net-'))
  const region = join(directory, 'region')
  const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
  const host = spawn(process.execPath, [cli, 'host', '--socket', region, '--no-relay'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  await firstLine(host)
  const env = { VMRING_REGION: `unix:${region}`, VMRING_RELAY: 'none' }
  const results = {}
  try {
    for (const what of values.only.split(',')) {
      const rounds = { vmring: [], unix: [] }
      for (let round = 0; round < Number(values.rounds); round++) {
        const order = round % 2 === 0 ? ['unix', 'vmring'] : ['vmring', 'unix']
        for (const transport of order)
          rounds[transport].push(await measure(what, transport, directory, env, round))
      }
      const [vmring, unix] = [median(rounds.vmring), median(rounds.unix)]
      results[what] = { vmring, unix, ratio: vmring / unix, rounds }
      if (!values.json)
        console.log(
          `${what.padEnd(7)} vmring ${shown[what](vmring)}, unix ${shown[what](unix)}, ratio ${(vmring / unix).toFixed(2)}`,
        )
    }
    if (values.json) console.log(JSON.stringify(results, null, 2))
  } finally {
    host.kill('SIGTERM')
    await gone(host)
    if (existsSync(directory)) rmSync(directory, { recursive: true })
  }
}

if (values.role === 'server') await serve()
else if (values.role === 'client') await drive()
else await main()
