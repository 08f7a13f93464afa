// Scribbles over a region in use, area by area, under AddressSanitizer and UndefinedBehaviorSanitizer: over the API with its daemon
// (test/hostile) and over the C++ core alone (native/test/scribble_test.cc). One JSON line for each area and level.
//   node scripts/long/scribble.mjs --seconds 600 [--area NAME] [--level api|core] [--seed N] [--plain] [--json FILE]
//   node scripts/long/scribble.mjs --ci          all areas of the core at once for a minute, each in a region of its own
// Last line: N passed, M failed. The same seed writes the same values again; when they meet what is up to the scheduler.
import { join } from 'node:path'
import { AREAS, scribble } from '../../test/hostile/scribble.mjs'
import { run, say, total } from '../lib.mjs'
import { buildNative, sanitized } from '../native.mjs'
import { common, endsWhenTold, options, reporter } from './lib.mjs'

const CI_SECONDS = 60
const CI_API_SECONDS = 3 // for each area, with everybody coming and going behind it

const { seconds, area, level, seed, plain, ci, json } = options('node scripts/long/scribble.mjs', {
  seconds: [600, 'for each area and level'],
  area: [AREAS, 'one of them; again for another'],
  level: [['api', 'core'], 'the whole package, or the memory protocol in C++ alone'],
  seed: common.seed,
  plain: [false, 'without sanitizers'],
  ci: [false, `all areas of the core at once, ${CI_SECONDS} s; those of the API in turn beside them`],
  json: common.lines,
})
endsWhenTold('scribble')
const { report, counts } = reporter(json)
const kind = plain ? 'none' : 'address'
const { dir } = await buildNative(kind, 'scribble_test')
const { addon } = ci || level.includes('api') ? await buildNative(kind, 'vmring') : {}

async function core(one, length, niceness = 0) {
  const env = {
    VMRING_SCRIBBLE_MS: String(length * 1000),
    VMRING_SCRIBBLE_SEED: String(seed),
    VMRING_TEST_SECONDS: String(length + 120),
  }
  const timeout = (length + 120) * 1000
  const command = ['-n', String(niceness), join(dir, 'scribble_test'), one]
  const { code, output, why } = await run('nice', command, { env, timeout, log: () => {} })
  const line = output.split('\n').find((text) => text.startsWith('  {'))
  const failures = code === 0 ? [] : [`${why}: ${output.slice(-3000)}`]
  report({ level: 'core', ...JSON.parse(line ?? '{}'), area: one, seconds: length, failures })
}

async function api(areas, length) {
  const env = plain ? {} : sanitized(addon)
  const how = { areas, seconds: length, seed, env }
  const failed = (error) => [
    { area: `${areas}`, seed, seconds: length, failures: [`${error?.stack ?? error}`] },
  ]
  for (const result of await scribble(how).catch(failed))
    report({ level: 'api', sanitizers: !plain, ...result })
}

if (ci) {
  // What works all the time makes way for whoever works beside it, and for the API, whose messages must come in time.
  await Promise.all([api(AREAS, CI_API_SECONDS), ...AREAS.map((one) => core(one, CI_SECONDS, 10))])
} else {
  for (const one of area) {
    say(`${one}: ${seconds} s each of ${level.join(' and ')}`)
    if (level.includes('api')) await api([one], seconds)
    if (level.includes('core')) await core(one, seconds)
  }
}
total(counts)
