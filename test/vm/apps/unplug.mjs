// unplug.mjs REGION: takes and keeps the first message, leaves the others unread, and opens a send lease. When the device
// has gone, says what can still be read.
import { setTimeout as sleep } from 'node:timers/promises'
import { attach } from '../../../dist/index.js'

const say = (said, more) => console.log(JSON.stringify({ said, ...more }))
const peer = await attach({ region: process.argv[2] })
const server = await peer.listen('unplug')
const [channel] = await new Promise((resolve) => server.once('channel', (...args) => resolve(args)))
let first = null
while (first === null) {
  await sleep(10)
  first = channel.receive()
}
first.retain()
const lease = channel.reserve(100)
lease.data.fill(7)
const lost = new Promise((resolve) => peer.once('lost', resolve))
say('holding')
const error = await lost
const texts = []
await sleep(500)
for (let next = channel.receive(); next !== null; next = channel.receive()) {
  texts.push(next.text())
  next.release()
}
say('kept', {
  code: error.code,
  first: first.text(),
  rest: texts.length,
  last: texts.at(-1),
  lease: lease.data.every((byte) => byte === 7),
  sending: channel.trySend(Buffer.alloc(8)) === false,
})
const ended = await channel.closed
say('ended', { code: ended?.code, from: ended?.from, to: ended?.to })
await peer.close()
