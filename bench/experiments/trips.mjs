// Round trips of 64 bytes between two processes on processors 0 and 1, the clock read once for 64 of them.
//   node bench/experiments/trips.mjs [sync | event | iterate] [busy | adaptive] [ROOT OF ANOTHER BUILD]
import { join, resolve } from 'node:path'
import { FloorKind } from '../../dist/native/bench-types.js'
import { summary } from './rounds.mjs'
import { answer, measure } from './trip.mjs'
import { accept, open, other } from './two.mjs'

const [api = 'sync', mode = 'busy', root = resolve(import.meta.dirname, '../..')] = process.argv.slice(2)
const { native } = await import(join(root, 'dist/native/binding.js'))
const SECONDS = 4

if (other) {
  answer(await accept(root, mode), api)
} else {
  const { channel, end } = await open(import.meta.filename, [api, mode, root], root, mode)
  measure(channel, api, SECONDS, (times) => {
    const line = native.benchFloor(FloorKind.CACHE_LINE, 0, 1, 2e8, 0, 64, 65536)
    console.log(`${api}, ${mode}: ${summary(times)}; a cache line ${line.toFixed(0)} ns`)
    void end()
  })
}
