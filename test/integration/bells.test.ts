/** A region without interrupts, and a relay beside it: one byte on the stream is the doorbell. */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { Channel } from '../../src/index.js'
import { scratch, sleep, startDaemon } from '../support/processes.js'
import { peer, relayOf, type State } from '../support/relayed.js'
import type { Remote } from '../support/remote.js'

/** Clock ticks of 10 ms that a process has used. */
function ticks(one: Remote<State>): number {
  const fields = readFileSync(`/proc/${one.pid}/stat`, 'utf8').split(') ')[1]!.split(' ')
  return Number(fields[11]) + Number(fields[12])
}

const ROUNDS = 4
/** Longer than a member without interrupts looks often by itself, ms. */
const IDLE_MS = 3000

/** Round trips after long silence, ms; and the ticks that both have used meanwhile. */
async function afterSilence(
  relay: string,
): Promise<{ times: number[]; used: number; rescued: number; path: string }> {
  const file = join(scratch(), 'region')
  writeFileSync(file, '')
  truncateSync(file, 4 * 2 ** 20)
  const [a, b] = [await peer(`file:${file}`, relay), await peer(`file:${file}`, relay)]
  await b.run(async ({ state }) => {
    const server = await state.peer.listen('echo')
    server.on('channel', (channel: Channel) => {
      channel.on('message', (message) => void channel.send(message.copy()))
    })
  })
  await a.run(async ({ state }) => {
    state.channel = await state.peer.connect('echo', { wait: 20_000, paths: ['shm'] })
  })
  const ask = () =>
    a.run(async ({ state, once }) => {
      const begun = performance.now()
      const answer = once(state.channel, 'message')
      await state.channel.send(new Uint8Array(8))
      await answer
      return performance.now() - begun
    })
  await ask()
  await sleep(1500)
  const times: number[] = []
  const before = ticks(a) + ticks(b)
  for (let round = 0; round < ROUNDS; round++) {
    await sleep(IDLE_MS)
    times.push(await ask())
  }
  const used = ticks(a) + ticks(b) - before
  const [path, rescued] = await a.run(({ state }) => [
    state.channel.path,
    (state.peer.counters() as unknown as { rescued: number }).rescued,
  ])
  return { times, used, path: path as string, rescued: rescued as number }
}

test('whoever gets no interrupts is woken over the stream, and data stays in shared memory', async () => {
  const daemon = await startDaemon()
  const [rung, polling] = await Promise.all([afterSilence(relayOf(daemon)), afterSilence('none')])
  console.log(
    `round trips after ${IDLE_MS} ms of silence: rung ${rung.times.map((ms) => ms.toFixed(1)).join(' ')} ms (${rung.used} ticks), ` +
      `polling ${polling.times.map((ms) => ms.toFixed(1)).join(' ')} ms (${polling.used} ticks)`,
  )
  expect(rung.path).toBe('shm')
  expect(rung.rescued).toBe(0)
  // the tick that is the doorbell of whoever polls comes twice a second, and is waited for twice
  expect(Math.max(...rung.times)).toBeLessThan(Math.max(...polling.times))
  expect(rung.times.reduce((sum, ms) => sum + ms)).toBeLessThan(
    polling.times.reduce((sum, ms) => sum + ms) / 2,
  )
})
