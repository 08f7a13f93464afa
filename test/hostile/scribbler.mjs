// A process that scribbles over one area of a region, in bursts. It hears { ring }, { area }, { pause }, { restore }, { stop }.
//   node scribbler.mjs FILE SEED
import { openSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { native } from '../../dist/native/binding.js'
import { Liar, Random } from './layout.mjs'

const [file, seed] = process.argv.slice(2)
const region = native.Region.fromFd(openSync(file, 'r+'))
const random = new Random(Number(seed))
const liar = new Liar(region.buffer, random)
const bytes = new Uint8Array(region.buffer)
const start = bytes.slice(0, 4096)
let area = null
let stopped = false

process.on('disconnect', () => process.exit(0))
process.on('message', (message) => {
  if (message.ring !== undefined) liar.ring(message.ring)
  if (message.area !== undefined) area = message.area
  // what only whoever formats the region writes
  if (message.restore) bytes.set(start)
  if (message.stop) stopped = true
  if (message.ask) process.send({ answer: message.ask, lies: liar.lies })
})
process.send({ ready: true })
// One lie about who is there ends everything until the next look: fewer of these, or there would be no traffic to disturb.
const rare = () => area === 'table' || area === 'identity'
while (!stopped) {
  if (area !== null) {
    for (let i = 1 + random.below(rare() ? 4 : 64); i > 0; i--) liar.lie(area)
  }
  await sleep(random.below(rare() ? 60 : 8))
}
process.exit(0)
