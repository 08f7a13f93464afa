// pingpong.mjs REGION ping|pong ROUNDS: what ring_pingpong.cc does, in JavaScript: round trips of 64-byte messages in event
// mode. ping prints JSON with times in nanoseconds.
import { attach } from '../../../dist/index.js'

const [region, role, text] = process.argv.slice(2)
const rounds = Number(text)
const warmUp = Math.ceil(rounds / 5) // the engine compiles what it sees often
const peer = await attach({ region, mode: 'event' })

if (role === 'pong') {
  const server = await peer.listen('pingpong')
  server.on('channel', (channel) => {
    channel.on('message', (message) => channel.trySend(message.view))
    channel.closed.then(() => peer.close())
  })
  console.log('ready')
} else {
  const channel = await peer.connect('pingpong', { wait: 60_000 })
  const out = new Uint8Array(64)
  const times = []
  let start = 0
  const send = () => {
    out[0] = times.length & 0xff
    start = performance.now()
    if (!channel.trySend(out)) channel.destroy(new Error('no room for 64 bytes'))
  }
  await new Promise((resolve, reject) => {
    channel.on('error', reject)
    channel.on('message', (message) => {
      const end = performance.now()
      if (message.view[0] !== (times.length & 0xff)) return reject(new Error('a message came back changed'))
      times.push((end - start) * 1e6)
      if (times.length === warmUp + rounds) resolve()
      else send()
    })
    send()
  })
  const sorted = times.slice(warmUp).sort((a, b) => a - b)
  const { rescued, doorbells, sleeps } = peer.counters()
  console.log(JSON.stringify({ rounds, p50: sorted[rounds >> 1], rescued, doorbells, sleeps }))
  await channel.close()
  await peer.close()
}
