// What single operations of the rings cost, by Benchmark.js: one process, one thread, everything in the cache. It says what
// a function call costs, not what a message between two processes costs (that is `vmring bench`).
//   npm run bench:micro -- [--json] [--quick] [--only WORD]
import { createRequire } from 'node:module'
import { cpus } from 'node:os'
import { channelCases } from './channel.mjs'
import { endCases } from './ends.mjs'

const Benchmark = createRequire(import.meta.url)('benchmark')
const args = process.argv.slice(2)
const json = args.includes('--json')
const only = args.includes('--only') ? args[args.indexOf('--only') + 1] : ''
const maxTime = args.includes('--quick') ? 0.2 : 2
const minSamples = args.includes('--quick') ? 5 : 20

const { cases: channelList, close } = await channelCases()
const cases = [...endCases(), ...channelList].filter(({ name }) => name.includes(only))

const results = []
let failed = cases.length === 0
for (const [index, { name, records, fn }] of cases.entries()) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${index + 1}/${cases.length} ${name}`)
  const bench = new Benchmark(name, fn, { maxTime, minSamples })
  bench.run()
  if (bench.error) {
    failed = true
    process.stderr.write(`${name}: ${bench.error.stack ?? bench.error}\n`)
    continue
  }
  results.push({
    name,
    operationsPerSecond: Math.round(bench.hz * records),
    nanosecondsPerOperation: Number((1e9 / (bench.hz * records)).toFixed(1)),
    rme: Number(bench.stats.rme.toFixed(2)),
    samples: bench.stats.sample.length,
  })
}
if (process.stderr.isTTY) process.stderr.write('\r\x1b[K')
await close()

if (json) {
  const { node, v8 } = process.versions
  console.log(JSON.stringify({ node, v8, arch: process.arch, cpu: cpus()[0]?.model ?? '', results }, null, 2))
} else {
  for (const { name, operationsPerSecond, nanosecondsPerOperation, rme } of results) {
    const figures = [
      operationsPerSecond.toLocaleString('en').padStart(13),
      'ops/s',
      nanosecondsPerOperation.toFixed(1).padStart(9),
    ]
    console.log(`${name.padEnd(62)} ${figures.join(' ')} ns ±${rme.toFixed(1)} %`)
  }
}
process.exitCode = failed ? 1 : 0
