// A receiver that waits. At its second message it says what woke it.
import { attach } from '../../../dist/index.js'

const peer = await attach({ region: process.argv[2], mode: 'event' })
const server = await peer.listen('idle')
let heard = 0
server.on('channel', (channel) => {
  channel.on('message', () => {
    heard++
    console.log(JSON.stringify({ said: heard === 1 ? 'heard' : 'woken', ...peer.counters() }))
    if (heard === 2) setTimeout(() => peer.close(), 100)
  })
})
console.log(JSON.stringify({ said: 'ready' }))
