// SIGKILL at random moments: processes that talk over a region, as listeners and as connectors, are killed in the middle of
// everything; now and then the daemon. The survivor must be told within two seconds, what it had received is intact, its other
// channels do not notice, its section's memory is all free again, and the next process in the place works.
//   node scripts/long/kill.mjs [--kills N] [--seed S] [--every N] [--json FILE] [--svg FILE]          Last line: N passed, M failed.
// An interrupted run goes on where it was when it is called again.
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { total } from '../lib.mjs'
import { now } from './kill-traffic.mjs'
import {
  Household,
  machine,
  options,
  Progress,
  processStats,
  quantile,
  random,
  saveJson,
  say,
  sleep,
} from './lib.mjs'
import { plot } from './plot.mjs'

const TOLD_MS = 2000
const SLACK = 5 // a machine that does other work; what came later than two seconds is counted
const CROWD = 6 // victims at a time

const { kills, seed, every, json, svg } = options('node scripts/long/kill.mjs', {
  kills: [10_000, 'how many processes'],
  seed: [1, 'of the random moments'],
  every: [50, 'crowds of six between two deaths of the daemon'],
  json: ['', 'file for the figures'],
  svg: ['', 'file for the picture'],
})
const made = machine()
const progress = new Progress('kill', { kills, seed, every, commit: made.commit })
const state = progress.load() ?? {
  crowd: 0,
  kills: { listener: 0, connector: 0, daemon: 0 },
  beforeGoing: 0,
  channels: 0,
  messages: 0,
  told: [],
  freed: [],
  rejoined: [],
  gaps: [],
  late: 0,
  codes: {},
  refused: {},
  samples: [],
  failures: [],
  seconds: 0,
}
const count = () => state.kills.listener + state.kills.connector
if (count() > 0) say(`kill: goes on after ${count()} of ${kills}`)
const began = now()
const before = state.seconds

const household = new Household()
const args = ['--size', '256M', '--sections', String(3 + 2 * CROWD)]
let daemon = await household.daemon(args, false)
const survivor = household.worker('kill-survivor.mjs')
const witness = household.worker('kill-survivor.mjs')
await survivor.ask('start', 'survivor', daemon.region, daemon.relay)
await witness.ask('start', 'witness', daemon.region, daemon.relay)
await survivor.ask('talk', 'witness')
let base = await settledMemory(-1)

function fail(text) {
  state.failures.push(`crowd ${state.crowd}: ${text}`)
  say(`kill: FAILED crowd ${state.crowd}: ${text}`)
}

/** The free memory of the survivor's section, when it has been the same for a while, or is what is `wanted`. */
async function settledMemory(wanted, limit = 4000) {
  const end = now() + limit
  let last = -1
  for (let same = 0; now() < end; ) {
    const free = await survivor.ask('free')
    if (free === wanted) return free
    same = free === last ? same + 1 : 0
    if (wanted === -1 && same === 20) return free
    last = free
    await sleep(10)
  }
  return last
}

function victim() {
  const one = household.worker('kill-victim.mjs')
  const heard = new Map()
  one.said = (word) => {
    if (!heard.has(word)) {
      let resolve
      const promise = new Promise((done) => {
        resolve = done
      })
      heard.set(word, { promise, resolve })
    }
    return heard.get(word)
  }
  one.onNote = (note) => {
    if (typeof note === 'string') one.said(note).resolve(true)
    else if (one.killedAt === undefined && !one.excused) fail(`a victim that lives says: ${note.failed}`)
  }
  return one
}

const within = (promise, ms) => Promise.race([promise, sleep(ms).then(() => undefined)])
const pool = Array.from({ length: CROWD }, victim)

/** One victim from its first word to its end. */
async function life(one, whose, dice, atOnce) {
  const role = dice.below(2) === 0 ? 'listener' : 'connector'
  const early = dice.below(4) === 0
  const delay = dice.below(early ? 120 : 80)
  if (!(await within(one.said('ready').promise, 60_000))) return fail('a victim did not start')
  void one
    .ask('run', { role, region: daemon.region, relay: daemon.relay, whose, seed: seed ^ whose, steps: false })
    .catch((error) => {
      if (one.killedAt === undefined) fail(`victim: ${error.message}`)
    })
  const reached = role === 'listener' ? survivor.ask('reach', whose) : Promise.resolve([])
  if (early) {
    state.beforeGoing++
  } else if (!(await within(one.said('going').promise, 20_000))) {
    fail(`a ${role} did not get going`)
  }
  await atOnce
  await sleep(delay)
  one.killedAt = now()
  one.kill()
  await one.exited
  state.kills[role]++
  for (const code of await reached) state.refused[code] = (state.refused[code] ?? 0) + 1
  return whose
}

/** The daemon dies under load and comes back: everybody joins again within two seconds, nothing else happens. */
async function daemonDies(crowd) {
  for (const one of crowd) one.excused = true // without a relay no path can be changed
  daemon.child.kill('SIGKILL')
  state.kills.daemon++
  await sleep(20)
  const back = [survivor, witness].map((one) => new Promise((resolve) => (one.onNote = resolve)))
  const again = crowd.map((one) => one.said('rejoined').promise)
  daemon = await household.daemon(args, false)
  const start = now()
  const heard = await within(Promise.all([...back, ...again]), 10_000)
  if (heard === undefined) fail('not everybody joined the new daemon')
  else if (now() - start > TOLD_MS) state.late++
  state.rejoined.push(now() - start)
}

while (count() < kills && !household.interrupted) {
  const dice = random(seed * 1_000_003 + state.crowd)
  const crowd = pool.splice(0)
  while (pool.length < CROWD) pool.push(victim()) // they start while these die
  const first = state.crowd * CROWD + 2
  let goOn
  const withDaemon = state.crowd % every === every - 1
  const hold = withDaemon ? new Promise((resolve) => (goOn = resolve)) : Promise.resolve()
  const lives = crowd.map((one, i) => life(one, first + i, dice, hold))
  if (withDaemon) {
    await within(Promise.all(crowd.map((one) => one.said('going').promise)), 3000)
    await daemonDies(crowd.filter((one) => one.killedAt === undefined))
    goOn()
  }
  await Promise.all(lives)
  const dead = now()
  const { left, over } = await survivor.ask('settled', 5000)
  if (left > 0) fail(`${left} channels to processes that are dead are still open after 5 s`)
  for (const { whose, wrong, at, code, received } of over) {
    const killedAt = whose === null ? null : (crowd[whose - first]?.killedAt ?? null)
    state.channels++
    state.messages += received
    if (wrong > 0) fail(`${wrong} of ${received} messages came wrong`)
    if (code === null) continue // it had closed it
    state.codes[code] = (state.codes[code] ?? 0) + 1
    if (code !== 'ERR_VMRING_PEER_GONE') fail(`a channel ended with ${code}`)
    const told = at - (killedAt ?? dead)
    if (told > TOLD_MS) state.late++
    if (told > TOLD_MS * SLACK) fail(`told after ${told.toFixed(0)} ms`)
    if (killedAt !== null && told < -5) fail(`a channel ended ${-told} ms before its process was killed`)
    state.told.push(Math.max(0, told))
  }
  if (withDaemon) {
    // the witness's channels are in the former region: they go on there, and then move house
    const seen = await survivor.ask('seen')
    if (seen.got === 0 || seen.wrong > 0) fail(`the witness without a daemon: ${JSON.stringify(seen)}`)
    await survivor.ask('end')
    await survivor.ask('talk', 'witness')
    base = await settledMemory(-1)
  } else {
    const free = await settledMemory(base)
    if (free !== base) fail(`${base - free} bytes of the survivor's section are not free again`)
    state.freed.push(now() - dead)
  }
  const seen = await survivor.ask('seen')
  if (seen.wrong > 0 || seen.failures.length > 0) fail(`the witness noticed: ${JSON.stringify(seen)}`)
  state.gaps.push(seen.longest)
  state.crowd++
  state.seconds = before + (now() - began) / 1000
  if (state.crowd % 20 === 0) {
    await survivor.ask('gc')
    const minute = state.seconds / 60
    state.samples.push({
      minute,
      kills: count(),
      survivor: processStats(survivor.pid),
      daemon: processStats(daemon.child.pid),
    })
    say(`kill: ${count()} of ${kills}, ${(count() / state.seconds).toFixed(1)} a second`)
    write()
  }
  progress.save(state)
}
await household.close()

function spread(numbers) {
  const [p50, p99, most] = [0.5, 0.99, 1].map((share) => Math.round(quantile(numbers, share) * 10) / 10)
  return { p50, p99, most, count: numbers.length }
}

function write() {
  const { told, freed, rejoined, gaps, ...rest } = state
  const figures = {
    ...made,
    seed,
    told: spread(told),
    freed: spread(freed),
    rejoined: spread(rejoined),
    gaps: spread(gaps),
  }
  if (json !== '') saveJson(json, { ...figures, ...rest })
  if (svg === '') return figures
  mkdirSync(dirname(svg), { recursive: true })
  const line = (name, get) => ({ name, points: state.samples.map((one) => [one.kills, get(one)]) })
  const each = (name, numbers) => ({
    name,
    points: numbers.map((y, i) => [(i * count()) / numbers.length, y]),
  })
  const of = (numbers) =>
    Array.from({ length: 200 }, (_, i) =>
      numbers.slice((i * numbers.length) / 200, ((i + 1) * numbers.length) / 200),
    )
      .filter((part) => part.length > 0)
      .map((part) => Math.max(...part))
  writeFileSync(
    svg,
    plot(
      `${count()} processes killed`,
      [
        {
          title: 'Until the survivor was told (the slowest of its time)',
          unit: 'ms',
          series: [each('told', of(told))],
        },
        { title: 'Longest pause of the channels to others', unit: 'ms', series: [each('pause', of(gaps))] },
        {
          title: 'Memory without the region',
          unit: 'MiB',
          series: [
            line('survivor', (one) => one.survivor.rss / 2 ** 20),
            line('daemon', (one) => one.daemon.rss / 2 ** 20),
          ],
        },
        {
          title: 'Descriptors',
          unit: 'open',
          series: [line('survivor', (one) => one.survivor.fds), line('daemon', (one) => one.daemon.fds)],
        },
      ],
      { x: 'kills', foot: `commit ${made.commit}, Node ${made.node}, ${made.cpu}` },
    ),
  )
  return figures
}

const { told, freed, rejoined, gaps } = write()
say(
  `kill: ${count()} in ${state.seconds.toFixed(0)} s: ${JSON.stringify(state.kills)}, ${state.beforeGoing} before they were going`,
)
say(
  `kill: ${state.channels} channels, ${state.messages} messages; ended with ${JSON.stringify(state.codes)}; refused ${JSON.stringify(state.refused)}`,
)
say(
  `kill: told after ${JSON.stringify(told)} ms; memory free after ${JSON.stringify(freed)} ms; joined again after ${JSON.stringify(rejoined)} ms; ${state.late} later than ${TOLD_MS} ms; pauses of others ${JSON.stringify(gaps)} ms`,
)
if (household.interrupted) {
  say('kill: interrupted; call again to go on')
  process.exit(130)
}
progress.finished()
total([{ passed: count() - Math.min(count(), state.failures.length), failed: state.failures.length }])
process.exit()
