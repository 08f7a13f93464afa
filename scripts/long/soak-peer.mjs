// A process of the soak: in the role of the server it answers everybody; the others keep traffic of all kinds going, slowly,
// and check every byte of what comes back.
import { createHash } from 'node:crypto'
import { readdirSync } from 'node:fs'
import { attach } from '../../dist/index.js'
import * as net from '../../dist/net/index.js'
import { quantile, serve, sleep } from './lib.mjs'

// In the addon of the long runs, rings begin this many bytes before 2^32.
const WRAP_AFTER = 32 * 1024
let peer
let over = false
/** used() before there was any channel */
let usedFirst = null
/** those that live as long as the run */
const lasting = []
const counts = { messages: 0, bytes: 0, wrong: 0, channels: 0, moves: 0, sockets: 0, large: 0, wraps: 0 }
let trips = []
const failures = []
const work = []

function fail(what, error) {
  if (!over && failures.length < 20) failures.push(`${what}: ${error?.code ?? ''} ${error?.message ?? error}`)
}

function message(number, length) {
  const bytes = new Uint8Array(length).fill(number & 255)
  new DataView(bytes.buffer).setUint32(0, number, true)
  return bytes
}

function check(bytes, number, length) {
  const good =
    bytes.length === length &&
    new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true) === number >>> 0 &&
    bytes.subarray(4).every((byte) => byte === (number & 255))
  counts.messages++
  counts.bytes += bytes.length
  if (!good) counts.wrong++
}

const next = (channel) =>
  new Promise((resolve, reject) => {
    const got = (found) => {
      channel.off('close', ended)
      resolve(found.copy())
    }
    const ended = async () => reject((await channel.closed) ?? new Error('closed'))
    channel.once('message', got)
    channel.once('close', ended)
  })

/** Sends it and checks what comes back. */
async function trip(channel, number, length) {
  const answer = next(channel)
  await channel.send(message(number, length))
  check(await answer, number, length)
}

/** Again and again, until the end; a failure is kept, and the next turn begins anew. */
function every(ms, what, turn) {
  work.push(
    (async () => {
      await sleep(ms)
      for (let round = 0; !over; round++) {
        try {
          await turn(round)
        } catch (error) {
          fail(what, error)
        }
        await sleep(ms)
      }
    })(),
  )
}

/** Bytes of the own section that are in use; null without one. */
function used() {
  const counters = peer.counters()
  return counters && counters.sectionBytes - counters.freeBytes
}

async function last(service) {
  const channel = await peer.connect(service, { wait: 20_000 })
  lasting.push(channel)
  return channel
}

/** Counts what has wrapped since the last path change, when the rings of this epoch are given up. */
function wrapped(channel, from) {
  const { sentBytes, receivedBytes } = channel.stats()
  for (const bytes of [sentBytes - from.sentBytes, receivedBytes - from.receivedBytes])
    if (bytes > WRAP_AFTER) counts.wraps++
  return { sentBytes, receivedBytes }
}

async function echo(service) {
  const server = await peer.listen(service)
  server.on('channel', (channel) => {
    channel.on('error', (error) => fail(service, error))
    channel.on('message', async (found) => {
      await channel.send(found.copy()).catch((error) => fail(service, error))
    })
  })
}

function steady(service, ms) {
  let channel = null
  every(ms, service, async (round) => {
    channel ??= await last(service)
    const began = performance.now()
    await trip(channel, round, 4 + ((round * 131) % 1000))
    if (trips.length < 100_000) trips.push(performance.now() - began)
  })
}

/** Bursts on one channel, which changes its path now and then. */
function moving() {
  let channel = null
  let before = { sentBytes: 0, receivedBytes: 0 }
  every(1000, 'moving', async (round) => {
    channel ??= await last('echo')
    const sizes = Array.from({ length: 40 }, (_, i) => 4 + ((round * 40 + i) % 1500))
    const all = new Promise((resolve, reject) => {
      let at = 0
      channel.removeAllListeners('message')
      channel.on('message', (found) => {
        check(found.copy(), at, sizes[at])
        if (++at === sizes.length) resolve()
      })
      channel.closed.then((error) => reject(error ?? new Error('closed')))
    })
    for (const [i, size] of sizes.entries()) await channel.send(message(i, size))
    await all
    if (round % 5 !== 4) return
    await channel.usePath(channel.path === 'shm' ? 'unix' : 'shm')
    counts.moves++
    before = wrapped(channel, before)
  })
}

function large() {
  let channel = null
  every(5000, 'large', async (round) => {
    channel ??= await last('echo')
    await trip(channel, round, round % 6 === 5 ? 3_000_000 : 300_000)
    counts.large++
  })
}

/** Channels come and go; each lives long enough to wrap both ways. */
function coming() {
  every(500, 'coming', async (round) => {
    const channel = await peer.connect('echo', { wait: 20_000, ringSize: 4096 << (round % 5) })
    for (let i = 0; i < 45; i++) await trip(channel, i, 900)
    wrapped(channel, { sentBytes: 0, receivedBytes: 0 })
    await channel.close()
    counts.channels++
  })
}

function many() {
  every(20_000, 'many', async () => {
    const channels = await Promise.all(
      Array.from({ length: 64 }, () => peer.connect('echo', { wait: 20_000, ringSize: 4096 })),
    )
    await Promise.all(channels.map((channel, i) => trip(channel, i, 500)))
    await Promise.all(channels.map((channel) => channel.close()))
    counts.channels += channels.length
  })
}

function sockets() {
  const sent = Buffer.alloc(100_000, 'of the soak ')
  every(2000, 'sockets', async () => {
    const socket = net.connect('vmring:soak-net')
    const hash = createHash('md5')
    socket.end(sent)
    for await (const chunk of socket) hash.update(chunk)
    counts.sockets++
    counts.bytes += sent.length
    if (hash.digest('hex') !== createHash('md5').update(sent).digest('hex')) counts.wrong++
  })
}

serve({
  async start(role, region, relay) {
    // slow and steady: sleeps between messages, as an application that waits for its users does
    peer = await attach({ region: role === 'relay' ? null : region, relay, mode: 'event' })
    usedFirst = used()
    peer.on('lost', (error) => fail('region', error))
    if (role !== 'relay') net.usePeer(peer)
    if (role === 'server') {
      await echo('echo')
      const server = net.createServer((socket) => {
        socket.on('error', (error) => fail('socket', error))
        socket.pipe(socket)
      })
      await new Promise((resolve) => server.listen('vmring:soak-net', resolve))
      return
    }
    steady('echo', role === 'relay' ? 200 : 60)
    if (role === 'relay') return
    moving()
    large()
    coming()
    many()
    sockets()
  },
  sample() {
    globalThis.gc()
    const { heapUsed, external } = process.memoryUsage()
    const seen = trips
    trips = []
    return {
      heap: heapUsed + external, // the region is in it, and does not grow
      fds: readdirSync('/proc/self/fd').length,
      used: used(),
      p50: seen.length === 0 ? null : quantile(seen, 0.5),
      p99: seen.length === 0 ? null : quantile(seen, 0.99),
      counts: { ...counts },
      failures: failures.splice(0),
    }
  },
  async stop() {
    over = true
    await Promise.race([Promise.allSettled(work), sleep(20_000)])
    net.usePeer(null)
    await Promise.all(lasting.map((channel) => channel.close()))
    // what the others still read is given back when they say so
    for (let i = 0; i < 100 && used() !== usedFirst; i++) await sleep(50)
    const kept = used() === null ? 0 : used() - usedFirst
    await peer.close()
    return { ...counts, kept }
  },
})
