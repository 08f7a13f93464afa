// mesh.mjs REGION INDEX COUNT BYTES: one of COUNT processes, each of which talks to all others at once. Every side of every
// pair sends its index, BYTES of noise, and their checksum, and checks what it gets.
import { createHash, randomBytes } from 'node:crypto'
import { attach } from '../../../dist/index.js'

const [region, ...numbers] = process.argv.slice(2)
const [index, count, bytes] = numbers.map(Number)
const CHUNK = 16 * 1024
const say = (said, more) => console.log(JSON.stringify({ said, ...more }))

async function send(channel) {
  const noise = randomBytes(bytes)
  await channel.send(Buffer.from(String(index)))
  for (let at = 0; at < bytes; at += CHUNK) await channel.send(noise.subarray(at, at + CHUNK))
  await channel.send(createHash('sha256').update(noise).digest())
  await channel.end()
}

async function receive(channel) {
  const messages = []
  for await (const message of channel) messages.push(Buffer.from(message.copy()))
  const other = Number(messages[0])
  const noise = Buffer.concat(messages.slice(1, -1))
  const right = noise.length === bytes && createHash('sha256').update(noise).digest().equals(messages.at(-1))
  say('pair', { other, right })
}

const peer = await attach({ region })
const talks = []
let accepted
const all = new Promise((resolve) => {
  accepted = resolve
})
const talk = (channel) => {
  // The faster side may be through with everybody and gone before this one hears that its end was heard.
  const close = () => channel.close().catch(() => {})
  channel.on('error', () => {})
  talks.push(Promise.all([send(channel), receive(channel)]).then(close))
  if (talks.length === count - 1) accepted()
}
const server = await peer.listen(`mesh-${index}`)
server.on('channel', talk)
say('ready')
// those with a lower index are called, those with a higher one call
for (let other = 0; other < index; other++) {
  peer.connect(`mesh-${other}`, { wait: 120_000, ringSize: 64 * 1024 }).then(talk)
}
await all
await Promise.all(talks)
const { doorbells, rescued } = peer.counters()
say('done', { doorbells, rescued })
await server.close()
await peer.close()
