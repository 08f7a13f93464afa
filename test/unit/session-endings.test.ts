/** How channels end when it is not the application that ends them, and what hostile frames achieve: nothing. */
import { afterEach, expect, test } from 'vitest'
import type { Channel } from '../../src/index.js'
import { decodeFrame, encodeFrame, FrameType, HEADER_BYTES } from '../../src/path/frames.js'
import { within } from '../support/lives.js'
import { memoryRig, type Rig } from '../support/memory-path.js'
import { pause } from '../support/slow.js'

let rig: Rig
afterEach(() => rig.close())

async function open(): Promise<[Channel, Channel]> {
  const server = await rig.b.peer.listen('orders')
  const accepted: Channel[] = []
  server.on('channel', (channel) => accepted.push(channel))
  const a = await rig.a.peer.connect('orders', { wait: 2000 })
  return [a, accepted.at(-1)!]
}

test('a process that is gone: the survivor knows what had been released', async () => {
  rig = memoryRig()
  rig.link('mem1')
  const [a, b] = await open()
  for (let n = 0; n < 5; n++) await a.send(new Uint8Array([n]))
  await pause(20)
  b.receive()!.release()
  b.receive()!.release()
  b.receive()
  await pause(60)
  rig.kill('b')
  expect(await a.closed).toMatchObject({ code: 'ERR_VMRING_PEER_GONE', sent: 5, delivered: 3, released: 2 })
  await expect(a.send(new Uint8Array(1))).rejects.toMatchObject({ code: 'ERR_VMRING_CLOSED' })
})

test('the only path is lost for good: the range in doubt has a name', async () => {
  rig = memoryRig()
  const cut = rig.link('mem1')
  const [a, b] = await open()
  await a.send(new Uint8Array([1]))
  await pause(20)
  b.receive()!.release()
  await pause(40)
  await a.send(new Uint8Array([2]))
  await a.send(new Uint8Array([3]))
  cut()
  expect(await within(a.closed, 'the end')).toMatchObject({ code: 'ERR_VMRING_PATH_LOST', from: 1, to: 3 })
  expect(await within(b.closed, 'the end')).toMatchObject({ code: 'ERR_VMRING_PATH_LOST' })
  await expect.poll(() => [rig.a.hub.remotes.size, rig.b.hub.remotes.size]).toEqual([0, 0])
})

test('a path that comes within the grace carries the channel on', async () => {
  rig = memoryRig()
  const cut = rig.link('mem1')
  const [a, b] = await open()
  const paths: string[] = []
  a.on('path', (name) => paths.push(name))
  await a.send(new Uint8Array([1]))
  cut()
  await pause(50)
  const sending = a.send(new Uint8Array([2]))
  rig.link('mem2')
  await within(sending, 'sending')
  const seen: number[] = []
  b.on('message', (message) => seen.push(message.view[0]!))
  while (seen.length < 2) await pause(1)
  expect(seen).toEqual([1, 2])
  expect(paths).toEqual(['mem2'])
  expect(a.stats().pathChanges).toBe(1)
})

test('stalled and resumed reach the channel', async () => {
  rig = memoryRig()
  rig.link('mem1')
  const [a] = await open()
  const events: string[] = []
  a.on('stalled', () => events.push('stalled'))
  a.on('resumed', () => events.push('resumed'))
  const path = [...rig.a.hub.remotes.values()][0]!.paths[0]!
  rig.a.hub.onStalled(path, true)
  rig.a.hub.onStalled(path, false)
  expect(events).toEqual(['stalled', 'resumed'])
})

test('frames of any bytes, and known frames cut short or altered, disturb nothing', async () => {
  rig = memoryRig()
  rig.link('mem1')
  const [a, b] = await open()
  const path = [...rig.b.hub.remotes.values()][0]!.paths[0]!
  const [session] = [...rig.b.hub.remotes.values()][0]!.sessions
  let state = 12345
  const random = (limit: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return (state >>> 8) % limit
  }
  const other = session!.id.slice()
  other[23]! ^= 0x55
  const good = [
    encodeFrame({
      type: FrameType.OPEN,
      channel: other,
      service: 'orders',
      offer: new Uint8Array(32),
      capacity: 4096,
      maxMessage: 1,
    }),
    encodeFrame({ type: FrameType.MOVE, channel: other, epoch: 3, next: 9, offer: new Uint8Array(3) }),
    encodeFrame({ type: FrameType.HELLO_ACK, part: { serial: 1, index: 0, count: 2 }, services: ['x'] }),
    encodeFrame({ type: FrameType.RETIRE, channel: other, epoch: 7 }),
  ]
  for (let round = 0; round < 3000; round++) {
    const frame = good[random(good.length)]!.slice(0, 1 + random(120))
    // never this channel's own id: who has that may end it
    for (let flips = random(4); flips > 0; flips--) {
      const at = random(frame.length)
      if (at < 8 || at >= 32) frame[at] = random(256)
    }
    rig.b.hub.onFrame(path, frame)
  }
  await a.send(new Uint8Array([7]))
  while (b.receive()?.view[0] !== 7) await pause(1)
  expect(rig.b.hub.sessionCount).toBeLessThan(4)
})

test('a required field that is not known is refused, an optional one skipped', async () => {
  rig = memoryRig()
  rig.link('mem1')
  await open()
  const path = [...rig.b.hub.remotes.values()][0]!.paths[0]!
  const field = (type: number): Uint8Array => {
    const frame = encodeFrame({
      type: FrameType.OPEN,
      channel: rig.a.hub.nextChannelId(),
      service: 'orders',
      offer: new Uint8Array(0),
      capacity: 4096,
      maxMessage: 1,
    })
    const longer = new Uint8Array(frame.length + 8)
    longer.set(frame)
    const view = new DataView(longer.buffer)
    view.setUint32(32, longer.length - HEADER_BYTES, true)
    view.setUint16(frame.length, type, true)
    view.setUint16(frame.length + 2, 4, true)
    return longer
  }
  const answers: number[] = []
  const send = path.send.bind(path)
  path.send = (frame) => {
    answers.push(decodeFrame(frame)!.type)
    send(frame)
  }
  rig.b.hub.onFrame(path, field(0x8000 | 99))
  rig.b.hub.onFrame(path, field(99))
  expect(answers).toEqual([FrameType.REFUSE, FrameType.ACCEPT])
})
