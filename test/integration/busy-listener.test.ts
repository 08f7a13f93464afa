/** Whoever listens may be in the middle of something when he is asked: he lives, and is waited for. */
import { expect, test } from 'vitest'
import { attach } from '../../src/index.js'
import { startDaemon } from '../support/processes.js'
import { remote } from '../support/remote.js'

interface State {
  peer: import('../../src/index.js').Peer
}

/** A process that listens under 'orders', and whose event loop stands still for so long from now on. */
async function busy(region: string, ms: number) {
  const listener = await remote<State>()
  await listener.run(async ({ vmring, state }, at) => {
    state.peer = await vmring.attach({ region: at })
    await state.peer.listen('orders')
  }, region)
  const working = listener.run(({ tell }, time) => {
    tell('begun')
    return Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, time)
  }, ms)
  expect(await listener.next()).toBe('begun')
  working.catch(() => {})
  return { listener, working }
}

test('a listener that answers after two seconds is no one who does not listen', async () => {
  const { region } = await startDaemon()
  const { working } = await busy(region, 2000)
  const peer = await attach({ region })
  const channel = await peer.connect('orders')
  expect(channel.path).toBe('shm')
  await working
  await peer.close()
})

test('one that does not answer for longer is named', async () => {
  const { region } = await startDaemon()
  const { listener } = await busy(region, 60_000)
  const peer = await attach({ region })
  await expect(peer.connect('orders')).rejects.toMatchObject({
    code: 'ECONNREFUSED',
    attempts: [expect.stringMatching(/^the process in section \d+ lives, but has not said within 5 s/)],
  })
  listener.signal('SIGKILL')
  await peer.close()
})

test('a hundred connections to a slow listener: they wait for their turn, longer than one may go unanswered', async () => {
  const { region } = await startDaemon()
  const listener = await remote<State>()
  await listener.run(async ({ vmring, state }, at) => {
    state.peer = await vmring.attach({ region: at })
    const server = await state.peer.listen('orders')
    server.on('channel', () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 125))
  }, region)
  const peer = await attach({ region })
  const began = performance.now()
  const channels = await Promise.all(
    Array.from({ length: 100 }, () => peer.connect('orders', { ringSize: 4096 })),
  )
  expect(performance.now() - began).toBeGreaterThan(10_000)
  expect(new Set(channels.map(({ path }) => path))).toEqual(new Set(['shm']))
  await peer.close()
}, 90_000)
