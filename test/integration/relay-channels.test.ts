/** Channels over the relay of a real daemon, between real processes: without a region, and beside one. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { Channel } from '../../src/index.js'
import { scratch, sleep, startDaemon, vmring, within } from '../support/processes.js'
import {
  flowing,
  open,
  path,
  peer,
  regionOf,
  relayOf,
  type State,
  settle,
  traffic,
  until,
} from '../support/relayed.js'
import { remote } from '../support/remote.js'

test('two processes without a region talk over the relay by themselves', async () => {
  const daemon = await startDaemon()
  const [a, b] = [await peer(null, relayOf(daemon)), await peer(null, relayOf(daemon))]
  await traffic(a, b)
  expect([await path(a), await path(b)]).toEqual(['unix', 'unix'])
  await flowing(a, b)
  // large ones as well, in fragments
  const received = a.run(async ({ state, once }) => {
    state.over = true
    await state.writing
    const server = await state.peer.listen('large')
    const [channel] = (await once(server, 'channel')) as [Channel]
    for await (const message of channel) return [message.length, message.copy()[4_999_999]]
    return null
  })
  await b.run(async ({ state }) => {
    state.over = true
    await state.writing
    const channel = await state.peer.connect('large', { wait: 20_000 })
    await channel.send(new Uint8Array(5_000_000).fill(7))
  })
  expect(await received).toEqual([5_000_000, 7])
  await settle(a, b)
  const nobody = a.run(async ({ state }) => state.peer.connect('nobody'))
  await expect(nobody).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  for (const one of [a, b]) await one.run(({ state }) => state.peer.close())
})

test('a process that dies, one that closes, and one that comes later', async () => {
  const daemon = await startDaemon()
  const [a, b] = [await peer(null, relayOf(daemon)), await peer(null, relayOf(daemon))]
  await traffic(a, b)
  await flowing(a, b)
  b.child.kill('SIGKILL')
  const closed = a.run(({ state }) => state.channel.closed.then((error) => (error as { code?: string }).code))
  expect(await within(closed, 10_000, () => 'nobody noticed')).toBe('ERR_VMRING_PEER_GONE')
  const waiting = a.run(async ({ state }) => {
    const channel = await state.peer.connect('late', { wait: 30_000 })
    return channel.path
  })
  await sleep(300)
  const c = await peer(null, relayOf(daemon))
  await c.run(async ({ state }) => void (await state.peer.listen('late')))
  expect(await waiting).toBe('unix')
})

test('the daemon dies and comes back: a channel over its relay goes on', async () => {
  const folder = scratch()
  const daemon = await startDaemon([], folder)
  const [a, b] = [await peer(null, relayOf(daemon)), await peer(null, relayOf(daemon))]
  await traffic(a, b)
  await flowing(a, b)
  daemon.process.child.kill('SIGKILL')
  await daemon.process.ended
  await startDaemon([], folder)
  await flowing(a, b)
  await settle(a, b)
})

test('the daemon dies and comes back, and one of two a second later: it is not taken for dead', async () => {
  const folder = scratch()
  const daemon = await startDaemon([], folder)
  const [a, b] = [await peer(null, relayOf(daemon)), await peer(null, relayOf(daemon))]
  await traffic(a, b)
  await flowing(a, b)
  b.child.kill('SIGSTOP')
  daemon.process.child.kill('SIGKILL')
  await daemon.process.ended
  await startDaemon([], folder)
  await sleep(1000)
  b.child.kill('SIGCONT')
  await flowing(a, b)
  await settle(a, b)
})

test('from shared memory to the relay and back: usePath(), and vmring revoke', async () => {
  const daemon = await startDaemon()
  const [a, b] = [
    await peer(regionOf(daemon), relayOf(daemon)),
    await peer(regionOf(daemon), relayOf(daemon)),
  ]
  await traffic(a, b)
  expect(await path(a)).toBe('shm')
  await a.run(({ state }) => state.channel.usePath('unix'))
  expect([await path(a), await path(b)]).toEqual(['unix', 'unix'])
  await flowing(a, b)
  await b.run(({ state }) => state.channel.usePath('shm'))
  expect([await path(a), await path(b)]).toEqual(['shm', 'shm'])
  const uuid = await b.run(({ state }) => state.peer.uuid)
  expect(await vmring(['revoke', uuid, '--socket', daemon.socket])).toMatchObject({ code: 0 })
  await until('the revocation', async () => (await path(a)) === 'unix' && (await path(b)) === 'unix')
  await flowing(a, b)
  expect(await vmring(['revoke', uuid, '--restore', '--socket', daemon.socket])).toMatchObject({ code: 0 })
  await until('the return', async () => (await path(a)) === 'shm' && (await path(b)) === 'shm')
  await flowing(a, b)
  await settle(a, b)
  expect(await a.run(({ state }) => state.channel.stats().pathChanges)).toBe(4)
})

test('the policy decides who may listen and connect; a refusal is a typed error', async () => {
  const folder = scratch()
  const policy = join(folder, 'policy.json')
  writeFileSync(
    policy,
    JSON.stringify({ rules: [{ who: 'uid:*', listen: ['orders', 'other'], connect: ['orders'] }] }),
  )
  const daemon = await startDaemon(['--policy', policy], folder)
  const [a, b] = [await peer(null, relayOf(daemon)), await peer(null, relayOf(daemon))]
  const forbidden = b.run(async ({ state }) => void (await state.peer.listen('secret')))
  await expect(forbidden).rejects.toMatchObject({ code: 'ERR_VMRING_POLICY' })
  await b.run(async ({ state }) => void (await state.peer.listen('other')))
  const refused = a.run(async ({ state }) => void (await state.peer.connect('other')))
  await expect(refused).rejects.toMatchObject({ code: 'ERR_VMRING_POLICY' })
  // a path that was made for what is allowed does not lead to what is not
  await traffic(a, b)
  const sneaked = a.run(async ({ state }) => void (await state.peer.connect('other')))
  await expect(sneaked).rejects.toMatchObject({ code: 'ERR_VMRING_POLICY' })
  await settle(a, b)
})

test('a channel over shared memory does not move to a relay that forbids its service', async () => {
  const folder = scratch()
  const policy = join(folder, 'policy.json')
  const rules = [{ who: 'uid:*', listen: ['orders', 'open'], connect: ['open'] }]
  writeFileSync(policy, JSON.stringify({ rules }))
  const daemon = await startDaemon(['--policy', policy], folder)
  const [a, b] = [
    await peer(regionOf(daemon), relayOf(daemon)),
    await peer(regionOf(daemon), relayOf(daemon)),
  ]
  // the stream itself is allowed, for another service
  await b.run(async ({ state }) => void (await state.peer.listen('open')))
  await traffic(a, b)
  const moved = a.run(({ state }) => state.channel.usePath('unix'))
  await expect(moved).rejects.toMatchObject({ code: 'ERR_VMRING_NO_PATH' })
  await flowing(a, b)
  expect(await path(a)).toBe('shm')
  await settle(a, b)
})

test('a process that finds neither region nor relay says what it has tried', async () => {
  const one = await remote<State>()
  open.push(one)
  const nothing = one.run(
    async ({ vmring }, relay) => void (await vmring.attach({ region: null, relay })),
    `unix:${scratch()}/nobody`,
  )
  await expect(nothing).rejects.toMatchObject({ code: 'ENOENT' })
  for (const relay of ['vsock:', 'vsock:2:99999999999', 'unix:', 'tcp:1']) {
    const wrong = one.run(
      async ({ vmring }, how) => void (await vmring.attach({ region: null, relay: how })),
      relay,
    )
    await expect(wrong).rejects.toMatchObject({ code: 'ERR_VMRING_RELAY_ADDRESS' })
  }
})
