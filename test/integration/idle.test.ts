import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { type Daemon, sleep, startDaemon } from '../support/processes.js'
import { type Remote, remote } from '../support/remote.js'

const SECONDS = 10
const MOST_TICKS = 2
const MOST_SWITCHES = 10 * SECONDS
const TICKS_PER_SECOND = Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }))

interface State {
  peer: import('../../src/index.js').Peer
  channels: import('../../src/index.js').Channel[]
  got: number
}

/** Clock ticks of CPU time, and voluntary context switches of all threads. */
function usage(pid: number): { ticks: number; switches: number } {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ')
  let switches = 0
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    const status = readFileSync(`/proc/${pid}/task/${task}/status`, 'utf8')
    switches += Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)![1])
  }
  return { ticks: Number(fields[11]) + Number(fields[12]), switches }
}

async function pair(daemon: Daemon, mode: 'event' | 'adaptive'): Promise<[Remote<State>, Remote<State>]> {
  // The engine collects garbage once more eight seconds after work, on its own threads; that is no cost of waiting.
  const options = { execArgv: ['--no-memory-reducer'] }
  const [left, right] = await Promise.all([remote<State>(options), remote<State>(options)])
  await left.run(
    async ({ vmring, state }, region, mode) => {
      state.peer = await vmring.attach({ region, mode })
      const server = await state.peer.listen(`idle-${mode}`)
      server.on('channel', (channel) => {
        channel.on('message', (message) => channel.trySend(message.view))
      })
    },
    daemon.region,
    mode,
  )
  await right.run(
    async ({ vmring, state, once }, region, mode) => {
      state.peer = await vmring.attach({ region, mode })
      state.channels = []
      state.got = 0
      for (let i = 0; i < 3; i++) {
        const channel = await state.peer.connect(`idle-${mode}`, { wait: 10_000 })
        state.channels.push(channel)
        channel.on('message', () => {
          state.got++
        })
        // some work first, so that what follows work is idle too
        for (let round = 0; round < 100; round++) {
          channel.trySend(new Uint8Array(64))
          await once(channel, 'message')
        }
      }
    },
    daemon.region,
    mode,
  )
  return [left, right]
}

test('idle peers with open channels cost next to nothing, and wake at once', async () => {
  const daemon = await startDaemon()
  const pairs = [await pair(daemon, 'event'), await pair(daemon, 'adaptive')]
  const peers = pairs.flat()
  await sleep(3000)
  const before = peers.map(({ pid }) => usage(pid))
  await sleep(SECONDS * 1000)
  const spent = peers.map(({ pid }, i) => {
    const { ticks, switches } = usage(pid)
    return { ticks: ticks - before[i]!.ticks, switches: switches - before[i]!.switches }
  })
  console.log(`over ${SECONDS} s, ${TICKS_PER_SECOND} ticks a second: ${JSON.stringify(spent)}`)
  for (const { ticks, switches } of spent) {
    expect(ticks).toBeLessThanOrEqual(MOST_TICKS)
    expect(switches).toBeLessThanOrEqual(MOST_SWITCHES)
  }
  for (const [, right] of pairs) {
    const answered = await right.run(async ({ state, once }) => {
      const channel = state.channels[0]!
      const answer = once(channel, 'message')
      channel.trySend(new Uint8Array(64))
      const begin = performance.now()
      await answer
      return performance.now() - begin
    })
    // by the doorbell, not by the watchdog that looks about once a second
    expect(answered).toBeLessThan(500)
  }
})
