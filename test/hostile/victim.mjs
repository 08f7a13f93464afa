// One process among others: channels with numbered messages under each service that it is told, in one region or on the
// relay. Quiet ones (whose memory nobody touches) must bring every message; loud ones, in the memory that somebody scribbles
// over, may break, and must say so by an error of ours, in time.
//   node victim.mjs  <  { op, … } messages; says { … } messages
import { setTimeout as sleep } from 'node:timers/promises'
import { attach } from '../../dist/index.js'
import { ShmPath } from '../../dist/path/shm.js'

const LIMIT = 15_000 // ms that one call may take; all have shorter limits of their own, and the machine is shared
const STUCK = 400 // ms without a message, then a loud channel is given up
const LIFE = 2500 // ms, then it is closed
const told = {
  opened: 0,
  broken: 0,
  stuck: 0,
  refused: 0,
  messages: 0,
  bytes: 0,
  quiet: 0,
  joined: 0,
  gap: 0,
}
let codes = {}
const fail = (what) => process.send({ failure: what })
let stopped = false

process.on('disconnect', () => process.exit(0))
process.on('uncaughtException', (error, origin) => fail(`${origin}: ${error?.stack ?? error}`))

/** Errors that this package promises; anything else is a finding. */
function expected(error, what) {
  const code = error?.code
  if (!/^(ERR_VMRING_|E[A-Z]+$)/.test(String(code))) fail(`${what}: ${error?.stack ?? error}`)
  codes[code] = (codes[code] ?? 0) + 1
}

/** Everything ends, well or badly, within a bound. */
async function within(what, promise) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(Object.assign(new Error(`${what} hangs`), { hangs: true })), LIMIT)
  })
  try {
    return await Promise.race([promise, late])
  } catch (error) {
    if (error.hangs) fail(error.message)
    throw error
  } finally {
    clearTimeout(timer)
  }
}

// where the rings of loud channels are, for the scribbler: as docs/protocol.md has the OFFER
let telling = false
const { createEnd } = ShmPath.prototype
ShmPath.prototype.createEnd = function (spec) {
  const end = createEnd.call(this, spec)
  const offer = new DataView(end.offer.buffer, end.offer.byteOffset)
  const [capacity, ringOffset, readerOffset] = [
    offer.getUint32(0, true),
    Number(offer.getBigUint64(8, true)),
    Number(offer.getBigUint64(24, true)),
  ]
  if (telling)
    process.send({ ring: { section: this.network.peer.section, capacity, ringOffset, readerOffset } })
  return end
}

// ---- quiet: a small message every few milliseconds, and all must come

function quiet(channel, name) {
  let next = 0
  let last = performance.now()
  channel.on('message', (message) => {
    const now = performance.now()
    told.gap = Math.max(told.gap, now - last)
    last = now
    const number = Number(message.text())
    if (number !== next++) fail(`${name}: message ${number} came where ${next - 1} was due`)
    told.quiet++
  })
  channel.closed.then((error) => stopped || fail(`${name} ended: ${error?.stack ?? 'in order'}`))
  const check = setInterval(() => {
    told.gap = Math.max(told.gap, performance.now() - last)
    if (stopped) clearInterval(check)
  }, 50)
  void (async () => {
    for (let number = 0; !stopped; number++) {
      await channel.send(Buffer.from(String(number)))
      await sleep(2)
    }
  })().catch((error) => stopped || fail(`${name}: ${error?.stack ?? error}`))
}

// ---- loud: as much as goes through, of every size

const body = new Uint8Array(300_000).fill(65)

function loud(channel) {
  told.opened++
  const born = performance.now()
  let moved = born
  let over = false
  channel.on('message', (message) => {
    moved = performance.now()
    told.messages++
    told.bytes += message.length
    // every way to read it
    switch (told.messages % 4) {
      case 0:
        message.text()
        break
      case 1:
        try {
          message.json()
        } catch (error) {
          if (!(error instanceof SyntaxError)) fail(`json(): ${error?.stack ?? error}`)
        }
        break
      case 2:
        message.copy()
        break
      default:
        setTimeout(() => message.release(), 5)
        message.retain()
    }
  })
  const ended = channel.closed.then((error) => {
    over = true
    if (error !== null) {
      told.broken++
      expected(error, 'a channel')
    }
  })
  void (async () => {
    for (let i = 0; !over && !stopped; i++) {
      const length = i % 50 === 49 ? 100_000 + (i % 7) * 25_000 : i % 5 === 4 ? 9000 : (i * 37) % 500
      await channel.send(body.subarray(0, length))
      if (i % 16 === 15) await sleep(0)
    }
  })().catch((error) => over || stopped || expected(error, 'send'))
  const watch = setInterval(async () => {
    const now = performance.now()
    if (!over && !stopped && now - moved < STUCK && now - born < LIFE) return
    clearInterval(watch)
    if (!over) {
      if (now - moved >= STUCK) told.stuck++
      // in order if it can be had, by force if not
      const timer = setTimeout(() => channel.destroy(), 1000)
      await within('close', channel.close()).catch((error) => expected(error, 'close'))
      clearTimeout(timer)
    }
    await within('closed', ended).catch(() => {})
  }, 100)
  return ended
}

async function dial(peer, service) {
  while (!stopped && !peer.gone) {
    try {
      const channel = await within('connect', peer.connect(service, { wait: 500, ringSize: 65536 }))
      await loud(channel)
    } catch (error) {
      told.refused++
      expected(error, 'connect')
    }
    await sleep(5)
  }
}

// ---- what the parent says

const peers = new Map()

/** Attaches, and listens or dials; a loud one leaves and comes back every now and then, since its memory may be beyond use. */
async function join({ name, region, relay, service, dials, kind }) {
  telling = kind === 'loud'
  const peer = await within('attach', attach({ region, relay }))
  told.joined++
  peers.set(name, peer)
  peer.on('lost', () => {})
  if (!dials) {
    const server = await within('listen', peer.listen(service))
    server.on('channel', (channel) => (kind === 'quiet' ? quiet(channel, name) : void loud(channel)))
  } else if (kind === 'quiet') {
    quiet(await peer.connect(service, { wait: 30_000 }), name)
  } else {
    peer.dialling = Promise.all([dial(peer, service), dial(peer, service)])
  }
}

async function leave(name) {
  const peer = peers.get(name)
  if (peer === undefined) return
  peer.gone = true
  peers.delete(name)
  const settled = Promise.allSettled([peer.close(), peer.dialling])
  await within('peer.close', settled).catch(() => {})
}

const work = {
  join,
  async rejoin(how) {
    await leave(how.name)
    try {
      await join(how)
      return true
    } catch (error) {
      expected(error, 'attach')
      return false
    }
  },
  reset() {
    codes = {}
    for (const key of Object.keys(told)) told[key] = 0
  },
  told: () => ({ ...told, codes, rss: process.memoryUsage.rss() }),
  quieten() {
    stopped = true
  },
  async stop() {
    await Promise.all([...peers.keys()].map(leave))
    return true
  },
}

process.on('message', async ({ id, op, ...rest }) => {
  try {
    process.send({ id, value: await work[op](rest) })
  } catch (error) {
    process.send({ id, error: String(error?.stack ?? error) })
  }
})
process.send({ ready: true })
