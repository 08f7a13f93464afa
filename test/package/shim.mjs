// What the API suite needs of vitest, in plain JavaScript and one process: vitest itself comes with binaries for the machine it
// was installed on, and the suite is to run on another. Matchers are vitest's own. Last line: N passed, M failed.
import { basename } from 'node:path'
import { pathToFileURL } from 'node:url'
import { format } from 'node:util'
import * as expectations from '@vitest/expect'

const { chai, JestAsymmetricMatchers, JestChaiExpect, JestExtend } = expectations
chai.use(JestExtend)
chai.use(JestChaiExpect)
chai.use(JestAsymmetricMatchers)
export const expect = chai.expect
const SLOW = Number(process.env.VMRING_TEST_SLOW ?? 1)
/** The matchers, each again and again until it holds or the time is over. */
expect.poll = (look, { interval = 50, timeout = 1000 } = {}) => {
  const again =
    (matcher) =>
    async (...args) => {
      const end = performance.now() + timeout * SLOW
      for (;;) {
        try {
          expect(await look())[matcher](...args)
          return
        } catch (error) {
          if (performance.now() > end) throw error
        }
        await new Promise((resolve) => setTimeout(resolve, interval))
      }
    }
  return new Proxy({}, { get: (_target, matcher) => again(matcher) })
}

const block = (name, outer) => ({
  name,
  outer,
  beforeAll: [],
  beforeEach: [],
  afterEach: [],
  afterAll: [],
  entries: [],
})
let current = block('')
let finished = []

const title = (name, row) =>
  format(name, ...(Array.isArray(row) ? row.slice(0, name.split(/%[sdifjoO]/).length - 1) : [])).replace(
    /\$(\w+)/g,
    (_all, key) => String(Object(row)[key]),
  )
const each =
  (declare) =>
  (rows) =>
  (name, body, ...rest) => {
    for (const row of rows)
      declare(
        title(name, Array.isArray(row) ? row : row),
        () => body(...(Array.isArray(row) ? row : [row])),
        ...rest,
      )
  }

export function describe(name, body) {
  const outer = current
  current = block(name, outer)
  outer.entries.push(current)
  body()
  current = outer
}
describe.each = each(describe)

export function test(name, ...rest) {
  current.entries.push({ name, body: rest.find((each) => typeof each === 'function') })
}
test.each = each(test)
export const it = test

const hook = (kind) => (body) => current[kind].push(body)
export const beforeAll = hook('beforeAll')
export const beforeEach = hook('beforeEach')
export const afterEach = hook('afterEach')
export const afterAll = hook('afterAll')
export const onTestFinished = (body) => finished.push(body)

const patience = Number(process.env.SHIM_TIMEOUT ?? 120_000)
function inTime(work) {
  let timer
  const late = new Promise((_done, fail) => {
    timer = setTimeout(() => fail(new Error(`no end after ${patience} ms`)), patience)
  })
  return Promise.race([work(), late]).finally(() => clearTimeout(timer))
}

const counts = { passed: 0, failed: 0 }
async function runTest(entry, chain, name) {
  const started = performance.now()
  console.log(`… ${name}`) // the last line of one that never ends
  const errors = []
  const attempt = (work) => inTime(async () => work()).catch((error) => errors.push(error))
  finished = []
  for (const { beforeEach } of chain) for (const body of beforeEach) await attempt(body)
  if (errors.length === 0) await attempt(entry.body)
  for (const { afterEach } of chain.toReversed())
    for (const body of afterEach.toReversed()) await attempt(body)
  for (const body of finished.toReversed()) await attempt(body)
  counts[errors.length > 0 ? 'failed' : 'passed'] += 1
  console.log(`${errors.length > 0 ? '✗' : '✓'} ${name} (${Math.round(performance.now() - started)} ms)`)
  for (const error of errors) {
    console.log(error?.stack ?? error)
    if (error?.expected !== undefined) console.log('got', error.actual, 'and not', error.expected)
  }
}

async function runBlock(each, chain, name) {
  for (const body of each.beforeAll) await inTime(async () => body())
  for (const entry of each.entries) {
    const full = `${name} › ${entry.name}`
    if (entry.entries === undefined) await runTest(entry, [...chain, each], full)
    else await runBlock(entry, [...chain, each], full)
  }
  for (const body of each.afterAll) await inTime(async () => body())
}

/** Loads the files and runs what they declare, one test after the other. */
export async function main(files) {
  // a Node that another program interprets cannot be started by its own path
  if (process.env.SHIM_NODE) process.execPath = process.env.SHIM_NODE
  for (const file of files) {
    current = block(basename(file))
    const top = current
    await import(pathToFileURL(file))
    await runBlock(top, [], basename(file, '.js'))
  }
  console.log(`${counts.passed} passed, ${counts.failed} failed`)
  process.exit(counts.failed > 0 || counts.passed === 0 ? 1 : 0)
}
