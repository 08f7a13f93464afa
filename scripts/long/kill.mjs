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
  looksAround,
  machine,
  options,
  Progress,
  processStats,
  quantile,
  random,
  saveJson,
  say,
  sleep,
  within,
} from './lib.mjs'
import { plot } from './plot.mjs'
import { SLACK, TOLD_MS, Yard } from './yard.mjs'

const CROWD = 6 // victims at a time in one region
const GOING_MS = 20_000 // until a victim has opened its channels and has had an answer on each
const AHEAD = 8 // processes that have started and wait for their turn

const { kills, seed, every, yards, json, svg } = options('node scripts/long/kill.mjs', {
  kills: [10_000, 'how many processes'],
  seed: [1, 'of the random moments'],
  every: [50, 'crowds of six between two deaths of the daemon'],
  yards: [2, 'daemons at a time, each with a survivor and a witness'],
  json: ['', 'file for the figures'],
  svg: ['', 'file for the picture'],
})
const made = machine()
const progress = new Progress('kill', { kills, seed, every, yards, commit: made.commit })
const state = progress.load() ?? {
  crowds: 0,
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
const crowds = Math.ceil(kills / CROWD)
const count = () => state.kills.listener + state.kills.connector
if (count() > 0) say(`kill: goes on after ${count()} of ${kills}`)
const began = now()
const before = state.seconds
/** The number of the next crowd: of those that were interrupted nothing is kept. */
let next = state.crowds
const household = new Household()
const args = ['--size', '128M', '--sections', String(3 + 2 * CROWD)]

function fail(crowd, text) {
  state.failures.push(`crowd ${crowd}: ${text}`)
  say(`kill: FAILED crowd ${crowd}: ${text}`)
}

// ---- those who die: processes that have started, each says so

const waiting = []

function victim() {
  const one = household.worker('kill-victim.mjs', { collects: false })
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
    else if (one.killedAt === undefined && !one.excused)
      one.complain(`a victim that lives says: ${note.failed}`)
  }
  return one
}

/** As many as a crowd needs; those after them start while these die. */
function takeCrowd(number) {
  const left = Math.max(0, crowds - next) * CROWD
  while (waiting.length < CROWD + Math.min(AHEAD, left)) waiting.push(victim())
  const crowd = waiting.splice(0, CROWD)
  for (const one of crowd) one.complain = (text) => fail(number, text)
  return crowd
}

// ---- where they die

class Graveyard extends Yard {
  dies = 0

  async start() {
    await super.start(async () => {
      this.base = await this.settledMemory(-1)
    })
  }

  /** The free memory of the survivor's section, when it has been the same for a while, or is what is `wanted`. */
  async settledMemory(wanted, limit = 4000) {
    const end = now() + limit
    let last = -1
    for (let same = 0; now() < end; ) {
      const free = await this.survivor.ask('free')
      if (free === wanted) return free
      same = free === last ? same + 1 : 0
      if (wanted === -1 && same === 20) return free
      last = free
      await sleep(10)
    }
    return last
  }

  /** One victim from its first word to its end. */
  async life(one, whose, dice, found, atOnce) {
    const role = dice.below(2) === 0 ? 'listener' : 'connector'
    const early = dice.below(4) === 0
    const delay = dice.below(early ? 120 : 80)
    if (!(await within(one.said('ready').promise, 60_000))) return one.complain('a victim did not start')
    const { region, relay } = this.daemon
    void one.ask('run', { role, region, relay, whose, seed: seed ^ whose, steps: false }).catch((error) => {
      if (one.killedAt === undefined) one.complain(error.message)
    })
    const reached = role === 'listener' ? this.survivor.ask('reach', whose) : Promise.resolve([])
    if (early) found.beforeGoing++
    else if (!(await within(one.said('going').promise, GOING_MS))) one.complain(`a ${role} did not get going`)
    await atOnce
    await sleep(delay)
    one.killedAt = now()
    one.kill()
    await one.exited
    found.kills[role]++
    await this.survivor.ask('abandon', whose)
    found.refused.push(...(await reached))
  }

  /** The daemon dies under load and comes back: everybody joins again within two seconds, nothing else happens. */
  async daemonDies(crowd, number) {
    for (const one of crowd) one.excused = true // without a relay no path can be changed
    state.kills.daemon++
    const took = await this.restart(crowd.map((one) => one.said('rejoined').promise))
    if (took === undefined) fail(number, 'not everybody joined the new daemon')
    else state.rejoined.push(took)
    if (took > TOLD_MS) state.late++
    await looksAround(this.survivor)
  }

  /** Six die, each at a moment of its own, and everything is as it was. */
  async crowd(number) {
    const dice = random(seed * 1_000_003 + number)
    const crowd = takeCrowd(number)
    const found = { kills: { listener: 0, connector: 0 }, beforeGoing: 0, refused: [] }
    const first = number * CROWD + 2
    const withDaemon = ++this.dies % every === 0
    let goOn
    const hold = withDaemon ? new Promise((resolve) => (goOn = resolve)) : Promise.resolve()
    const lives = crowd.map((one, i) => this.life(one, first + i, dice, found, hold))
    if (withDaemon) {
      await within(Promise.all(crowd.map((one) => one.said('going').promise)), GOING_MS)
      await this.daemonDies(
        crowd.filter((one) => one.killedAt === undefined),
        number,
      )
      goOn()
    }
    await Promise.all(lives)
    const dead = now()
    const { left, over } = await this.survivor.ask('settled', 5000)
    if (left > 0) {
      fail(number, `${left} channels to processes that are dead are still open after 5 s`)
      await this.survivor.ask('giveUp') // those to come are judged by themselves
    }
    for (const one of over)
      this.judge(one, number, one.whose === null ? null : crowd[one.whose - first], dead)
    if (left > 0) {
      this.base = await this.settledMemory(-1)
    } else if (withDaemon) {
      // the witness's channels are in the former region: they go on there, and then move house
      const seen = await this.survivor.ask('seen')
      if (seen.got === 0 || seen.wrong > 0)
        fail(number, `the witness without a daemon: ${JSON.stringify(seen)}`)
      await this.survivor.ask('end')
      await this.survivor.ask('talk', 'witness')
      this.base = await this.settledMemory(-1)
    } else {
      const free = await this.settledMemory(this.base)
      if (free !== this.base)
        fail(number, `${this.base - free} bytes of the survivor's section are not free again`)
      state.freed.push(now() - dead)
    }
    const seen = await this.survivor.ask('seen')
    if (seen.wrong > 0 || seen.failures.length > 0)
      fail(number, `the witness noticed: ${JSON.stringify(seen)}`)
    state.gaps.push(seen.longest)
    for (const role of Object.keys(found.kills)) state.kills[role] += found.kills[role]
    for (const code of found.refused) state.refused[code] = (state.refused[code] ?? 0) + 1
    state.beforeGoing += found.beforeGoing
    state.crowds++
  }

  /** What became of one channel to a victim. */
  judge({ whose, wrong, at, code, received }, number, one, dead) {
    const killedAt = one?.killedAt ?? null
    state.channels++
    state.messages += received
    if (wrong > 0) fail(number, `${wrong} of ${received} messages came wrong`)
    if (code === null) return // it had closed it
    state.codes[code] = (state.codes[code] ?? 0) + 1
    if (code !== 'ERR_VMRING_PEER_GONE') fail(number, `a channel ended with ${code}`)
    const told = at - (killedAt ?? dead)
    if (told > TOLD_MS) state.late++
    if (told > TOLD_MS * SLACK) fail(number, `told after ${told.toFixed(0)} ms`)
    if (killedAt !== null && told < -5)
      fail(number, `a channel of ${whose} ended ${-told} ms before the kill`)
    state.told.push(Math.max(0, told))
  }

  async sample() {
    await this.survivor.ask('gc')
    return { survivor: processStats(this.survivor.pid), daemon: processStats(this.daemon.child.pid) }
  }
}

const all = Array.from({ length: yards }, (_, i) => new Graveyard(household, `yard${i + 1}`, args))
await Promise.all(
  all.map(async (yard) => {
    await yard.start()
    while (next < crowds && !household.interrupted) {
      await yard.crowd(next++)
      state.seconds = before + (now() - began) / 1000
      if (state.crowds % 10 === 0)
        say(`kill: ${count()} of ${kills}, ${(count() / state.seconds).toFixed(1)} a second`)
      if (yard === all[0] && yard.dies % 10 === 0) {
        state.samples.push({ kills: count(), ...(await yard.sample()) })
        write()
      }
      progress.save(state)
    }
  }),
)
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
