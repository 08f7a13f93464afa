// What the helper scripts share: where things are, headers, child processes with progress, counting test results.
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
export const bin = (path) => join(root, 'node_modules', path)
export const seconds = (since) => ((Date.now() - since) / 1000).toFixed(1)

/** Says something about what goes on, on standard error: standard output belongs to results. */
export const say = (text) => process.stderr.write(`vmring: ${text}\n`)

/** A directory of our own that is gone when this process is. */
export function scratch(name) {
  const path = mkdtempSync(join(tmpdir(), `vmring-${name}-`))
  process.on('exit', () => rmSync(path, { recursive: true, force: true }))
  return path
}

/** What ends each child that run() waits for: while there are any, they end with us. Not all of them hear Ctrl-C themselves. */
const children = new Set()
const endAll = () => {
  for (const end of children) end('SIGINT')
}
const leave = () => process.exit(130)
function watch(change) {
  process[change]('exit', endAll)
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process[change](signal, leave)
}

/**
 * Runs a command to its end. `title` shows progress on a terminal and keeps the output for the case of failure; without
 * it the output goes where ours goes. `log` (a function) gets the output as it comes. Never throws for what the command did.
 */
export function run(command, args, { title, log, env, cwd = root, timeout = 0 } = {}) {
  const captured = title !== undefined || log !== undefined
  return new Promise((done) => {
    const started = Date.now()
    const chunks = []
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: ['ignore', captured ? 'pipe' : 'inherit', captured ? 'pipe' : 'inherit'],
      // a group of its own where we may have to end it, with everything that it started
      detached: timeout > 0,
    })
    const keep = (chunk) => {
      chunks.push(chunk)
      log?.(chunk)
    }
    child.stdout?.on('data', keep)
    child.stderr?.on('data', keep)
    const live = title !== undefined && process.stderr.isTTY
    const show = () =>
      process.stderr.write(`\r\x1b[Kvmring: ${title} … ${Math.round((Date.now() - started) / 1000)} s`)
    const ticker = live ? setInterval(show, 500) : undefined
    if (live) show()
    else if (title !== undefined) say(`${title} …`)
    let late = false
    const end = (signal) => {
      try {
        if (child.pid !== undefined) process.kill(timeout > 0 ? -child.pid : child.pid, signal)
      } catch {}
    }
    const timer = timeout
      ? setTimeout(() => {
          late = true
          end('SIGKILL')
        }, timeout)
      : undefined
    if (children.size === 0) watch('on')
    children.add(end)
    const finish = (code, why) => {
      clearInterval(ticker)
      clearTimeout(timer)
      children.delete(end)
      if (children.size === 0) watch('off')
      if (live) process.stderr.write('\r\x1b[K')
      const output = Buffer.concat(chunks).toString()
      if (title !== undefined) say(`${title}: ${code === 0 ? 'done' : 'failed'} in ${seconds(started)} s`)
      done({ code, output, why: late ? `no end after ${timeout / 1000} s` : why })
    }
    child.on('error', (error) => finish(127, error.message))
    child.on('close', (code, signal) =>
      finish(code ?? 128, signal ? `ended by ${signal}` : `exit code ${code}`),
    )
  })
}

/** As `run`, but a failure shows what was said and ends this process. */
export async function must(command, args, options = {}) {
  const result = await run(command, args, options)
  if (result.code === 0) return result
  process.stderr.write(result.output.split('\n').slice(-120).join('\n'))
  say(`${[command, ...args].join(' ')}: ${result.why}`)
  process.exit(1)
}

const hasHeaders = (prefix) =>
  existsSync(join(prefix, 'include/node/node_api.h')) && existsSync(join(prefix, 'include/node/uv.h'))

/**
 * The directory that node-gyp and cmake-js call nodedir: it holds include/node. That of the running Node when headers came with
 * it, else the npm package of Node 20 (Node-API is the same in every later line). Nothing is fetched by node-gyp itself.
 */
export async function nodeDir() {
  const named = process.env.npm_config_nodedir
  const prefix = resolve(dirname(process.execPath), '..')
  for (const candidate of [named, prefix]) if (candidate && hasHeaders(candidate)) return candidate
  const packaged = join(root, 'scripts/nodes/node_modules/node20')
  if (!hasHeaders(packaged)) {
    // --force: the headers serve every architecture, the binary beside them is not run
    const args = [
      'ci',
      '--omit=dev',
      '--force',
      '--no-audit',
      '--no-fund',
      '--prefix',
      join(root, 'scripts/nodes'),
    ]
    await must('npm', args, { title: 'fetching the headers of Node 20 from npm (this Node came without)' })
  }
  return packaged
}

/** Does `work` for each of the list, in its order, `width` at a time; resolves when all are done. */
export async function lanes(list, width, work) {
  const waiting = [...list]
  const lane = async () => {
    for (let one = waiting.shift(); one !== undefined; one = waiting.shift()) await work(one)
  }
  await Promise.all(Array.from({ length: width }, lane))
}

/** { passed, failed } from the last line of what a suite printed, or null. */
export function lastLine(output) {
  const match = /(\d+) passed, (\d+) failed\s*$/.exec(output)
  return match && { passed: Number(match[1]), failed: Number(match[2]) }
}

/** Counts of a vitest JSON report; a file that never got as far as its tests is one failure. Null when there is no report. */
export function vitestCounts(file) {
  if (!existsSync(file)) return null
  const report = JSON.parse(readFileSync(file, 'utf8'))
  const broken = report.testResults.filter(
    (r) => r.status === 'failed' && !r.assertionResults.some((a) => a.status === 'failed'),
  )
  return { passed: report.numPassedTests, failed: report.numFailedTests + broken.length }
}

/** Counts of a run, corrected by how it ended: a bad end without a failure, and no test at all, are each one failure. */
export function verdict(counts, code) {
  const { passed, failed } = counts ?? { passed: 0, failed: 0 }
  return { passed, failed: failed === 0 && (code !== 0 || passed === 0) ? 1 : failed }
}

/** Runs vitest under the given Node and says how many tests passed and failed. */
export async function vitest(node, args, { env, timeout = 0, name = 'vitest' } = {}) {
  const dir = scratch('vitest')
  const json = join(dir, 'report.json')
  const all = [
    bin('vitest/vitest.mjs'),
    'run',
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${json}`,
    ...args,
  ]
  const result = await run(node, all, { env, timeout, log: (chunk) => process.stderr.write(chunk) })
  const counts = verdict(vitestCounts(json), result.code)
  say(`${name}: ${counts.passed} passed, ${counts.failed} failed (${result.why})`)
  return counts
}

/** Prints the sum as the last line and sets the exit code. */
export function total(list) {
  const sum = list.reduce((a, b) => ({ passed: a.passed + b.passed, failed: a.failed + b.failed }), {
    passed: 0,
    failed: 0,
  })
  console.log(`${sum.passed} passed, ${sum.failed} failed`)
  process.exitCode = sum.failed > 0 || sum.passed === 0 ? 1 : 0
}
