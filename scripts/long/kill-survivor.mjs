// The process that must not notice more than it has to. It listens for one kind of victim and connects to the other, answers
// everybody, and keeps account of each channel. In the role of the witness: a third process that talks to it all the time.
import { attach } from '../../dist/index.js'
import { Inbox, message, now } from './kill-traffic.mjs'
import { serve, sleep } from './lib.mjs'

let peer
let tell = () => {}
const open = new Set()
const over = []
const reaching = new Map()
const witness = { sent: 0, got: 0, wrong: 0, longest: 0, last: 0, failures: [] }

/** Takes all that comes and answers each message with one of its own. */
function attend(channel, whose) {
  const inbox = new Inbox()
  inbox.whose = whose
  const one = { inbox, answers: 0, channel }
  open.add(one)
  channel.on('error', () => {})
  channel.on('message', (found) => {
    inbox.take(found, channel.path === 'shm')
    if (channel.writable && channel.trySend(message(inbox.whose ?? 0, one.answers, inbox.received % 700)))
      one.answers++
  })
  channel.closed.then((error) => {
    const at = now()
    inbox.letGo()
    open.delete(one)
    const { whose, received, wrong } = inbox
    over.push({ whose, received, wrong, at, code: error === null ? null : (error.code ?? error.message) })
    channel.removeAllListeners()
  })
}

tell = serve({
  async start(role, region, relay) {
    peer = await attach({ region, relay, mode: 'event' })
    peer.on('rejoined', () => tell({ rejoined: now() }))
    const server = await peer.listen(role)
    if (role === 'survivor') server.on('channel', (channel) => attend(channel, null))
    else
      server.on('channel', (channel) =>
        channel.on('message', (found) => channel.send(found.copy()).catch(() => {})),
      )
  },
  /** To a victim that listens: three channels; what was refused, and with which code. */
  async reach(whose, channels = 3) {
    const refused = []
    const waiting = new AbortController()
    reaching.set(whose, waiting)
    for (let i = 0; i < channels; i++) {
      try {
        attend(await peer.connect(`victim-${whose}`, { wait: 30_000, signal: waiting.signal }), whose)
      } catch (error) {
        refused.push(waiting.signal.aborted ? 'abandoned' : (error.code ?? error.message))
        break
      }
    }
    reaching.delete(whose)
    return refused
  },
  /** That victim is dead: whoever waits until it listens waits in vain. */
  abandon: (whose) => reaching.get(whose)?.abort(),
  /** When nothing is left of those who are gone: what became of each channel. */
  async settled(limit) {
    const end = now() + limit
    while (open.size > 0 && now() < end) await sleep(5)
    return { left: open.size, over: over.splice(0) }
  },
  /** Ends what is open, whatever the other side says. */
  giveUp() {
    for (const { channel } of open) channel.destroy()
  },
  /** How many channels to victims have taken a message since the last question. */
  received: () => [...open].map(({ inbox }) => inbox.received),
  /** Ends two of the channels to that victim, one in each way, and moves the rest there and back. */
  async partWith(whose) {
    const [first, second, ...rest] = [...open].filter(({ inbox }) => inbox.whose === whose)
    second?.channel.destroy()
    for (const { channel } of rest) {
      // whatever goes wrong here shows when the channel is over
      await channel.usePath('unix').catch(() => {})
      await channel.usePath('shm').catch(() => {})
    }
    await first?.channel.close()
  },
  free: () => peer.counters().freeBytes,
  peers: () => peer.peers().length,
  uuid: () => peer.uuid,
  /** The witness: two channels to the survivor's own service, one message every other millisecond. */
  async talk(service) {
    const channels = []
    for (let i = 0; i < 2; i++) channels.push(await peer.connect(service, { wait: 10_000 }))
    witness.last = now()
    for (const channel of channels) {
      let next = 0
      channel.closed.then((error) => {
        if (error !== null) witness.failures.push(error.code ?? error.message)
      })
      channel.on('message', (found) => {
        const at = now()
        witness.longest = Math.max(witness.longest, at - witness.last)
        witness.last = at
        if (Buffer.from(found.copy()).readUInt32LE(4) !== next++) witness.wrong++
        witness.got++
      })
    }
    let number = 0
    const timer = setInterval(() => {
      for (const channel of channels) {
        if (channel.writable && !channel.trySend(message(1, number, 100))) witness.wrong++
      }
      number++
      witness.sent += channels.length
    }, 4)
    witness.end = async () => {
      clearInterval(timer)
      await Promise.all(channels.map((channel) => channel.close()))
    }
  },
  /** What the witness has seen since the last question. */
  seen() {
    const { sent, got, wrong, longest, failures } = witness
    Object.assign(witness, { sent: 0, got: 0, wrong: 0, longest: 0, last: now(), failures: [] })
    return { sent, got, wrong, longest, failures }
  },
  end: () => witness.end(),
  /** A channel of its own: five messages there and back, large ones too, and an orderly end. */
  async probe(service) {
    const channel = await peer.connect(service, { wait: 5000 })
    let come = 0
    const done = new Promise((resolve, reject) => {
      channel.on('message', (found) => {
        if (Buffer.from(found.copy()).readUInt32LE(4) !== come++) reject(new Error('a probe came back wrong'))
        if (come === 5) resolve()
      })
      channel.closed.then((error) => reject(error ?? new Error('closed')))
    })
    for (let number = 0; number < 5; number++) await channel.send(message(9, number, 100 + number * 12_000))
    await done
    await channel.close()
  },
  leave: () => peer.close(),
  gc: () => globalThis.gc(),
})
