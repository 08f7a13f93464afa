// Libraries between two guests over vmring/net: an ordinary http server and client, ws, and ioredis with a real Redis server
// behind `vmring proxy`. Then the servers' machine dies, and each library says what it says when a connection breaks.
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Guest, Job } from '../../src/vm/index.js'
import { Group } from './group.js'
import { cli } from './ring.js'

const LIMIT_MS = 700_000
const adapters = resolve(import.meta.dirname, '../adapters')
/** and the error of each when the other side dies */
const libraries = [
  { name: 'http', error: { code: 'ECONNRESET' } },
  // closed without a close frame
  { name: 'ws', error: { code: 1006 } },
  { name: 'ioredis', error: { message: 'Connection is closed.' } },
]

let group: Group
let a: Guest
let b: Guest

beforeAll(async () => {
  const host = ['--size', '256M', '--sections', '8']
  const machine = { memory: 1024 }
  group = await Group.boot({ guests: ['a', 'b'], host, doorbells: libraries.length, machine })
  ;[a, b] = group.guests as [Guest, Guest]
}, 300_000)

afterAll(() => group?.[Symbol.asyncDispose](), 30_000)

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
  // the server takes seconds to start, and whatever else takes milliseconds on a processor of silicon takes long
  const env = { VMRING_REGION: region, NODE_DEBUG: 'vmring', PATIENCE: '120000' }
  return b.start(argv, { env, timeout: LIMIT_MS })
}

/** Fails with what all of them said when `promise` does. */
async function by<T>(jobs: Job[], promise: Promise<T>): Promise<T> {
  return promise.catch((error: Error) => {
    for (const job of jobs) error.message += `\n${job.title}: ${job.stdout()}${job.stderr()}`
    throw error
  })
}

it(
  'a large body, a hundred connections, and the death of the other machine',
  async () => {
    const { regions } = group
    const clients: Job[] = []
    // One library after the other: a guest has one processor, which is emulated.
    for (const [i, { name }] of libraries.entries()) {
      const jobs = [server(name, regions[i]!), client(name, regions[i]!)]
      await by(jobs, jobs[1]!.until(/hanging/, LIMIT_MS))
      clients.push(jobs[1]!)
    }
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
      console.log(name, ...lines.map(({ done, ms }) => `${done} ${ms} ms`))
    }
  },
  LIMIT_MS,
)
