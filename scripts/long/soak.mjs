// Hours of slow traffic of all kinds, with rings that begin shortly before 2^32: are memory, descriptors and latency flat?
// Three processes: a server, a client in the same region, a client over the relay alone. Last line: N passed, M failed.
//   node scripts/long/soak.mjs [--minutes N] [--json FILE] [--svg FILE]
// A run that was interrupted goes on with the minutes that are left; each stint is judged by itself.
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { total } from '../lib.mjs'
import { buildNative } from '../native.mjs'
import {
  Household,
  machine,
  median,
  options,
  Progress,
  processStats,
  saveJson,
  say,
  sleep,
  slope,
} from './lib.mjs'
import { plot } from './plot.mjs'

const MiB = 2 ** 20
const { minutes, json, svg } = options('node scripts/long/soak.mjs', {
  minutes: [120, 'how long, all stints together'],
  json: ['', 'file for samples and verdict'],
  svg: ['', 'file for the picture'],
})
/** What may be added in the last two thirds of a stint: `of` the median and `plus` in absolute terms. */
const LIMITS = {
  // in its first minutes an engine compiles and sizes its heap
  rss: { plus: minutes < 30 ? 16 * MiB : 4 * MiB, of: 0.03 },
  heap: { plus: 1 * MiB, of: 0.02 },
  fds: { plus: 0.9, of: 0 },
  // of the section; a channel and a large message are there at one sample and not at the next
  used: { plus: 512 * 1024, of: 0 },
  // the machine has other work: a channel that gets slower and slower would be far beyond
  p50: { plus: 2, of: 1 },
}

const { addon } = await buildNative('none', 'vmring')
process.env.VMRING_ADDON = addon
const made = machine()
const progress = new Progress('soak', { minutes, commit: made.commit })
const stints = progress.load() ?? []
const done = () => stints.reduce((sum, { samples }) => sum + (samples.at(-1)?.t ?? 0), 0)
if (done() > 0) say(`soak: goes on after ${done().toFixed(1)} of ${minutes} minutes`)

const household = new Household()
const daemon = await household.daemon(['--size', '32M', '--sections', '4'])
const roles = ['server', 'client', 'relay']
const workers = {}
for (const role of roles) {
  workers[role] = household.worker('soak-peer.mjs')
  await workers[role].ask('start', role, daemon.region, daemon.relay)
}
const pids = {
  daemon: daemon.child.pid,
  ...Object.fromEntries(roles.map((role) => [role, workers[role].pid])),
}
const stint = { startedAt: new Date().toISOString(), samples: [], failures: [] }
stints.push(stint)
const began = performance.now()
const left = minutes - done()
const interval = Math.max(5_000, (left * 60_000) / 240)

async function sample() {
  const one = { t: (performance.now() - began) / 60_000 }
  for (const [name, pid] of Object.entries(pids)) {
    const told = name === 'daemon' ? {} : await workers[name].ask('sample')
    one[name] = { ...processStats(pid), ...told }
    stint.failures.push(...(told.failures ?? []).map((text) => `${name}: ${text}`))
    delete one[name].failures
  }
  stint.samples.push(one)
  progress.save(stints)
  if (stint.samples.length % 10 === 0) write()
}

let broken = null
try {
  await sleep(1000)
  while (!household.interrupted && (performance.now() - began) / 60_000 < left) {
    await sample()
    const next = performance.now() + Math.min(interval, began + left * 60_000 - performance.now() + 100)
    while (!household.interrupted && performance.now() < next)
      await sleep(Math.min(500, next - performance.now()))
  }
  await sample()
  stint.counts = {}
  for (const role of roles.toReversed()) stint.counts[role] = await workers[role].ask('stop')
} catch (error) {
  broken = error
}
await household.close()

/** Everything that must be flat, and is or is not. */
function judge({ samples, failures, counts: last }) {
  const counts = last ?? samples.at(-1) // of a run that is under way
  const late = samples.filter(({ t }) => t >= samples.at(-1).t / 3)
  const found = []
  const span = late.length > 1 ? late.at(-1).t - late[0].t : 0
  for (const name of Object.keys(pids)) {
    for (const [what, { plus, of }] of Object.entries(LIMITS)) {
      const points = late.filter((one) => one[name][what] != null).map((one) => [one.t, one[name][what]])
      if (points.length < 3) continue
      const growth = slope(points) * span
      const limit = plus + of * median(points.map(([, y]) => y))
      found.push({ what: `${name} ${what}`, growth, limit, good: growth <= limit })
    }
  }
  const tally = (what) => roles.reduce((sum, role) => sum + (counts[role].counts ?? counts[role])[what], 0)
  const wrong = tally('wrong')
  const wraps = tally('wraps')
  const kept = last === undefined ? 0 : tally('kept')
  const cpu = Object.keys(pids).reduce(
    (sum, name) => sum + samples.at(-1)[name].cpu - samples[0][name].cpu,
    0,
  )
  const share = cpu / ((samples.at(-1).t - samples[0].t) * 60 || 1)
  found.push({ what: 'messages that came wrong', growth: wrong, limit: 0, good: wrong === 0 })
  found.push({
    what: 'section memory in use when all channels were closed',
    growth: kept,
    limit: 0,
    good: kept === 0,
  })
  found.push({ what: 'failures', growth: failures.length, limit: 0, good: failures.length === 0 })
  found.push({ what: 'no position wrapped', growth: wraps === 0 ? 1 : 0, limit: 0, good: wraps > 0 })
  return { flat: found.every(({ good }) => good), minutes: samples.at(-1).t, wraps, share, found }
}

function write() {
  const verdicts = stints.filter((one) => one.samples.length > 3).map(judge)
  if (json !== '') saveJson(json, { ...made, minutes: done(), wanted: minutes, verdicts, stints })
  if (svg !== '') {
    mkdirSync(dirname(svg), { recursive: true })
    writeFileSync(svg, picture())
  }
  return verdicts
}

const verdicts = write()
for (const [i, { found, wraps, share, minutes: length }] of verdicts.entries()) {
  const at = `stint ${i + 1}, ${length.toFixed(1)} min`
  say(`soak: ${at}: ${wraps} rings wrapped, ${(share * 100).toFixed(1)} % of a processor`)
  for (const { what, growth, limit, good } of found)
    if (!good) say(`soak: FAILED ${at}: ${what} grew by ${growth}, at most ${limit} was expected`)
}
for (const text of stints.flatMap(({ failures }) => failures).slice(0, 20)) say(`soak: ${text}`)
if (broken) say(`soak: ${broken.stack}`)
if (household.interrupted) {
  say(`soak: interrupted after ${done().toFixed(1)} of ${minutes} minutes; call again to go on`)
  process.exit(130)
}
progress.finished()
total(
  verdicts
    .flatMap(({ found }) => found)
    .map(({ good }) => ({ passed: good ? 1 : 0, failed: good ? 0 : 1 }))
    .concat(broken ? [{ passed: 0, failed: 1 }] : []),
)
process.exit()

function picture() {
  const offsets = stints.map((_, i) =>
    stints.slice(0, i).reduce((sum, { samples }) => sum + (samples.at(-1)?.t ?? 0), 0),
  )
  const line = (name, what, scale) => ({
    name,
    points: stints.flatMap(({ samples }, i) =>
      samples
        .filter((one) => one[name][what] != null)
        .map((one) => [offsets[i] + one.t, one[name][what] * scale]),
    ),
  })
  const names = Object.keys(pids)
  const panel = (title, unit, what, scale, of = names) => ({
    title,
    unit,
    series: of.map((name) => line(name, what, scale)).filter(({ points }) => points.length > 0),
  })
  const { commit, node, cpu } = made
  return plot(
    `Soak, ${done().toFixed(0)} minutes`,
    [
      panel('Memory of the process without the region', 'MiB', 'rss', 1 / MiB),
      panel('JavaScript heap and external memory after collection', 'MiB', 'heap', 1 / MiB),
      panel('Descriptors', 'open', 'fds', 1),
      panel('Section memory in use', 'KiB', 'used', 1 / 1024),
      panel('Round trip, half are faster', 'ms', 'p50', 1),
      panel('Round trip, 99 % are faster', 'ms', 'p99', 1),
    ],
    { x: 'minutes', foot: `commit ${commit}, Node ${node}, ${cpu}` },
  )
}
