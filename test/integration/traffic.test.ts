import { expect, test } from 'vitest'
import { SLACK, startDaemon } from '../support/processes.js'
import { type RemoteContext, remote } from '../support/remote.js'

const CHANNELS = 8
const MESSAGES = 1_000_000
const EACH = MESSAGES / CHANNELS / 2
/** Resident memory may grow by this much between the first quarter and the end; 32 GB pass through. */
const FLAT_BYTES = 48 * 2 ** 20

interface State {
  peer: import('../../src/index.js').Peer
}

interface Job {
  region: string
  side: 'connect' | 'listen'
  channels: number
  /** messages on each channel, each way */
  each: number
}

interface Outcome {
  sent: number
  received: number
  bytes: number
  wrong: string[]
  /** {messages received so far, resident bytes}, twice a second */
  memory: [number, number][]
}

/** Runs in both processes. Sizes and contents come from seeded generators that both sides know. */
async function exchange({ vmring, once, state, tell }: RemoteContext<State>, job: Job): Promise<Outcome> {
  const LARGEST = 65_536
  const generator = (seed: number) => () => {
    seed = (seed + 0x6d2b79f5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return (t ^ (t >>> 14)) >>> 0
  }
  // messages are slices of one random table: a changed, lost, doubled or moved one differs from what its place demands
  const span = 2 ** 20
  const table = Buffer.alloc(span + LARGEST)
  const random = generator(1)
  for (let i = 0; i < table.length; i += 4) table.writeUInt32LE(random(), i)
  const plan = (channel: number, fromConnector: boolean) => {
    const next = generator(1000 + channel * 2 + (fromConnector ? 1 : 0))
    return () => {
      const length = next() % (LARGEST + 1)
      const offset = next() % span
      return table.subarray(offset, offset + length)
    }
  }

  const outcome: Outcome = { sent: 0, received: 0, bytes: 0, wrong: [], memory: [] }
  const connecting = job.side === 'connect'
  state.peer = await vmring.attach({ region: job.region })

  const receiveAll = (channel: import('../../src/index.js').Channel, index: number) =>
    new Promise<void>((resolve, reject) => {
      const expected = plan(index, !connecting)
      let count = 0
      const finish = (error?: Error) => (error ? reject(error) : resolve())
      channel.on('error', finish)
      channel.on('end', () => {
        if (count !== job.each) outcome.wrong.push(`channel ${index} ended after ${count} messages`)
        finish()
      })
      channel.on('message', (message) => {
        const bytes = expected()
        if (message.length !== bytes.length || bytes.compare(message.view) !== 0) {
          if (outcome.wrong.length < 10)
            outcome.wrong.push(
              `channel ${index}, message ${count}: ${message.length} bytes, not the ${bytes.length} expected`,
            )
        }
        count++
        outcome.received++
        outcome.bytes += message.length
      })
    })

  const sendAll = async (channel: import('../../src/index.js').Channel, index: number) => {
    const bytes = plan(index, connecting)
    for (let i = 0; i < job.each; i++) {
      const next = bytes()
      if (next.length > channel.inlineLimit) await channel.send(next)
      else if (i % 8 === 0) {
        let lease = channel.reserve(next.length)
        while (lease === null) {
          await once(channel, 'drain')
          lease = channel.reserve(next.length)
        }
        lease.data.set(next)
        lease.commit()
      } else while (!channel.trySend(next)) await once(channel, 'drain')
      outcome.sent++
    }
    channel.end()
  }

  const sample = setInterval(() => outcome.memory.push([outcome.received, process.memoryUsage.rss()]), 500)
  const work: Promise<void>[] = []
  const serve = (channel: import('../../src/index.js').Channel, index: number) => {
    work.push(receiveAll(channel, index), sendAll(channel, index))
  }
  if (connecting) {
    for (let i = 0; i < job.channels; i++)
      serve(await state.peer.connect(`traffic-${i}`, { wait: 10_000 }), i)
  } else {
    const opened: Promise<unknown>[] = []
    for (let i = 0; i < job.channels; i++) {
      const server = await state.peer.listen(`traffic-${i}`)
      opened.push(once(server, 'channel').then(([channel]) => serve(channel, i)))
    }
    tell('listening')
    await Promise.all(opened)
  }
  await Promise.all(work)
  clearInterval(sample)
  await state.peer.close()
  return outcome
}

test('a million messages of 0 to 64 KiB, each way at once on 8 channels: none lost, doubled, reordered or changed', async () => {
  const { region } = await startDaemon(['--sections', '2'])
  const [left, right] = await Promise.all([remote<State>(), remote<State>()])
  const job = { region, channels: CHANNELS, each: EACH }
  const deadline = 60_000 * SLACK
  const begin = performance.now()
  const listening = left.start(exchange, [{ ...job, side: 'listen' as const }], deadline)
  await left.next()
  const [a, b] = await Promise.all([
    listening,
    right.start(exchange, [{ ...job, side: 'connect' as const }], deadline),
  ])
  const seconds = (performance.now() - begin) / 1000
  for (const side of [a, b]) {
    expect(side.wrong).toEqual([])
    expect(side).toMatchObject({ sent: MESSAGES / 2, received: MESSAGES / 2 })
    const warm = side.memory.filter(([received]) => received >= MESSAGES / 8)
    const growth = Math.max(...warm.map(([, rss]) => rss)) - warm[0]![1]
    console.log(
      `${side.received} messages, ${(side.bytes / 1e9).toFixed(1)} GB in ${seconds.toFixed(1)} s, memory grew by ${(growth / 2 ** 20).toFixed(1)} MiB`,
    )
    expect(growth).toBeLessThan(FLAT_BYTES)
  }
}, 360_000)
