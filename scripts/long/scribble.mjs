// Scribbles over a region in use, area by area, under AddressSanitizer and UndefinedBehaviorSanitizer: over the API with its daemon
// (test/hostile) and over the C++ core alone (native/test/scribble_test.cc). One JSON line for each area and level.
//   node scripts/long/scribble.mjs --seconds 600 [--area NAME] [--level api|core] [--seed N] [--plain] [--json FILE]
// --seconds: for each area and level. --plain: the addon without sanitizers. The same seed writes the same values again; when
// they meet what is up to the scheduler.
import { appendFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { AREAS, scribble } from '../../test/hostile/scribble.mjs'
import { run, say } from '../lib.mjs'
import { buildNative, sanitized } from '../native.mjs'

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '600' },
    area: { type: 'string', multiple: true, default: AREAS },
    level: { type: 'string', multiple: true, default: ['api', 'core'] },
    seed: { type: 'string', default: String(Date.now() % 2 ** 32) },
    plain: { type: 'boolean', default: false },
    json: { type: 'string' },
  },
})
const seconds = Number(values.seconds)
const unknown = values.area.find((area) => !AREAS.includes(area))
if (unknown !== undefined) throw new Error(`--area: ${unknown} is none of ${AREAS.join(', ')}`)

const build = values.plain ? null : await buildNative('address')
const { dir } = build ?? (await buildNative('none'))
let failed = 0

function report(result) {
  const line = JSON.stringify(result)
  console.log(line)
  if (values.json !== undefined) appendFileSync(values.json, `${line}\n`)
  if (result.failures.length > 0) failed++
}

async function core(area) {
  const env = {
    VMRING_SCRIBBLE_MS: String(seconds * 1000),
    VMRING_SCRIBBLE_SEED: values.seed,
    VMRING_TEST_SECONDS: String(seconds + 120),
  }
  const timeout = (seconds + 120) * 1000
  const { code, output, why } = await run(join(dir, 'scribble_test'), [area], { env, timeout, log: () => {} })
  const line = output.split('\n').find((text) => text.startsWith('  {'))
  const failures = code === 0 ? [] : [`${why}: ${output.slice(-3000)}`]
  report({ level: 'core', ...JSON.parse(line ?? '{}'), area, seconds, failures })
}

async function api(area) {
  const env = build === null ? {} : sanitized(build.addon)
  const how = { areas: [area], seconds, seed: Number(values.seed), env }
  const [result] = await scribble(how).catch((error) => [
    { area, seconds, seed: how.seed, failures: [String(error?.stack ?? error)] },
  ])
  report({ level: 'api', sanitizers: build !== null, ...result })
}

for (const area of values.area) {
  say(`${area}: ${seconds} s each of ${values.level.join(' and ')}`)
  if (values.level.includes('api')) await api(area)
  if (values.level.includes('core')) await core(area)
}
process.exitCode = failed > 0 ? 1 : 0
