// One life with everything in it, from attach to close, in one of two roles; run from the instrumented copy of dist.
import { once } from 'node:events'
import { message } from './kill-traffic.mjs'
import { serve, sleep } from './lib.mjs'

const { attach } = await import(process.argv[2])
const CHANNELS = 5
const open = []
let peer
let whose
let answers = 0

function take(channel) {
  open.push(channel)
  channel.on('error', () => {})
  channel.on('message', () => {
    answers++
  })
}

const tell = serve({
  async open(role, region, relay, name) {
    whose = name
    peer = await attach({ region, relay, mode: 'event' })
    peer.on('rejoined', () => tell('rejoined'))
    if (role === 'listener') {
      const server = await peer.listen(`victim-${name}`)
      server.on('channel', take)
      while (open.length < CHANNELS) await once(server, 'channel')
    } else {
      while (open.length < CHANNELS) take(await peer.connect('survivor', { wait: 10_000 }))
    }
    for (const channel of open) await channel.send(message(whose, 0, 300))
    while (answers < CHANNELS) await sleep(1)
    return peer.uuid
  },
  async talk() {
    const [channel, closing, torn] = open
    let number = 1
    const say = (length) => message(whose, number++, length)
    for (let i = 0; i < 4; i++) {
      const lease = channel.reserve(200)
      lease.data.set(say(200))
      lease.commit()
      channel.trySend(say(100))
    }
    await channel.send(say(150_000))
    await channel.usePath('unix')
    await channel.send(say(150_000))
    await channel.usePath('shm')
    await channel.send(say(10))
    torn.destroy()
    await closing.close()
  },
  attached: () => peer !== undefined,
  closeAll: () => Promise.all(open.map((channel) => channel.close())),
  steps: () => globalThis.vmringSteps,
  close: () => peer.close(),
})
tell('ready')
