// The standard set: what the README shows and what the project claims, in some fifteen minutes. Each part is one `vmring bench`, so that
// what is compared was measured in turn; bench/results/ gets its JSON, picture and page, and then every claim is held against it.
// Only a machine that does nothing else gives figures that are worth keeping.
//   npm run bench -- [--scale FACTOR] [--only PART] [--out FOLDER]
//   node scripts/docs.mjs       writes the README's numbers from it
import { spawn } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join, relative, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { report } from './claims.mjs'

const root = resolve(import.meta.dirname, '..')
const { values } = parseArgs({
  options: {
    scale: { type: 'string', default: '1' },
    only: { type: 'string' },
    out: { type: 'string', default: join(root, 'bench/results') },
  },
})
const scale = Number(values.scale)
if (!(scale > 0 && scale <= 10))
  throw new Error('--scale is a factor of all durations, above 0 and at most 10')

// name: test, options, measured time and warm-up in seconds, runs
const parts = {
  latency: [
    'latency',
    '--transport shm,socket,unix,tcp,messageport --mode busy,adaptive --api sync,event,iterate',
    [0.5, 0.4],
    5,
  ],
  gap: ['latency', '--transport shm,unix --mode adaptive,event --api sync,event --idle-gap 5', [1, 1], 5],
  throughput: [
    'throughput',
    '--transport shm,unix --mode busy --api sync --fill copy,reserve --touch header,all --size 64,1k,64k,1m',
    [0.3, 0.3],
    5,
  ],
  events: ['throughput', '--transport shm,unix --mode adaptive,event --api event,iterate', [0.5, 0.5], 5],
  scale: ['scale', '--transport shm,unix --mode adaptive --channels 1,1000 --peers 2,32', [0.5, 0.3], 5],
  // One message in ten seconds: what is left is what waiting costs. The engine's memory reducer collects twice, 8, 16 or 24 s
  // after opening 1,000 channels has made it collect (docs/design.md); that is over when it begins.
  idle: ['scale', '--transport shm --mode event,adaptive --channels 1000 --idle-gap 10000', [10, 28], 5],
}

mkdirSync(values.out, { recursive: true })
const begin = Date.now()
let failed = false
for (const [name, [test, options, [duration, warmup], runs]] of Object.entries(parts)) {
  if (values.only !== undefined && values.only !== name) continue
  const factor = name === 'idle' ? 1 : scale
  const outputs = ['json', 'svg', 'html'].flatMap((kind) => [
    `--${kind}`,
    join(relative(root, resolve(values.out)), `${name}.${kind}`),
  ])
  const args = [
    ...[test, ...options.split(' '), '--runs', String(runs), ...outputs],
    ...['--duration', String(Math.max(0.01, duration * factor)), '--warmup', String(warmup * factor)],
    ...(availableParallelism() > 1 ? ['--cpu', '0,1'] : []),
  ]
  console.log(`\n## ${name}: vmring bench ${args.slice(0, args.indexOf('--json')).join(' ')}\n`)
  const child = spawn(process.execPath, [join(root, 'dist/cli/main.js'), 'bench', ...args], {
    cwd: root, // the report quotes the command: paths in it are the repository's
    stdio: ['ignore', 'inherit', process.stderr.isTTY ? 'inherit' : 'ignore'],
  })
  process.on('SIGINT', () => {}) // it prints what it has
  const code = await new Promise((done) => child.once('close', (status, signal) => done(signal ?? status)))
  if (code !== 0) failed = true
  if (code === 130) process.exit(130)
}
console.log(`\n${Math.round((Date.now() - begin) / 1000)} s in all\n`)
const { text, missed } = report(values.out)
console.log(text)
process.exitCode = failed || missed > 0 ? 1 : 0
