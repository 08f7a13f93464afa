// A storm of doorbells: a member rings two others a million times a second while they talk to each other. Their channel must keep
// at least half of the throughput of a control run, in which the same member burns the same processor time without ringing.
//   node scripts/long/storm.mjs [--rounds N] [--rate N] [--json FILE]          Last line: N passed, M failed.
import { total } from '../lib.mjs'
import { Household, machine, median, options, saveJson, say } from './lib.mjs'

const KEPT = 0.5
const ROUND_MS = 1000

const { rounds, rate, json } = options('node scripts/long/storm.mjs', {
  rounds: [5, 'of a second, each with a control before it'],
  rate: [1_000_000, 'doorbells a second'],
  json: ['', 'file for the figures'],
})
const household = new Household()
const results = []
for (const mode of ['event', 'adaptive']) {
  if (household.interrupted) break
  const daemon = await household.daemon(['--no-relay', '--size', '8M', '--sections', '8'], false)
  const [one, other, hostile] = ['', '', ''].map(() => household.worker('storm-peer.mjs'))
  await one.ask('talk', daemon.region, mode)
  await other.ask('connect', daemon.region, mode)
  await hostile.ask('join', daemon.region)
  await other.ask('traffic', 500, 64)
  for (const [name, bunch] of [
    ['round trips', 1],
    ['bunches of 64', 64],
  ]) {
    const rates = { control: [], storm: [] }
    const rung = []
    const before = await other.ask('counters')
    for (let round = 0; round < rounds && !household.interrupted; round++) {
      for (const kind of ['control', 'storm']) {
        const [count, bells] = await Promise.all([
          other.ask('traffic', ROUND_MS, bunch),
          hostile.ask('ring', ROUND_MS + 200, rate, kind === 'storm'),
        ])
        rates[kind].push((count * 1000) / ROUND_MS)
        if (kind === 'storm') rung.push((bells * 1000) / (ROUND_MS + 200))
      }
    }
    if (household.interrupted) break
    const after = await other.ask('counters')
    const kept = median(rates.storm) / median(rates.control)
    const wakeups = after.wakeups - before.wakeups
    results.push({
      mode,
      traffic: name,
      kept,
      perSecond: rates,
      doorbells: rung,
      wakeups,
      muted: (after.muted ?? 0) - (before.muted ?? 0),
    })
    say(
      `storm: ${mode}, ${name}: ${Math.round(median(rates.control))}/s, under ${Math.round(median(rung))} doorbells/s ${Math.round(median(rates.storm))}/s: ${(kept * 100).toFixed(0)} % kept`,
    )
  }
  for (const worker of [one, other, hostile]) worker.kill()
  daemon.child.kill('SIGKILL')
}
await household.close()
if (household.interrupted) {
  say('storm: interrupted')
  process.exit(130)
}
if (json !== '') saveJson(json, { ...machine(), rate, results })
total(results.map(({ kept }) => ({ passed: kept >= KEPT ? 1 : 0, failed: kept >= KEPT ? 0 : 1 })))
process.exit()
