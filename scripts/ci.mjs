// All suites; a failure stops nothing. What comes before the tests runs one after the other, then two suites run at a time
// (most of them wait more than they work) and beside them what works hardly at all, then what measures, alone.
// Last line: N passed, M failed.
//   node scripts/ci.mjs [WORD ...]     only suites whose name contains one of the words
import { createWriteStream, mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { lanes, lastLine, root, run, seconds, total, verdict, vitestCounts } from './lib.mjs'

const logs = mkdtempSync(join(tmpdir(), 'vmring-ci-'))
const node = (script, ...args) => [process.execPath, join(root, script), ...args]
const npm = (...args) => ['npm', 'run', '--silent', ...args]

const byExit = (_output, code) => ({ passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1 })
const byLastLine = (output, code) => verdict(lastLine(output), code)
const byReport = (_output, code, report) => verdict(vitestCounts(report), code)
const json = ['--reporter=default', '--reporter=json']

// name, command, how to count, minutes after which it has hung, environment
const before = [
  ['lint', npm('lint'), byExit, 2],
  ['types', npm('types'), byExit, 3],
  ['lock file', node('scripts/check-lock.mjs'), byExit, 1],
  ['build', npm('build'), byExit, 8],
  ['docs say what the sources say', node('scripts/docs.mjs', '--check'), byExit, 1],
  ['package', npm('test:package'), byExit, 4],
  ['release', npm('release:check'), byLastLine, 4],
]
// The longest first, so that neither of the two ends long after the other.
const together = [
  ['npm test', ['npm', 'test', '--', ...json], byReport, 25],
  ['C++ tests', node('scripts/native.mjs', 'test', 'none'), byLastLine, 20],
  ['vitest, addon by cmake-js', node('scripts/vitest-cmake.mjs'), byLastLine, 10],
  ['C++ tests, ASan and UBSan', node('scripts/native.mjs', 'test', 'address'), byLastLine, 20],
  ['vitest, ASan and UBSan', npm('test:asan'), byLastLine, 20],
  // with what the two before it have built
  ['scribbling, ASan and UBSan', node('scripts/long/scribble.mjs', '--ci'), byLastLine, 10],
  ['C++ tests, TSan', node('scripts/native.mjs', 'test', 'thread'), byLastLine, 20],
  ['Node 22, 24, 26', node('scripts/nodes.mjs', '22', '24', '26'), byLastLine, 25],
  ['processes killed', node('scripts/long/kill.mjs', '--kills', '500', '--every', '20'), byLastLine, 10],
  ['daemon killed', node('scripts/long/restart.mjs', '--times', '3'), byLastLine, 5],
  ['fuzzing', node('scripts/long/fuzz.mjs', '--ci'), byLastLine, 10],
  ['C++ tests, valgrind', node('scripts/native.mjs', 'test', 'valgrind'), byLastLine, 10],
  ['C++ tests, arm64', npm('test:native-arm64'), byLastLine, 10],
  ['libraries over vmring', ['npm', 'run', 'test:adapters', '--', ...json], byReport, 15],
  ['Spin models', ['bash', 'native/test/spin/run.sh'], byLastLine, 10],
  ['data path is lock-free', ['bash', 'native/test/lock_free.sh'], byLastLine, 5],
  ['data path copies nothing', ['bash', 'native/test/zero_copy.sh'], byLastLine, 5],
  ['demo', npm('demo'), byExit, 2],
]
// Slow traffic, a tenth of a processor; it takes the addon that the suite named first has built.
const beside = {
  after: 'vitest, addon by cmake-js',
  suite: ['soak', node('scripts/long/soak.mjs', '--minutes', '5'), byLastLine, 12],
}
// Of `npm run test:vm`; `broken` cuts every byte and is a long run.
const guests = [
  'nested',
  'cat',
  'vsock',
  'life',
  'net',
  'bench',
  'guides',
  'faults',
  'devices',
  'doctor',
  'demo',
  'mesh',
  'bed',
]
const alone = [
  ['micro-benchmarks', npm('bench:micro', '--', '--quick', '--json'), byExit, 5],
  // one round each of what may happen to a guest; `VMRING_VM_ROUNDS=10 npm run test:vm -- life` is the whole of it
  [
    'guests',
    ['npm', 'run', 'test:vm', '--', ...guests.map((name) => `test/vm/${name}.test.ts`), ...json],
    byReport,
    27,
    { VMRING_VM_ROUNDS: '1' },
  ],
]

const words = process.argv.slice(2)
const chosen = (suites) =>
  suites.filter(([name]) => words.length === 0 || words.some((word) => name.includes(word)))
const began = Date.now()
const results = []

/** The lines that name a failed test, with what it said: all of them, to stand together at the end. */
function failures(output) {
  const lines = output.split('\n')
  const named = lines.flatMap((line, i) =>
    /^\s*(FAIL |not ok |FAILED)/.test(line) ? [`${line.trim()}: ${lines[i + 1]?.trim() ?? ''}`] : [],
  )
  return [...new Set(named)].slice(0, 20)
}

async function perform([name, [command, ...args], count, minutes, env]) {
  const started = Date.now()
  const title = name.replace(/\W+/g, '-')
  const file = join(logs, `${title}.log`)
  const report = join(logs, `${title}.json`)
  const stream = createWriteStream(file)
  const counted = count === byReport ? [...args, `--outputFile.json=${report}`] : args
  console.log(`── ${name}: ${[command, ...args].join(' ').replaceAll(`${root}/`, '')}`)
  const result = await run(command, counted, {
    timeout: minutes * 60_000,
    env: { CI: '1', NO_COLOR: '1', ...env },
    log: (chunk) => stream.write(chunk),
  })
  stream.end()
  const counts = count(result.output, result.code, report)
  const named = counts.failed > 0 ? failures(result.output) : []
  results.push({ name, ...counts, time: seconds(started), why: result.why, named })
  if (counts.failed > 0) console.log(result.output.split('\n').slice(-80).join('\n'))
  console.log(
    `   ${name}: ${counts.passed} passed, ${counts.failed} failed in ${seconds(started)} s (${result.why}; ${file})`,
  )
}

for (const suite of chosen(before)) await perform(suite)
let slow = null
await lanes(chosen(together), 2, async (suite) => {
  await perform(suite)
  if (suite[0] === beside.after) slow = Promise.all(chosen([beside.suite]).map(perform))
})
await (slow ?? Promise.all(chosen([beside.suite]).map(perform)))
for (const suite of chosen(alone)) await perform(suite)

console.log(`\nAll suites, ${seconds(began)} s:`)
for (const { name, passed, failed, time } of results) {
  console.log(
    `  ${name.padEnd(28)} ${String(passed).padStart(6)} passed ${String(failed).padStart(4)} failed ${time.padStart(8)} s`,
  )
}
for (const { name, named, why } of results.filter((suite) => suite.failed > 0))
  for (const line of [why, ...named]) console.log(`  ${name}: ${line.slice(0, 300)}`)
total(results)
