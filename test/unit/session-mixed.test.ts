/** Channels that move between shared memory and a wire: rings that the other side reads in place are let go in time. */
import { expect, test } from 'vitest'
import type { Channel } from '../../src/index.js'
import { decodeFrame, encodeFrame, FrameType, Reason } from '../../src/path/frames.js'
import { type Life, live } from '../support/lives.js'
import { type Fault, FaultPlan, randomFaults } from '../support/memory-path.js'
import { mixedRig } from '../support/rigs.js'
import { pause } from '../support/slow.js'

const life: Life = {
  messages: 60,
  movesA: { 3: 'mem1', 15: 'shm', 30: 'mem1', 45: 'shm' },
  movesB: { 8: 'mem1', 15: 'mem1', 30: 'shm', 50: 'mem1' },
  holdEvery: 5,
  leaseEvery: 4,
}

async function run(faults: Fault[]): Promise<void> {
  const rig = mixedRig(new FaultPlan(faults), ['mem1'])
  try {
    const before = rig.a.peer.counters()!.freeBytes + rig.b.peer.counters()!.freeBytes
    await live(rig, life)
    const after = rig.a.peer.counters()!.freeBytes + rig.b.peer.counters()!.freeBytes
    expect(after).toBe(before)
  } finally {
    await rig.close()
  }
}

test('to a wire and back, both sides asking at once, leases held: nothing lost, no section memory kept', async () => {
  for (let round = 0; round < 10; round++) await run([])
})

test('the same while the wire drops, delays, duplicates and reorders', async () => {
  for (let seed = 1; seed <= 10; seed++) {
    await run(randomFaults(seed, 800, 0.15, ['drop', 'delay', 'duplicate', 'reorder']))
  }
})

test('a ring that the other side still looks at stays until it says RETIRE', async () => {
  const rig = mixedRig(new FaultPlan(), ['mem1'])
  const free = () => rig.a.peer.counters()!.freeBytes
  try {
    const server = await rig.b.peer.listen('orders')
    const accepted: Channel[] = []
    server.on('channel', (channel) => accepted.push(channel))
    const before = free()
    const a = await rig.a.peer.connect('orders', { wait: 2000, paths: ['shm'], ringSize: 65536 })
    const b = accepted.at(-1)!
    const during = free()
    await a.send(new Uint8Array(5000).fill(77))
    let message = b.receive()
    while (message === null) {
      await pause(1)
      message = b.receive()
    }
    message.retain()
    const { view } = message
    await a.usePath('mem1')
    expect(a.path).toBe('mem1')
    await pause(50)
    expect(free()).toBe(during)
    // Whoever gets memory now must not get that of the old ring.
    const other = await rig.a.peer.connect('orders', { paths: ['shm'], ringSize: 65536 })
    for (let n = 0; n < 10; n++) other.trySend(new Uint8Array(5000).fill(1))
    expect(view.every((byte) => byte === 77)).toBe(true)
    other.destroy()
    message.release()
    await pause(100)
    expect(free()).toBe(before)
    await Promise.all([a.close(), b.close()])
  } finally {
    await rig.close()
  }
})

test('a refusal that comes once more, late, does not end the wish after it', async () => {
  const rig = mixedRig(new FaultPlan(), ['mem1', 'mem2'])
  try {
    const server = await rig.b.peer.listen('orders')
    const accepted: Channel[] = []
    server.on('channel', (channel) => accepted.push(channel))
    await rig.a.peer.connect('orders', { wait: 2000, paths: ['shm'] })
    const b = accepted.at(-1)!
    const [remoteOfB] = rig.a.hub.remotes.values()
    const broken = remoteOfB!.pathNamed('mem1')!
    broken.createEnd = () => {
      throw new Error('no room')
    }
    const refused = /the other side cannot change path: no room/
    await expect(b.usePath('mem1')).rejects.toThrow(refused)
    const [session] = [...rig.b.hub.remotes.values()][0]!.sessions
    const move = b.usePath('mem2')
    const { id: channel, epoch, path } = session!
    const late = {
      type: FrameType.REFUSE,
      channel,
      epoch,
      reason: Reason.LIMIT,
      text: 'no room',
      path: 'mem1',
    }
    session!.onFrame(path, decodeFrame(encodeFrame(late))!)
    await move
    expect(b.path).toBe('mem2')
  } finally {
    await rig.close()
  }
})

test('a channel that ends in the middle of a change to a wire gives its section memory back', async () => {
  // Nothing arrives on the wire, so the change stays in the middle.
  const deaf = Array.from({ length: 500 }, (_, at): Fault => ({ at, kind: 'drop' }))
  const rig = mixedRig(new FaultPlan(deaf), ['mem1'])
  const free = () => rig.a.peer.counters()!.freeBytes + rig.b.peer.counters()!.freeBytes
  try {
    const server = await rig.b.peer.listen('orders')
    const accepted: Channel[] = []
    server.on('channel', (channel) => accepted.push(channel))
    const before = free()
    const a = await rig.a.peer.connect('orders', { wait: 2000, paths: ['shm'], ringSize: 65536 })
    const move = a.usePath('mem1')
    await Promise.all([a.close(), accepted.at(-1)!.close()])
    await expect(move).rejects.toMatchObject({ code: 'ERR_VMRING_CLOSED' })
    await pause(200)
    expect(free()).toBe(before)
  } finally {
    await rig.close()
  }
})
