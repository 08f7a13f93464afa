// What the bench's own work adds to a round trip of 64 bytes: sync, processors 0 and 1, variants in turns of 2,048 trips, those
// left out that something disturbed.
//   node bench/experiments/single.mjs [busy | adaptive] [ROOT OF ANOTHER BUILD]
import { join, resolve } from 'node:path'
import { summary } from './rounds.mjs'
import { accept, open, other } from './two.mjs'

const [mode = 'adaptive', root = resolve(import.meta.dirname, '../..')] = process.argv.slice(2)
const from = (path) => import(join(root, 'dist', path))
const { Checker, Writer } = await from('cli/bench/content.js')
const { Meter } = await from('cli/bench/meter.js')
const { clock } = await from('cli/bench/clock.js')
const { FloorKind } = await from('native/bench-types.js')
const { native } = await from('native/binding.js')
const SECONDS = 8
const SIZE = 64
const wait = { timeout: 10 }
const linkOf = (channel) => ({ send: (bytes) => (channel.trySend(bytes) ? 1 : -1), pool: () => 1 })

if (other) {
  const channel = await accept(root, mode)
  const writer = new Writer(linkOf(channel), SIZE, 'copy', 'header')
  const checker = new Checker(SIZE, 'header')
  checker.onMessage = (sequence) => writer.send(sequence)
  // a function of its own: what stands outside of all functions is never compiled well
  const take = () => {
    for (let i = 0; i < 1000; i++) {
      const message = channel.receiveSync(wait)
      if (message === null) return
      checker.whole(message.view)
      message.release()
    }
  }
  for (;;) {
    take()
    await new Promise(setImmediate)
  }
}
const { channel, end } = await open(import.meta.filename, [mode, root], root, mode)
const writer = new Writer(linkOf(channel), SIZE, 'copy', 'header')
const checker = new Checker(SIZE, 'header')
const bytes = new Uint8Array(SIZE)
let answered = -1
checker.onMessage = (sequence) => {
  answered = sequence
}
const meter = new Meter({ duration: 1e9, warmup: 0, idleGap: 0 }, () => {})
meter.begin(clock())
let sequence = 0
function trip() {
  const mine = sequence++
  writer.send(mine)
  do {
    const message = channel.receiveSync(wait)
    if (message !== null) {
      checker.whole(message.view)
      message.release()
    }
  } while (answered !== mine)
}
// A time above this was disturbed; the caches are warm again some trips later.
const DISTURBED = 5000
const COOL = 200
const results = {}
function variant(name, each, run) {
  const raw = new Float64Array(300_000)
  results[name] = { each, run, raw, filled: 0 }
}
variant('rounds of 16, the clock outside', 16, (raw, at) => {
  const begin = clock()
  for (let i = 0; i < 16; i++) trip()
  raw[at] = ((clock() - begin) * 1e6) / 16
})
variant('single trips, the clock alone', 1, (raw, at) => {
  const begin = clock()
  trip()
  raw[at] = (clock() - begin) * 1e6
})
variant('single trips, as the bench', 1, (raw, at) => {
  const begin = clock()
  trip()
  const end = clock()
  meter.record(end - begin)
  meter.tick(end)
  raw[at] = (end - begin) * 1e6
})
variant('rounds of 16, the least an application does', 16, (raw, at) => {
  const begin = clock()
  for (let i = 0; i < 16; i++) {
    bytes[0] = sequence
    bytes[1] = sequence >>> 8
    bytes[2] = sequence >>> 16
    bytes[3] = sequence >>> 24
    sequence++
    channel.trySend(bytes)
    let message = channel.receiveSync(wait)
    while (message === null) message = channel.receiveSync(wait)
    checker.whole(message.view)
    message.release()
  }
  raw[at] = ((clock() - begin) * 1e6) / 16
})
variant('single trips, 1 us of rest before each', 1, (raw, at) => {
  const rest = clock() + 0.001
  while (clock() < rest);
  const begin = clock()
  trip()
  raw[at] = (clock() - begin) * 1e6
})
const until = performance.now() + SECONDS * 1000
for (let round = 0; performance.now() < until; round++) {
  for (const one of Object.values(results)) {
    if (round === 200) one.filled = 0
    for (let i = 0; i < 2048 / one.each && one.filled < one.raw.length; i++) one.run(one.raw, one.filled++)
  }
}
for (const [name, { raw, filled, each }] of Object.entries(results)) {
  const kept = []
  let calm = 0
  for (let i = 0; i < filled; i++) {
    calm = raw[i] > DISTURBED ? 0 : calm + each
    if (calm > COOL) kept.push(raw[i])
  }
  console.log(`${name}, ${kept.length} of ${filled}: ${summary(kept)}`)
}
const line = native.benchFloor(FloorKind.CACHE_LINE, 0, 1, 5e8, 0, 64, 65536)
const ring = native.benchFloor(FloorKind.RING, 0, 1, 5e8, 0, 64, 65536)
console.log(`a cache line ${line.toFixed(0)} ns, the ring alone ${ring.toFixed(0)} ns`)
await end()
