// Libraries between two guests over vmring/net: an ordinary http server and client, ws, and ioredis with a real Redis server
// behind `vmring proxy`. Then the servers' machine dies, and each library says what it says when a connection breaks.
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { Bed, type Guest, type Job } from '../../src/vm/index.js'
import { cli, Daemon, devices, setDriver } from './ring.js'

const LIMIT_MS = 400_000
const adapters = resolve(import.meta.dirname, '../adapters')
/** and the error of each when the other side dies */
const libraries = [
  { name: 'http', error: { code: 'ECONNRESET' } },
  // closed without a close frame
  { name: 'ws', error: { code: 1006 } },
  { name: 'ioredis', error: { message: 'Connection is closed.' } },
]

let bed: Bed
let daemon: Daemon
let a: Guest
let b: Guest
let regions: string[]

beforeAll(async () => {
  bed = await Bed.open()
  daemon = await Daemon.start(join(bed.folder, 'host'), '--size', '256M', '--sections', '8')
  // a device serves one process
  const doorbell = (_: unknown, i: number) => ({
    kind: 'doorbell' as const,
    id: `iv${i}`,
    socket: daemon.socket,
  })
  const options = (name: string) => ({ name, memory: 1024, devices: libraries.map(doorbell) })
  ;[a, b] = (await bed.bootAll([options('a'), options('b')])) as [Guest, Guest]
  const found = await devices(a)
  regions = found.map(({ address }) => `pci:${address}`)
  for (const guest of [a, b]) for (const { address } of found) await setDriver(guest, address, 'vfio-pci')
}, 300_000)

afterAll(async () => {
  await bed?.close()
  await daemon?.[Symbol.asyncDispose]()
}, 30_000)

function server(name: string, region: string): Job {
  if (name !== 'ioredis') {
    const argv = [process.execPath, join(adapters, 'server.mjs'), name, `vmring:${name}`]
    return a.start(argv, { env: { VMRING_REGION: region }, timeout: LIMIT_MS })
  }
  const proxy = [...cli, 'proxy', '--region', region, '--listen', name, '--to', 'unix:/tmp/redis']
  return a.start(
    [
      '/bin/sh',
      '-ec',
      // Debian's redis-tools carries the server under another name
      `ln -s /usr/bin/redis-check-rdb /tmp/redis-server
      /tmp/redis-server --port 0 --unixsocket /tmp/redis --save '' --maxclients 500 > /dev/null &
      while [ ! -e /tmp/redis ]; do sleep 0.1; done
      exec ${proxy.join(' ')}`,
    ],
    { timeout: LIMIT_MS },
  )
}

function client(name: string, region: string): Job {
  const argv = [process.execPath, join(adapters, 'client.mjs'), name, `vmring:${name}`]
  return b.start(argv, { env: { VMRING_REGION: region, NODE_DEBUG: 'vmring' }, timeout: LIMIT_MS })
}

it(
  'a large body, a hundred connections, and the death of the other machine',
  async () => {
    const servers = libraries.map(({ name }, i) => server(name, regions[i]!))
    await Promise.all(servers.map((job) => job.until(/ready|vmring proxy/, LIMIT_MS)))
    const clients = libraries.map(({ name }, i) => client(name, regions[i]!))
    await Promise.all(clients.map((job) => job.until(/hanging/, LIMIT_MS)))
    await a.kill()
    for (const [i, { name, error }] of libraries.entries()) {
      const { stdout, stderr } = await clients[i]!.success()
      const lines = stdout
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line))
      const done = ['small', 'large', 'many', 'hanging', 'dead']
      expect([name, lines.map((line) => line.done)]).toEqual([name, done])
      expect(lines.at(-1)).toMatchObject({ error })
      const channels = stderr.trim().split('\n')
      expect(channels.length).toBeGreaterThanOrEqual(101)
      for (const line of channels) expect(line).toMatch(/a channel of service .*, path shm$/)
    }
  },
  2 * LIMIT_MS,
)
