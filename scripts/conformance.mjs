// Runs Node's own tests of net, http, http2, tls and Duplex with vmring/net in the place of node:net.
//   npm run conformance -- --tests DIR [--json FILE] [--node BINARY] [--jobs N] [FILTER]
// DIR is the directory `test` of Node's sources, or what the repository denoland/node_test has under that name. What passes on
// the plain node:net counts, less what scripts/conformance/rules.mjs excludes. Without FILTER docs/conformance.md is made anew.
// FILE keeps the results; the plain ones in it are used again with the same Node and the same file.
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { document } from './conformance/document.mjs'
import { ruleFor } from './conformance/rules.mjs'
import { startHost, testRun } from './conformance/runs.mjs'
import { root, say, scratch } from './lib.mjs'

const FAMILIES = ['net', 'http', 'http2', 'tls', 'stream-duplex']
const COUNT = { net: 80, http: 200 }
const SHARE = 0.95
const LIMIT_MS = 60_000

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    tests: { type: 'string' },
    json: { type: 'string' },
    node: { type: 'string' },
    jobs: { type: 'string', default: '2' },
    'no-doc': { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
const [filter = ''] = positionals
if (values.help || values.tests === undefined || !existsSync(join(values.tests, 'parallel'))) {
  console[values.help ? 'log' : 'error'](
    'usage: npm run conformance -- --tests DIR [--json FILE] [--node BINARY] [--jobs N] [--no-doc] [FILTER]\n' +
      'DIR has parallel/, sequential/, common/ and fixtures/: the tests of Node (repository denoland/node_test)',
  )
  process.exit(values.help ? 0 : 2)
}
const tests = resolve(values.tests)
const node = resolve(values.node ?? newest())
const workplace = scratch('conformance')

function newest() {
  const path = join(root, 'scripts/nodes/node_modules/node26/bin/node')
  return existsSync(path) ? path : process.execPath
}

function family(name) {
  return FAMILIES.findLast((one) => name.startsWith(`test-${one}-`) || name.startsWith(`test-${one}.`))
}

const files = ['parallel', 'sequential'].flatMap((folder) =>
  existsSync(join(tests, folder))
    ? readdirSync(join(tests, folder))
        .filter((name) => /\.m?js$/.test(name) && family(name) !== undefined && name.includes(filter))
        .map((name) => ({ folder, name, path: join(tests, folder, name), family: family(name) }))
    : [],
)
const before =
  values.json !== undefined && existsSync(values.json) ? JSON.parse(readFileSync(values.json, 'utf8')) : {}
const version = (
  await testRun({ command: node, args: ['-p', 'process.version'], cwd: root, limit: 10_000 })
).output.trim()
const known = before.node === version ? before.files : {}

const results = {}
let finished = 0

async function one(file, worker) {
  const source = readFileSync(file.path, 'utf8')
  const hash = createHash('sha256').update(source).digest('hex').slice(0, 16)
  const key = `${file.folder}/${file.name}`
  const result = { family: file.family, hash }
  const rule = ruleFor(file.name, source)
  if (rule !== undefined) result.rule = rule.id
  const flags = [...source.matchAll(/^\/\/ Flags: (.*)$/gm)].flatMap(([, line]) => line.trim().split(/\s+/))
  const cached = known?.[key]
  result.plain =
    cached?.hash === hash && cached.plain !== undefined
      ? cached.plain
      : (await attempt(file, worker, flags, null)).status
  if (rule === undefined && result.plain === 'pass') {
    const run = await attempt(file, worker, flags, await worker.host())
    Object.assign(result, { status: run.status, ms: run.ms })
    if (run.status !== 'pass') result.output = run.output.slice(-4000)
  }
  results[key] = result
  finished++
  const word = result.rule ?? result.status ?? `plain ${result.plain}`
  if (result.status !== undefined && result.status !== 'pass') say(`${key}: ${result.status}`)
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${finished}/${files.length} ${key} ${word}\r`)
}

/** A fresh process; with `host`, over that daemon. */
async function attempt(file, worker, flags, host) {
  const directory = join(workplace, `run-${worker.id}`)
  rmSync(directory, { recursive: true, force: true })
  mkdirSync(directory)
  const preload = join(root, 'scripts/conformance/preload.mjs')
  const { NODE_OPTIONS: _, ...environment } = process.env
  const run = await testRun({
    command: node,
    args: [...flags, file.path],
    cwd: tests,
    limit: LIMIT_MS,
    env: {
      ...environment,
      NODE_TEST_DIR: directory,
      TEST_THREAD_ID: String(worker.id),
      NODE_SKIP_FLAG_CHECK: '1',
      ...(host !== null && {
        NODE_OPTIONS: `--import ${preload}`,
        VMRING_REGION: `unix:${host.socket}`,
        VMRING_RELAY: 'none',
      }),
    },
  })
  if (run.status === 'pass' && /^1\.\.0 # Skipped|# Skipped:/m.test(run.output)) run.status = 'skip'
  return run
}

function newWorker(id) {
  let host = null
  return {
    id,
    async host() {
      if (host === null || !host.alive()) host = await startHost(join(workplace, `region-${id}`))
      return host
    },
    close: () => host?.close(),
  }
}

async function all(list, count) {
  const queue = [...list]
  const workers = Array.from({ length: count }, (_, index) => newWorker(index + 1))
  await Promise.all(
    workers.map(async (worker) => {
      for (let file = queue.shift(); file !== undefined; file = queue.shift()) await one(file, worker)
      await worker.close()
    }),
  )
}

const started = Date.now()
await all(
  files.filter(({ folder }) => folder === 'parallel'),
  Number(values.jobs),
)
// these use fixed ports, so one at a time
await all(
  files.filter(({ folder }) => folder === 'sequential'),
  1,
)

const summary = {}
for (const name of FAMILIES) {
  const of = Object.values(results).filter((result) => result.family === name)
  const counting = of.filter(({ status }) => status !== undefined)
  const passed = counting.filter(({ status }) => status === 'pass').length
  summary[name] = {
    files: of.length,
    plain: of.filter(({ plain }) => plain === 'pass').length,
    excluded: of.filter(({ rule, plain }) => rule !== undefined && plain === 'pass').length,
    counting: counting.length,
    passed,
  }
}
const report = { node: version, date: new Date().toISOString().slice(0, 10), summary, files: results }
if (values.json !== undefined) {
  const files = filter === '' ? results : { ...known, ...results }
  writeFileSync(values.json, `${JSON.stringify({ ...report, files }, null, 1)}\n`)
}
const whole = filter === ''
if (whole && !values['no-doc']) writeFileSync(join(root, 'docs/conformance.md'), document(report))
let good = true
for (const [name, { files: count, plain, excluded, counting, passed }] of Object.entries(summary)) {
  if (count === 0) continue
  const share = counting === 0 ? 1 : passed / counting
  const enough = !whole || counting >= (COUNT[name] ?? 0)
  if (name in COUNT && (!enough || share < SHARE)) good = false
  console.log(
    `${name}: ${passed} of ${counting} pass (${(share * 100).toFixed(1)} %); ${count} files, ${plain} pass on node:net, ${excluded} of these excluded by rule`,
  )
}
console.log(`Node ${version}, ${Math.round((Date.now() - started) / 1000)} s`)
process.exitCode = good ? 0 : 1
