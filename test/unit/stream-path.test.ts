/** Channels over stream wires: cut anywhere, slow on one side, and how the bytes get there. */
import { once } from 'node:events'
import { afterEach, expect, test } from 'vitest'
import type { Channel } from '../../src/index.js'
import type { NativeStream } from '../../src/native/socket-types.js'
import { FramePath } from '../../src/path/pump.js'
import { StreamWire } from '../../src/path/stream.js'
import { until } from '../support/addon.js'
import { memorySide } from '../support/memory-path.js'
import { SequenceOracle, sizeOf } from '../support/oracle.js'
import { type StreamRig, streamPair, streamRig } from '../support/stream-path.js'

let rig: StreamRig | null = null
afterEach(async () => {
  await rig?.close()
  rig = null
})

async function channels(of: Pick<StreamRig, 'a' | 'b'>, service = 'orders'): Promise<[Channel, Channel]> {
  const server = await of.b.peer.listen(service)
  const accepted = once(server, 'channel') as Promise<[Channel]>
  const a = await of.a.peer.connect(service, { wait: 20_000 })
  const [b] = await accepted
  return [a, b]
}

test('a connection that is cut anywhere, also inside a payload: another one takes over, nothing is lost', async () => {
  let insidePayload = 0
  for (let round = 0; round < 12; round++) {
    // small socket buffers, so that most records are on their way in pieces
    rig = streamRig({ capacity: 128 * 1024, buffer: 4096, timing: { moveLimit: 20_000, pathGrace: 20_000 } })
    const first = await rig.link('unix')
    const [a, b] = await channels(rig)
    await rig.link('vsock')
    const size = (n: number): number => (n % 3 === 0 ? 30_000 : sizeOf(round, n, 9000))
    const toA = new SequenceOracle(1, size)
    const toB = new SequenceOracle(2, size)
    a.on('message', (message) => toA.accept(message.view))
    b.on('message', (message) => toB.accept(message.view))
    const count = 60
    const run = async (from: Channel, oracle: SequenceOracle): Promise<void> => {
      for (let n = 0; n < count; n++) await from.send(oracle.message(n))
    }
    const running = Promise.all([run(a, toB), run(b, toA)])
    const after = 100_000 + round * 61_357
    await until(() => first.streams[0].bytesRead + first.streams[1].bytesRead >= after, 'traffic')
    if (first.streams.some(({ queued }) => queued > 0)) insidePayload++
    first.cut()
    await running
    await until(() => toA.next === count && toB.next === count, `all messages of round ${round}`, 30_000)
    expect([a.path, b.path]).toEqual(['vsock', 'vsock'])
    await rig.close()
  }
  expect(insidePayload).toBeGreaterThan(3)
})

test('large payloads are read straight into the ring', async () => {
  const streams = await streamPair()
  const a = memorySide(1, {})
  const b = memorySide(2, {})
  rig = {
    a,
    b,
    link: () => Promise.reject(new Error()),
    close: () => Promise.all([a.peer.close(), b.peer.close()]).then(() => {}),
  }
  const ref = (one: typeof a) => ({ uuid: one.uuid, incarnation: one.incarnation, section: -1 })
  // the receiving stream, watched: what is read into memory that is no staging buffer
  let direct = 0
  let staged = 0
  let target = new Uint8Array(0)
  const watched: NativeStream = new Proxy(streams[1], {
    get(stream, name) {
      if (name === 'start')
        return (handlers: Parameters<NativeStream['start']>[0]) =>
          stream.start({
            ...handlers,
            onRead(length) {
              if (target.buffer.byteLength === 64 * 1024) staged += length
              else direct += length
              handlers.onRead(length)
            },
          })
      if (name === 'readInto')
        return (into: Uint8Array<ArrayBuffer>) => {
          target = into
          stream.readInto(into)
        }
      const value = Reflect.get(stream, name, stream)
      return typeof value === 'function' ? value.bind(stream) : value
    },
  })
  const options = { capacity: 1024 * 1024 }
  a.hub.addPath(new FramePath(new StreamWire(streams[0], { name: 'unix' }), ref(b), options))
  b.hub.addPath(new FramePath(new StreamWire(watched, { name: 'unix' }), ref(a), options))
  const [near, far] = await channels(rig)
  const oracle = new SequenceOracle(1, (n) => (n === 5 ? 3_000_000 : 200_000))
  far.on('message', (message) => oracle.accept(message.view))
  for (let n = 0; n < 30; n++) await near.send(oracle.message(n))
  await until(() => oracle.next === 30, 'all messages')
  expect(direct / (direct + staged)).toBeGreaterThan(0.95)
  for (const stream of streams) stream.close()
})

test('a slow reader: what is under way is bounded by the rings, and the other channel goes on', async () => {
  rig = streamRig({ capacity: 64 * 1024 })
  const { streams } = await rig.link()
  const [a, b] = await channels(rig, 'slow')
  const [c, d] = await channels(rig, 'quick')
  const slow = new SequenceOracle(1, () => 5000)
  const quick = new SequenceOracle(2, () => 7000)
  const sent = (async () => {
    for (let n = 0; n < 400; n++) await a.send(slow.message(n))
  })()
  d.on('message', (message) => quick.accept(message.view))
  for (let n = 0; n < 200; n++) await c.send(quick.message(n))
  await until(() => quick.next === 200, 'the quick channel')
  expect(slow.next).toBe(0)
  // two rings, and frames of the quick channel
  expect(streams[0].bytesWritten).toBeLessThan(200 * 7100 + 2 * 64 * 1024 + 32 * 1024)
  b.on('message', (message) => slow.accept(message.view))
  await sent
  await until(() => slow.next === 400, 'the slow channel')
})

test('channels that fill the socket take turns', async () => {
  rig = streamRig({ capacity: 256 * 1024, buffer: 8192 })
  await rig.link()
  const done: number[] = []
  let total = 0
  const least: number[] = []
  await Promise.all(
    Array.from({ length: 4 }, async (_, stream) => {
      const [a, b] = await channels(rig!, `service-${stream}`)
      const oracle = new SequenceOracle(stream, () => 20_000)
      done[stream] = 0
      b.on('message', (message) => {
        oracle.accept(message.view)
        done[stream] = oracle.next
        if (++total === 200) least.push(...done)
      })
      for (let n = 0; n < 100; n++) await a.send(oracle.message(n))
      await until(() => oracle.next === 100, `stream ${stream}`, 30_000)
    }),
  )
  expect(Math.min(...least)).toBeGreaterThan(10)
})
