/** A thousand path changes under full load in both directions, and what is left when the memory itself is torn away. */
import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { askHost } from '../../src/host/admin-client.js'
import { scratch, sleep, startDaemon } from '../support/processes.js'
import {
  flowing,
  path,
  peer,
  regionOf,
  relayOf,
  type State,
  settle,
  traffic,
  until,
} from '../support/relayed.js'
import type { Remote } from '../support/remote.js'

const CHANGES = 1000
const REVOKE_EVERY = 40

/** Repeats itself for its seed. */
function dice(seed: number): (sides: number) => number {
  let state = seed
  return (sides) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * sides)
  }
}

const use = (one: Remote<State>, name: string) =>
  one.run(async ({ state }, to) => {
    const begun = performance.now()
    await state.channel.usePath(to)
    return performance.now() - begun
  }, name)

const memory = (one: Remote<State>) =>
  one.run(({ state }) => {
    ;(globalThis as unknown as { gc(): void }).gc()
    return { rss: process.memoryUsage().rss, free: state.peer.counters()!.freeBytes }
  })

test(`${CHANGES} path changes at random moments under full load: nothing lost, doubled or reordered`, async () => {
  const daemon = await startDaemon()
  const [a, b] = [
    await peer(regionOf(daemon), relayOf(daemon)),
    await peer(regionOf(daemon), relayOf(daemon)),
  ]
  await traffic(a, b)
  await flowing(a, b)
  const uuid = await b.run(({ state }) => state.peer.uuid)
  const roll = dice(20261122)
  let slowest = 0
  let before = await Promise.all([memory(a), memory(b)])
  for (let change = 0; change < CHANGES; change++) {
    if (change === CHANGES / 10) before = await Promise.all([memory(a), memory(b)])
    await sleep(roll(15))
    if (change % REVOKE_EVERY === REVOKE_EVERY - 1) {
      await use(a, 'shm')
      await askHost(daemon.socket, { op: 'revoke', peer: uuid, restore: false })
      await until('the revocation', async () => (await path(a)) === 'unix' && (await path(b)) === 'unix')
      await askHost(daemon.socket, { op: 'revoke', peer: uuid, restore: true })
      await until('the return', async () => (await path(a)) === 'shm' && (await path(b)) === 'shm')
      continue
    }
    const to = (await path(a)) === 'shm' ? 'unix' : 'shm'
    // a third of them from both sides at once, a part of those in opposite directions
    const asked = [[a], [b], [a, b]][roll(3)]!
    const took = await Promise.all(
      asked.map((one, at) => use(one, at === 1 && roll(3) === 0 ? (to === 'shm' ? 'unix' : 'shm') : to)),
    )
    slowest = Math.max(slowest, ...took)
  }
  await flowing(a, b)
  const longest = await Promise.all([a, b].map((one) => one.run(({ state }) => state.longest)))
  const changed = await a.run(({ state }) => state.channel.stats().pathChanges)
  const received = await settle(a, b)
  const after = await Promise.all([memory(a), memory(b)])
  const growth = after.map((one, at) => (one.rss - before[at]!.rss) / 2 ** 20)
  console.log(
    `${changed} path changes, ${received.join(' + ')} messages; longest pause ${longest.map((ms) => ms.toFixed(1)).join(' and ')} ms, ` +
      `slowest usePath ${slowest.toFixed(1)} ms, memory ${growth.map((mib) => mib.toFixed(1)).join(' and ')} MiB`,
  )
  expect(changed).toBeGreaterThan(CHANGES * 0.9)
  for (const mib of growth) expect(mib).toBeLessThan(48)
  // rings of former epochs have been given back to the section
  for (const one of [a, b])
    await one.run(async ({ state }) => {
      for (const { message } of state.held.splice(0)) message.release()
      await state.channel.close().catch(() => {})
    })
  await sleep(500)
  for (const one of [a, b])
    expect(
      await one.run(({ state }) => {
        const { freeBytes, largestFree } = state.peer.counters()!
        return freeBytes === largestFree
      }),
    ).toBe(true)
}, 600_000)

test('memory torn away without notice: the range in doubt has a name, and nothing outside it was lost', async () => {
  const file = join(scratch(), 'region')
  for (let round = 0; round < 5; round++) {
    writeFileSync(file, '')
    truncateSync(file, 4 * 2 ** 20)
    const [a, b] = [await peer(`file:${file}`, 'none'), await peer(`file:${file}`, 'none')]
    await traffic(a, b)
    await flowing(a, b)
    truncateSync(file, 0)
    const record = (one: Remote<State>) =>
      one.run(async ({ state }) => {
        const error = (await state.channel.closed) as unknown as {
          code: string
          from: number
          to: number
          message: string
        }
        const { code, from, to, message } = error
        return { code, from, to, message, got: state.got, wrongAt: state.wrongAt }
      })
    const [left, right] = await Promise.all([record(a), record(b)])
    for (const [sender, receiver] of [
      [left, right],
      [right, left],
    ] as const) {
      expect(sender.code).toBe('ERR_VMRING_PATH_LOST')
      expect(sender.message).toContain(`records ${sender.from} up to ${sender.to}`)
      // whatever was sent before the range has been delivered, whatever was delivered lies before its end
      expect(receiver.got).toBeGreaterThanOrEqual(sender.from)
      expect(receiver.got).toBeLessThanOrEqual(sender.to)
      // what was being read in that moment reads as zeros, as leases do; it lies in the range as well
      for (const number of receiver.wrongAt) expect(number).toBeGreaterThanOrEqual(sender.from)
    }
    for (const one of [a, b]) await one.run(({ state }) => state.peer.close())
  }
})
