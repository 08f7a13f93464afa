// The processes of the storm: two that talk to each other, and one that rings them, or only burns its processor.
import { attach } from '../../dist/index.js'
import { native } from '../../dist/native/binding.js'
import { connectIvshmem } from '../../dist/path/ivshmem-client.js'
import { serve, sleep } from './lib.mjs'

let peer
let channel
let received = 0
const doorbells = []
const own = []

serve({
  async talk(region, mode) {
    peer = await attach({ region, relay: 'none', mode })
    const server = await peer.listen('busy')
    server.on('channel', (one) => {
      one.on('message', (message) => {
        received++
        one.trySend(message.view)
      })
    })
  },
  async connect(region, mode) {
    peer = await attach({ region, relay: 'none', mode })
    channel = await peer.connect('busy', { wait: 10_000 })
    channel.on('message', () => {
      received++
    })
  },
  /** Messages there and back, in bunches, for so long: how many there were. */
  async traffic(ms, bunch) {
    const bytes = new Uint8Array(64)
    const end = performance.now() + ms
    received = 0
    let sent = 0
    while (performance.now() < end) {
      for (let i = 0; i < bunch && channel.trySend(bytes); i++) sent++
      for (let i = 0; received < sent && performance.now() < end; i++) {
        await new Promise(setImmediate)
        if (i > 1000) await sleep(0)
      }
    }
    const count = received
    while (received < sent) await sleep(1)
    return count
  },
  counters: () => peer.counters(),

  /** A member that speaks the daemon's protocol and nothing else. */
  async join(region) {
    const connection = await connectIvshmem(region.slice('unix:'.length))
    await new Promise((resolve) => {
      connection.start({
        onJoin: (_id, vector, fd) => {
          if (vector === 0) doorbells.push(fd)
          if (doorbells.length >= 2) resolve()
        },
        onLeave() {},
        onLost() {},
      })
    })
    for (const _ of doorbells) own.push(native.eventfd())
  },
  /** Writes so many doorbells a second, for so long, to the others or to eventfds that nobody reads. How many there were. */
  async ring(ms, perSecond, storm) {
    const began = performance.now()
    const fds = storm ? doorbells : own
    let rung = 0
    for (;;) {
      const elapsed = performance.now() - began
      if (elapsed >= ms) return rung
      const due = Math.min((elapsed / 1000) * perSecond, rung + 5000)
      for (; rung < due; rung++) native.eventfdSignal(fds[rung & 1])
      if (rung % 50_000 < 1000) await new Promise(setImmediate)
    }
  },
})
