import { expect, test } from 'vitest'
import { sleep, startDaemon, until } from '../support/processes.js'
import { remote } from '../support/remote.js'

type Channel = import('../../src/index.js').Channel
type Peer = import('../../src/index.js').Peer

interface Reader {
  peer: Peer
  got: number[]
}

interface Sender {
  peer: Peer
  channel: Channel
  other: Channel
  events: string[]
  sent: number
  longest: number
  answers: number
}

/** Each message carries its number and fills a page, so that a stopped reader is felt soon. */
const reader = async (region: string, service: string) => {
  const process_ = await remote<Reader>()
  await process_.run(
    async ({ vmring, state }, address, name) => {
      state.peer = await vmring.attach({ region: address })
      state.got = []
      const server = await state.peer.listen(name)
      server.on('channel', (channel) => {
        channel.on('error', () => {})
        channel.on('message', (message) => {
          const { buffer, byteOffset } = message.view
          state.got.push(new DataView(buffer, byteOffset).getUint32(0, true))
          if (name === 'echo') channel.trySend(message.view)
        })
      })
    },
    region,
    service,
  )
  return process_
}

const sender = async (region: string) => {
  const process_ = await remote<Sender>()
  await process_.run(async ({ vmring, state }, address) => {
    state.peer = await vmring.attach({ region: address })
    state.events = []
    state.sent = 0
    state.answers = 0
    state.longest = 0
    // the longest time for which nothing else in this process got its turn
    let last = performance.now()
    setInterval(() => {
      const now = performance.now()
      state.longest = Math.max(state.longest, now - last)
      last = now
    }, 5)
    state.channel = await state.peer.connect('slow', { wait: 10_000 })
    for (const name of ['stalled', 'resumed', 'drain'] as const)
      state.channel.on(name, () => state.events.push(name))
    state.channel.on('error', (error) => state.events.push(`error: ${error.message}`))
  }, region)
  return process_
}

const ascending = (count: number) => Array.from({ length: count }, (_, i) => i)

test('a stopped reader: trySend says no, send waits, nothing blocks, and nothing is lost when it goes on', async () => {
  const { region } = await startDaemon(['--size', '8M', '--sections', '4'])
  const slow = await reader(region, 'slow')
  const echo = await reader(region, 'echo')
  const writer = await sender(region)
  await writer.run(async ({ state }) => {
    state.other = await state.peer.connect('echo', { wait: 10_000 })
    state.other.on('message', () => {
      state.answers++
    })
    state.longest = 0
  })

  slow.signal('SIGSTOP')
  const filled = await writer.run(async ({ state, sleep, tell }) => {
    const message = (number: number) => {
      const bytes = new Uint8Array(4096)
      new DataView(bytes.buffer).setUint32(0, number, true)
      return bytes
    }
    while (state.channel.trySend(message(state.sent))) state.sent++
    const waiting = state.channel.send(message(state.sent++))
    let accepted = false
    void waiting.then(() => {
      accepted = true
      tell('accepted')
    })
    // the other channel goes on meanwhile
    for (let i = 0; i < 200; i++) {
      state.other.trySend(message(i))
      await sleep(10)
    }
    return { sent: state.sent, accepted, answers: state.answers, again: state.channel.trySend(message(0)) }
  })
  expect(filled.sent).toBeGreaterThan(10)
  expect(filled).toMatchObject({ accepted: false, again: false })
  expect(filled.answers).toBeGreaterThan(150)
  await until(
    async () => (await writer.run(({ state }) => state.events)).includes('stalled'),
    10_000,
    "'stalled'",
  )
  const quiet = await writer.run(({ state }) => ({ events: state.events, longest: state.longest }))
  expect(quiet.events).toEqual(['stalled'])
  // nothing came near the two seconds for which the reader has been stopped
  expect(quiet.longest).toBeLessThan(1000)

  slow.signal('SIGCONT')
  expect(await writer.next()).toBe('accepted')
  await until(
    async () => {
      const events = await writer.run(({ state }) => state.events)
      return events.includes('drain') && events.includes('resumed')
    },
    10_000,
    "'drain' and 'resumed'",
  )
  await until(
    async () => (await slow.run(({ state }) => state.got.length)) === filled.sent,
    20_000,
    'all have arrived',
  )
  expect(await slow.run(({ state }) => state.got)).toEqual(ascending(filled.sent))
  expect(
    (await writer.run(({ state }) => state.events)).filter((event) => event.startsWith('error')),
  ).toEqual([])
  await echo.stop()
})

test('stopped again and again at arbitrary moments under load: the others go on, nothing is lost', async () => {
  const { region } = await startDaemon(['--size', '8M', '--sections', '4'])
  const slow = await reader(region, 'slow')
  await reader(region, 'echo')
  const writer = await sender(region)
  await writer.run(async ({ state, once }) => {
    state.other = await state.peer.connect('echo', { wait: 10_000 })
    state.longest = 0
    const bytes = (number: number) => {
      const message = new Uint8Array(512)
      new DataView(message.buffer).setUint32(0, number, true)
      return message
    }
    state.other.on('message', () => {
      state.answers++
      state.other.trySend(bytes(state.answers))
    })
    state.other.trySend(bytes(0))
    void (async () => {
      for (;;) {
        if (!state.channel.writable) return
        if (state.channel.trySend(bytes(state.sent))) state.sent++
        else await once(state.channel, 'drain')
        if (state.sent % 64 === 0) await new Promise(setImmediate)
      }
    })().catch((error: Error) => state.events.push(`error: ${error.message}`))
  })

  for (let round = 0; round < 25; round++) {
    await sleep(20 + ((round * 7919) % 37))
    slow.signal('SIGSTOP')
    const before = await writer.run(({ state }) => state.answers)
    await sleep(60)
    const after = await writer.run(({ state }) => state.answers)
    slow.signal('SIGCONT')
    expect(after).toBeGreaterThan(before)
  }
  const sent = await writer.run(({ state }) => {
    state.channel.end()
    return state.sent
  })
  expect(sent).toBeGreaterThan(1000)
  const got = async () => await slow.run(({ state }) => state.got.length)
  await until(async () => (await got()) >= sent, 30_000, `all ${sent} have arrived`)
  const order = await slow.run(({ state }) => ({
    count: state.got.length,
    wrong: state.got.findIndex((number, i) => number !== i),
  }))
  expect(order).toEqual({ count: sent, wrong: -1 })
  const { events, longest } = await writer.run(({ state }) => ({
    events: state.events,
    longest: state.longest,
  }))
  expect(events.filter((event) => event.startsWith('error'))).toEqual([])
  expect(longest).toBeLessThan(1000)
})
