// Messages, copies and descriptors that somebody else changes while they are decoded. One JSON line for each kind; last line:
// N passed, M failed.
//   node scripts/long/torn.mjs [--attempts 1e8] [--json FILE]      attempts of all decoders together, and as many bare copies
import { join } from 'node:path'
import { torn } from '../../test/hostile/torn.mjs'
import { must, total } from '../lib.mjs'
import { buildNative } from '../native.mjs'
import { common, endsWhenTold, options, reporter } from './lib.mjs'

const { attempts, json } = options('node scripts/long/torn.mjs', {
  attempts: [1e8, 'of all decoders together, and as many bare copies'],
  json: common.lines,
})
endsWhenTold('torn')
const { report, counts } = reporter(json)
let made = 0

// long texts take a hundred times as long as the rest
const shares = { 'long text': 0.001, text: 0.4, json: 0.3, clone: 0.299 }
for (const result of await torn({ attempts: (kind) => Math.ceil(attempts * shares[kind]) })) {
  made += result.attempts
  report(result)
}
if (made < attempts) report({ kind: 'all', attempts: made, failures: ['fewer attempts than asked for'] })

const { dir } = await buildNative('none', 'torn_test')
const env = { VMRING_TORN_ATTEMPTS: String(attempts), VMRING_TEST_SECONDS: '36000' }
const { output } = await must(join(dir, 'torn_test'), [], { title: 'bare copies', env })
for (const line of output.split('\n').filter((text) => text.startsWith('  {')))
  report({ ...JSON.parse(line), failures: [] })
total(counts)
