/** Which path a channel is on: fall-back, return, revocation, and processes that leave the region but live on. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Channel, VmringError } from '../../src/index.js'
import { ShmPath } from '../../src/path/shm.js'
import type { Dialer } from '../../src/session/dialer.js'
import { within } from '../support/lives.js'
import { FaultPlan, type Rig, type Side } from '../support/memory-path.js'
import { mixedRig } from '../support/rigs.js'

const PATIENCE = 10_000
let rig: Rig
afterEach(() => rig.close())
beforeEach(() => {
  rig = mixedRig(new FaultPlan(), [])
})

async function until(what: string, test: () => boolean): Promise<void> {
  const deadline = performance.now() + PATIENCE
  while (!test()) {
    if (performance.now() > deadline) throw new Error(`${what} did not come about`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

function shmPath(side: Side): ShmPath {
  const path = [...side.hub.remotes.values()][0]?.paths.find((one) => one instanceof ShmPath)
  return path as ShmPath
}

/** A channel with numbered messages in both directions, for as long as the test runs. */
class Traffic {
  readonly a: Channel
  readonly b: Channel
  readonly sent = [0, 0]
  readonly got = [0, 0]
  wrong = 0
  #over = false
  readonly #writers: Promise<void>[]

  constructor(a: Channel, b: Channel) {
    this.a = a
    this.b = b
    this.#writers = [this.#run(a, b, 0), this.#run(b, a, 1)]
  }

  static async start(): Promise<Traffic> {
    const server = await rig.b.peer.listen('orders')
    const accepted: Channel[] = []
    server.on('channel', (channel) => accepted.push(channel))
    const a = await rig.a.peer.connect('orders', { wait: PATIENCE })
    return new Traffic(a, accepted.at(-1)!)
  }

  async #run(from: Channel, to: Channel, side: 0 | 1): Promise<void> {
    to.on('message', (message) => {
      if (Buffer.from(message.copy()).readUInt32LE() !== this.got[side]!++) this.wrong++
    })
    while (!this.#over) {
      const bytes = Buffer.alloc(4 + (this.sent[side]! % 700))
      bytes.writeUInt32LE(this.sent[side]!)
      try {
        await from.send(bytes)
      } catch {
        return
      }
      this.sent[side]!++
      if (this.sent[side]! % 16 === 0) await new Promise(setImmediate)
    }
  }

  async stop(): Promise<void> {
    // on the path that it is on now, too; how soon is up to the machine
    const before = Math.min(...this.got)
    await until('more traffic', () => Math.min(...this.got) > Math.max(100, before))
    this.#over = true
    await within(Promise.all(this.#writers), 'the last sending')
    await until('the last delivery', () => this.sent.every((sent, side) => sent === this.got[side]))
    expect(this.wrong).toBe(0)
  }
}

const both = (traffic: Traffic, name: string): boolean => traffic.a.path === name && traffic.b.path === name

for (const side of ['a', 'b'] as const) {
  test(`${side === 'a' ? 'the side that connected' : 'the side that listens'} is moved off shared memory, and may return`, async () => {
    rig.link('mem1')
    const traffic = await Traffic.start()
    await until('some traffic', () => traffic.got.every((got) => got > 50))
    rig[side].hub.steward.avoid('shm', true)
    await until('the fall-back', () => both(traffic, 'mem1'))
    // new channels keep off it as well, from both sides
    const server = await rig[side].peer.listen('other')
    const other = side === 'a' ? 'b' : 'a'
    const fresh = await rig[other].peer.connect('other', { wait: PATIENCE })
    expect(fresh.path).toBe('mem1')
    await expect(rig[other].peer.connect('other', { paths: ['shm'] })).rejects.toThrow('moved off path shm')
    await expect(rig[side].peer.connect('other', { paths: ['shm'] })).rejects.toMatchObject({
      code: 'ECONNREFUSED',
    })
    await new Promise((resolve) => setTimeout(resolve, 500)) // longer than the return takes
    expect(both(traffic, 'mem1')).toBe(true)
    rig[side].hub.steward.avoid('shm', false)
    await until('the return', () => both(traffic, 'shm'))
    await server.close()
    await traffic.stop()
  })
}

test('a peer that is silent in memory but answers elsewhere: the channel goes there, and returns later', async () => {
  rig.link('mem1')
  const traffic = await Traffic.start()
  const stalls: string[] = []
  traffic.a.on('stalled', () => stalls.push('stalled')).on('resumed', () => stalls.push('resumed'))
  expect(both(traffic, 'shm')).toBe(true)
  shmPath(rig.a).setStalled(true)
  await until('the fall-back', () => both(traffic, 'mem1'))
  shmPath(rig.a).setStalled(false)
  await until('the return', () => both(traffic, 'shm'))
  expect(stalls).toEqual(['stalled'])
  await traffic.stop()
})

test('a peer that answers nowhere is waited for', async () => {
  const silence = new FaultPlan(Array.from({ length: 100_000 }, (_, at) => ({ at, kind: 'drop' as const })))
  rig.link('mem1', silence)
  const traffic = await Traffic.start()
  shmPath(rig.a).setStalled(true)
  shmPath(rig.b).setStalled(true)
  await new Promise((resolve) => setTimeout(resolve, 1000))
  await until('it was asked', () => silence.frames > 2)
  expect(both(traffic, 'shm')).toBe(true)
  shmPath(rig.a).setStalled(false)
  shmPath(rig.b).setStalled(false)
  await traffic.stop()
})

test('a path that the application has asked for is kept while it lives', async () => {
  const cut = rig.link('mem1')
  const traffic = await Traffic.start()
  await traffic.b.usePath('mem1')
  await new Promise((resolve) => setTimeout(resolve, 600))
  expect(both(traffic, 'mem1')).toBe(true)
  cut()
  await until('the fall-back', () => both(traffic, 'shm'))
  rig.link('mem1')
  await traffic.stop()
})

class LinkDialer implements Dialer {
  readonly names = ['mem1']
  dialled = 0
  readonly #answer: () => void
  constructor(answer: () => void) {
    this.#answer = answer
  }
  async dialService(): Promise<void> {
    throw new Error('nobody')
  }
  async dialPeer(): Promise<void> {
    this.dialled++
    await new Promise((resolve) => setTimeout(resolve, 20))
    this.#answer()
  }
  async listen(): Promise<void> {}
  unlisten(): void {}
}

test('a process that leaves the region but is found elsewhere: nothing is lost', async () => {
  const dialer = new LinkDialer(() => rig.link('mem1'))
  rig.a.hub.dialer = dialer
  // the other side is found, it does not look
  rig.b.hub.dialer = new LinkDialer(() => {})
  const traffic = await Traffic.start()
  await until('some traffic', () => traffic.got.every((got) => got > 50))
  shmPath(rig.a).leave()
  shmPath(rig.b).leave()
  await until('the fall-back', () => both(traffic, 'mem1'))
  expect(dialer.dialled).toBe(1)
  await traffic.stop()
})

test('a process that has left and is found nowhere is gone', async () => {
  rig.a.hub.dialer = new LinkDialer(() => {
    throw new VmringError('ERR_VMRING_UNKNOWN_PEER', 'no such peer')
  })
  const traffic = await Traffic.start()
  shmPath(rig.a).leave()
  expect(await within(traffic.a.closed, 'the end')).toMatchObject({ code: 'ERR_VMRING_PEER_GONE' })
  shmPath(rig.b).leave()
  expect(await within(traffic.b.closed, 'the end')).toMatchObject({ code: 'ERR_VMRING_PEER_GONE' })
})

test('usePath() has a path made that is not there yet', async () => {
  rig.a.hub.dialer = new LinkDialer(() => rig.link('mem1'))
  const traffic = await Traffic.start()
  await traffic.a.usePath('mem1')
  expect(both(traffic, 'mem1')).toBe(true)
  await expect(traffic.a.usePath('nowhere')).rejects.toMatchObject({ code: 'ERR_VMRING_NO_PATH' })
  await traffic.stop()
})
