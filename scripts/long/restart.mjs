// The daemon is killed and started again under load, again and again: running channels go on, those of the very first region too,
// host processes join the new region within two seconds, new channels open, and former regions are let go of.
//   node scripts/long/restart.mjs [--times N] [--json FILE] [--svg FILE]          Last line: N passed, M failed.
// An interrupted run goes on with the times that are left, in new processes.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { hostStatus } from '../../dist/host/admin-client.js'
import { total } from '../lib.mjs'
import { now } from './kill-traffic.mjs'
import {
  Household,
  machine,
  options,
  Progress,
  processStats,
  quantile,
  saveJson,
  say,
  sleep,
} from './lib.mjs'
import { plot } from './plot.mjs'

const JOINED_MS = 2000
const SLACK = 5 // a machine that does other work; what came later than two seconds is counted
const MiB = 2 ** 20

const { times, json, svg } = options('node scripts/long/restart.mjs', {
  times: [100, 'how often'],
  json: ['', 'file for the figures'],
  svg: ['', 'file for the picture'],
})
const made = machine()
const progress = new Progress('restart', { times, commit: made.commit })
const state = progress.load() ?? { rounds: [], failures: [] }
const before = state.rounds.length
if (before > 0) say(`restart: goes on after ${before} of ${times}`)

const household = new Household()
const args = ['--size', '32M', '--sections', '6']
let daemon = await household.daemon(args, false)
const names = ['one', 'other']
const workers = Object.fromEntries(names.map((name) => [name, household.worker('kill-survivor.mjs')]))
for (const name of names) await workers[name].ask('start', name, daemon.region, daemon.relay)
for (const name of names)
  await workers[name].ask(
    'talk',
    names.find((other) => other !== name),
  )

const fail = (text) => {
  state.failures.push(`restart ${state.rounds.length + 1}: ${text}`)
  say(`restart: FAILED ${text}`)
}
/** Regions that a process has mapped. */
const mapped = (pid) =>
  new Set(
    readFileSync(`/proc/${pid}/maps`, 'utf8')
      .split('\n')
      .map((line) => /^\S+ rw-s \S+ \S+ (\d+) +\/memfd:vmring/.exec(line)?.[1])
      .filter((inode) => inode !== undefined),
  ).size

while (state.rounds.length < times && !household.interrupted) {
  daemon.child.kill('SIGKILL')
  await sleep(50 + ((state.rounds.length * 7919) % 300)) // traffic without a daemon
  const joined = names.map((name) => new Promise((resolve) => (workers[name].onNote = resolve)))
  daemon = await household.daemon(args, false)
  const started = now()
  const all = await Promise.race([Promise.all(joined), sleep(JOINED_MS * SLACK)])
  const took = now() - started
  if (all === undefined) fail(`not everybody has joined after ${took.toFixed(0)} ms`)
  const round = { took, gaps: [] }
  for (const name of names) {
    const seen = await workers[name].ask('seen')
    round.gaps.push(seen.longest)
    if (seen.got === 0 || seen.wrong > 0 || seen.failures.length > 0) fail(`${name}: ${JSON.stringify(seen)}`)
  }
  try {
    // both ways: the new region, and whoever comes only now
    for (const name of names)
      await workers[name].ask(
        'probe',
        names.find((other) => other !== name),
      )
    const newcomer = household.worker('kill-survivor.mjs')
    await newcomer.ask('start', 'newcomer', daemon.region, daemon.relay)
    await newcomer.ask('probe', 'one')
    await newcomer.ask('leave')
    newcomer.kill()
    const { peers } = await hostStatus(daemon.socket)
    if (peers.length < names.length) fail(`the new daemon knows ${peers.length} processes`)
  } catch (error) {
    fail(error.message)
  }
  for (const name of names)
    round[name] = { ...processStats(workers[name].pid), regions: mapped(workers[name].pid) }
  state.rounds.push(round)
  progress.save(state)
}
// The first region, where the running channels are, the current one, and those of the last seconds: no more.
await sleep(4000)
const kept = Object.fromEntries(names.map((name) => [name, mapped(workers[name].pid)]))
for (const name of names) if (kept[name] > 2) fail(`${name} still maps ${kept[name]} regions`)
await household.close()

const took = state.rounds.map((round) => round.took)
const late = took.filter((ms) => ms > JOINED_MS).length
const pauses = state.rounds.flatMap(({ gaps }) => gaps)
const figures = {
  ...made,
  times: took.length,
  joined: { p50: quantile(took, 0.5), p99: quantile(took, 0.99), most: Math.max(...took), late },
  pauses: { p50: quantile(pauses, 0.5), most: Math.max(...pauses) },
  kept,
}
if (json !== '') saveJson(json, { ...figures, ...state })
if (svg !== '') {
  mkdirSync(dirname(svg), { recursive: true })
  const line = (name, of) => ({ name, points: state.rounds.map((round, i) => [i + 1, of(round)]) })
  const each = (get) => names.map((name) => line(name, (round) => get(round[name])))
  writeFileSync(
    svg,
    plot(
      `The daemon killed and started again ${took.length} times`,
      [
        {
          title: 'Until both processes had joined the new region',
          unit: 'ms',
          series: [line('joined', ({ took: ms }) => ms)],
        },
        {
          title: 'Longest pause of the running channels',
          unit: 'ms',
          series: names.map((name, i) => line(name, ({ gaps }) => gaps[i])),
        },
        { title: 'Memory without the region', unit: 'MiB', series: each(({ rss }) => rss / MiB) },
        { title: 'Descriptors', unit: 'open', series: each(({ fds }) => fds) },
        { title: 'Regions mapped', unit: 'count', series: each(({ regions }) => regions) },
      ],
      { x: 'restarts', foot: `commit ${made.commit}, Node ${made.node}, ${made.cpu}` },
    ),
  )
}
say(`restart: ${JSON.stringify(figures)}`)
if (household.interrupted) {
  say('restart: interrupted; call again to go on')
  process.exit(130)
}
progress.finished()
total([{ passed: Math.max(0, took.length - state.failures.length), failed: state.failures.length }])
process.exit()
