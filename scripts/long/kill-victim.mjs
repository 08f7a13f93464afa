// A process that will be killed: in one of two roles it exchanges messages over several channels, some of them large, and
// opens, moves and closes channels meanwhile.
import { attach } from '../../dist/index.js'
import { Inbox, message } from './kill-traffic.mjs'
import { random, serve, sleep } from './lib.mjs'

let wrong = 0
let answered = 0
let tell = () => {}

function listenTo(channel) {
  const inbox = new Inbox()
  channel.on('error', () => {})
  channel.on('message', (found) => {
    inbox.take(found, false)
    wrong += inbox.wrong
    inbox.wrong = 0
    if (inbox.received === 1 && ++answered === 3) tell('going')
  })
}

/** Sends for ever. Kind 0: small ones in bursts; 1: large ones too; 2: moves between its messages. */
async function talk(channel, whose, kind, dice) {
  listenTo(channel)
  for (let number = 0; ; number++) {
    const length = kind === 1 && number % 8 === 7 ? 20_000 + dice.below(200_000) : dice.below(1500)
    await channel.send(message(whose, number, length))
    if (kind === 2 && number % 24 === 23) await channel.usePath(channel.path === 'shm' ? 'unix' : 'shm')
    if (number % (1 + dice.below(24)) === 0) await sleep(dice.below(4))
  }
}

tell = serve({
  async run({ role, region, relay, whose, seed, steps }) {
    const dice = random(seed)
    const peer = await attach({ region, relay, mode: 'event' })
    peer.on('rejoined', () => tell('rejoined'))
    // this process never ends by itself: what fails, fails because somebody else was killed
    const quietly = (work) => work.catch((error) => tell({ failed: `${error.code} ${error.message}` }))
    if (role === 'listener') {
      const server = await peer.listen(`victim-${whose}`)
      let count = 0
      server.on('channel', (channel) => void quietly(talk(channel, whose, count++ % 3, dice)))
    } else {
      for (let kind = 0; kind < 3; kind++) {
        const channel = await peer.connect('survivor', { wait: 10_000 })
        void quietly(talk(channel, whose, kind, dice))
      }
      // channels that come and go: one is often in the middle of opening or closing
      for (let round = 0; ; round++) {
        const channel = await peer.connect('survivor', { wait: 10_000, ringSize: 4096 })
        channel.on('error', () => {})
        for (let number = 0; number < 3; number++) await channel.send(message(whose, number, dice.below(900)))
        await channel.close()
        await sleep(dice.below(20))
        if (steps && round > 3) break
      }
    }
  },
  wrong: () => wrong,
})
tell('ready')
