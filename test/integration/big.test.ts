import { expect, test } from 'vitest'
import { SLACK, startDaemon } from '../support/processes.js'
import { remote } from '../support/remote.js'

type Channel = import('../../src/index.js').Channel

interface State {
  peer: import('../../src/index.js').Peer
  channel: Channel
  data: Buffer
}

const GIB = 2 ** 30
/** Beyond the message itself and the region, both of which show up as resident memory. */
const BEYOND = 64 * 2 ** 20
const REGION = 16 * 2 ** 20

const listen = async (region: string, maxMessageSize?: number) => {
  const reader = await remote<State>()
  await reader.run(
    async ({ vmring, state, tell }, address, limit) => {
      const { createHash } = process.getBuiltinModule('node:crypto')
      state.peer = await vmring.attach({ region: address })
      const server = await state.peer.listen('big', limit === undefined ? {} : { maxMessageSize: limit })
      server.on('channel', (channel) => {
        channel.on('error', (error) => tell(error.message))
        channel.on('message', (message) => {
          // in pieces: hashing a whole gigabyte at once would be fine too, but not on every line of Node
          const hash = createHash('sha1')
          for (let at = 0; at < message.length; at += 2 ** 28)
            hash.update(message.view.subarray(at, at + 2 ** 28))
          tell({
            length: message.length,
            sha1: hash.digest('hex'),
            peak: process.resourceUsage().maxRSS * 1024,
          })
        })
      })
    },
    region,
    maxMessageSize,
  )
  return reader
}

const connect = async (region: string) => {
  const writer = await remote<State>()
  await writer.run(async ({ vmring, state }, address) => {
    state.peer = await vmring.attach({ region: address })
    state.channel = await state.peer.connect('big', { wait: 10_000 })
  }, region)
  return writer
}

/** Sends random bytes of that many, and tells what it sent. */
const send = async ({ state }: { state: State }, length: number) => {
  const { createHash, randomFillSync } = process.getBuiltinModule('node:crypto')
  const bytes = Buffer.allocUnsafeSlow(length)
  const hash = createHash('sha1')
  for (let at = 0; at < length; at += 2 ** 28) hash.update(randomFillSync(bytes.subarray(at, at + 2 ** 28)))
  await state.channel.send(bytes)
  return { length, sha1: hash.digest('hex'), peak: process.resourceUsage().maxRSS * 1024 }
}

test('messages from nothing to 64 MiB arrive as they were', async () => {
  const { region } = await startDaemon(['--size', '16M', '--sections', '2'])
  const reader = await listen(region)
  const writer = await connect(region)
  const limit = await writer.run(({ state }) => state.channel.inlineLimit)
  const sizes = [0, 1, 7, 8, 63, 64, 4096, limit - 1, limit, limit + 1, 2 ** 20, 2 ** 23 + 1, 2 ** 26]
  for (const size of sizes) {
    const { length, sha1 } = await writer.run(send, size)
    expect(await reader.next()).toMatchObject({ length, sha1 })
  }
  // in one go: the order of small and large ones stays
  const rush = await writer.run(async ({ state }, lengths) => {
    await Promise.all(lengths.map((length) => state.channel.send(new Uint8Array(length))))
    return lengths.length
  }, sizes.toReversed())
  const order: number[] = []
  while (order.length < rush) order.push((await reader.next<{ length: number }>()).length)
  expect(order).toEqual(sizes.toReversed())
})

test('a message of 1 GiB through a region of 16 MiB, in bounded memory', async () => {
  const { region } = await startDaemon(['--size', '16M', '--sections', '2'])
  const reader = await listen(region, GIB)
  const writer = await connect(region)
  const base = {
    reader: await reader.run(() => process.resourceUsage().maxRSS * 1024),
    writer: await writer.run(() => process.resourceUsage().maxRSS * 1024),
  }
  const sent = await writer.start(send, [GIB], 30_000 * SLACK)
  const got = await reader.next<typeof sent>(10_000 * SLACK)
  expect(got).toMatchObject({ length: GIB, sha1: sent.sha1 })
  const beyond = { reader: got.peak - base.reader - GIB, writer: sent.peak - base.writer - GIB }
  console.log(
    `1 GiB: beyond the message ${(beyond.reader / 2 ** 20).toFixed(1)} MiB (reader), ${(beyond.writer / 2 ** 20).toFixed(1)} MiB (writer)`,
  )
  expect(beyond.reader).toBeLessThan(BEYOND + REGION)
  expect(beyond.writer).toBeLessThan(BEYOND + REGION)
}, 240_000)

test('a message over the limit is refused at the sender; those around it arrive', async () => {
  const { region } = await startDaemon(['--size', '16M', '--sections', '2'])
  const reader = await listen(region, 100_000)
  const writer = await connect(region)
  const codes = await writer.run(async ({ state }) => {
    const { channel } = state
    const outcomes: unknown[] = [channel.maxMessageSize]
    for (const length of [100_000, 100_001, 2 ** 24, 10]) {
      outcomes.push(
        await channel.send(new Uint8Array(length)).then(
          () => 'sent',
          (error) => error.code,
        ),
      )
    }
    return outcomes
  })
  expect(codes).toEqual([100_000, 'sent', 'ERR_VMRING_TOO_LARGE', 'ERR_VMRING_TOO_LARGE', 'sent'])
  expect(await reader.next()).toMatchObject({ length: 100_000 })
  expect(await reader.next()).toMatchObject({ length: 10 })
})
