// Round trips of 64 bytes between two processes on processors 0 and 1, the clock read once for 64 of them.
//   node bench/experiments/trips.mjs [sync | event | iterate] [busy | adaptive] [ROOT OF ANOTHER BUILD]
import { join, resolve } from 'node:path'
import { FloorKind } from '../../dist/native/bench-types.js'
import { summary } from './rounds.mjs'
import { accept, open, other } from './two.mjs'

const [api = 'sync', mode = 'busy', root = resolve(import.meta.dirname, '../..')] = process.argv.slice(2)
const { native } = await import(join(root, 'dist/native/binding.js'))
const TRIPS = 64
const SECONDS = 4
const bytes = new Uint8Array(64)
const wait = { timeout: 10 }

async function take(channel, onMessage) {
  if (api === 'event') {
    channel.on('message', onMessage)
  } else if (api === 'iterate') {
    for await (const message of channel) onMessage(message)
  } else {
    for (;;) {
      for (let i = 0; i < 20_000; i++) {
        const message = channel.receiveSync(wait)
        if (message === null) break
        onMessage(message)
        message.release()
      }
      await new Promise(setImmediate)
    }
  }
}

if (other) {
  const channel = await accept(root, mode)
  take(channel, (message) => {
    bytes[0] = message.view[0]
    channel.trySend(bytes)
  })
} else {
  const { channel, end } = await open(import.meta.filename, [api, mode, root], root, mode)
  const times = []
  let count = 0
  let begin = performance.now()
  const until = begin + SECONDS * 1000
  take(channel, (message) => {
    if (++count === TRIPS) {
      const now = performance.now()
      times.push(((now - begin) * 1e6) / TRIPS)
      count = 0
      begin = now
      if (now > until) {
        const line = native.benchFloor(FloorKind.CACHE_LINE, 0, 1, 2e8, 0, 64, 65536)
        console.log(`${api}, ${mode}: ${summary(times)}; a cache line ${line.toFixed(0)} ns`)
        void end()
        return
      }
    }
    bytes[0] = message.view[0]
    channel.trySend(bytes)
  })
  channel.trySend(bytes)
}
