// What the long runs share: children that are gone when the run is, progress that outlives it, samples, verdicts.
import { fork, spawn, spawnSync } from 'node:child_process'
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { connect } from 'node:net'
import { availableParallelism, cpus, release, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { root, say } from '../lib.mjs'

export { root, say }
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
/** What it resolves to; undefined when that takes longer. */
export async function within(promise, ms) {
  let timer
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, ms)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
const cli = join(root, 'dist/cli/main.js')
const preload = join(import.meta.dirname, 'kill-preload.mjs')
/** How long a run may take to come to a halt after Ctrl-C; then it ends where it stands, since what is done is kept. */
const HALT_MS = 5000
/** No question takes longer: what hangs is a failure and not a run that never ends. */
const ANSWER_MS = 90_000
// whatever ends the run, SIGKILL too, a daemon of it is not left behind
const endsWithParent = `data:text/javascript,process.once('disconnect',()=>process.exit());process.channel?.unref()`

/** Options that several runs have. */
export const common = {
  json: ['', 'file for the figures'],
  svg: ['', 'file for the picture'],
  lines: ['', 'file to which the lines are added too'],
  seed: [(Date.now() % (2 ** 31 - 2)) + 1, 'of what is random; else of the clock'],
}

/**
 * Options of a run, `--help` included. `spec`: name → [default, text]; numbers stay numbers, a list may be given several times,
 * each time one of its members. `files`: where it goes, what else is on the command line.
 */
export function options(usage, spec, files) {
  const types = Object.fromEntries(
    Object.entries({ ...spec, help: [false, ''] }).map(([name, [usual]]) => [
      name,
      { type: typeof usual === 'boolean' ? 'boolean' : 'string', multiple: Array.isArray(usual) },
    ]),
  )
  const { values, positionals } = parsed({ options: types, allowPositionals: files !== undefined })
  files?.push(...positionals)
  if (values.help) {
    const lines = Object.entries(spec).map(([name, [usual, text]]) => {
      const shown = usual === false || usual === '' ? '' : ` (${[usual].flat().join(', ')})`
      return `  --${name.padEnd(12)} ${text}${shown}`
    })
    console.log(`usage: ${usage}\n${lines.join('\n')}`)
    process.exit(0)
  }
  const chosen = {}
  for (const [name, [usual]] of Object.entries(spec)) {
    const value = values[name] ?? usual
    chosen[name] = typeof usual === 'number' ? Number(value) : value
    if (Number.isNaN(chosen[name])) {
      console.error(`--${name} is a number; not '${value}'`)
      process.exit(2)
    }
    const stranger = Array.isArray(usual) && value.find((one) => !usual.includes(one))
    if (stranger) {
      console.error(`--${name}: ${stranger} is none of ${usual.join(', ')}`)
      process.exit(2)
    }
  }
  return chosen
}

function parsed(how) {
  try {
    return parseArgs(how)
  } catch (error) {
    console.error(error.message)
    process.exit(2)
  }
}

/** One JSON line for each result, in the file too; total() of `counts` is the end. What has `failures` has failed. */
export function reporter(file) {
  const counts = []
  const report = (result) => {
    const line = JSON.stringify(result)
    console.log(line)
    if (file !== '') appendFileSync(file, `${line}\n`)
    const failed = result.failures.length > 0 ? 1 : 0
    counts.push({ passed: 1 - failed, failed })
  }
  return { report, counts }
}

/** For runs without a Household: at Ctrl-C what was started goes at exit. */
export function endsWhenTold(name) {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'])
    process.once(signal, () => {
      say(`${name}: interrupted; npm run long -- ${name} is what goes on where it was`)
      process.exit(130)
    })
}

/** Of the sources, with '+' behind it when they were changed since. */
export function commit() {
  const git = (...args) => spawnSync('git', args, { cwd: root, encoding: 'utf8' }).stdout.trim()
  return `${git('rev-parse', 'HEAD')}${git('status', '--porcelain', '--', 'src', 'native') === '' ? '' : '+'}`
}

export const machine = () => ({
  commit: commit(),
  node: process.versions.node,
  kernel: release(),
  cpu: cpus()[0]?.model ?? 'unknown',
  processors: availableParallelism(),
})

/**
 * What a run has done so far, in build/long: written after each unit of work, taken up again when the run is called again
 * with the same purpose (`key`), gone when it is finished.
 */
export class Progress {
  #file
  #key
  constructor(name, key) {
    this.#file = join(root, 'build/long', `${name}.json`)
    this.#key = JSON.stringify(key)
  }
  load() {
    if (!existsSync(this.#file)) return null
    try {
      const { key, state } = JSON.parse(readFileSync(this.#file, 'utf8'))
      return key === this.#key ? state : null
    } catch {
      return null // cut off while it was written
    }
  }
  save(state) {
    saveJson(this.#file, { key: this.#key, state })
  }
  finished() {
    rmSync(this.#file, { force: true })
  }
}

export function saveJson(file, value) {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(`${file}.${process.pid}`, `${JSON.stringify(value, null, 1)}\n`)
  renameSync(`${file}.${process.pid}`, file)
}

/** All children and files of a run. Whatever ends it (Ctrl-C too), they end with it. */
export class Household {
  #children = new Set()
  #ending = false
  interrupted = false
  constructor() {
    this.folder = mkdtempSync(join(tmpdir(), 'vmring-long-'))
    process.on('exit', () => this.#clear())
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
      process.on(signal, () => {
        if (this.interrupted) process.exit(130)
        this.interrupted = true
        setTimeout(() => {
          say('interrupted in the middle of something, which is done again: call again to go on')
          process.exit(130)
        }, HALT_MS).unref()
      })
    }
  }

  #clear() {
    this.#ending = true
    for (const child of this.#children) child.kill('SIGKILL')
    rmSync(this.folder, { recursive: true, force: true })
  }

  own(child) {
    this.#children.add(child)
    child.once('exit', () => this.#children.delete(child))
    return child
  }

  async close() {
    this.#ending = true
    const gone = [...this.#children].map((child) => new Promise((resolve) => child.once('exit', resolve)))
    for (const child of this.#children) child.kill('SIGKILL')
    await Promise.all(gone)
    this.#clear()
  }

  get ending() {
    return this.#ending
  }

  /** `vmring host`; resolves when it answers. */
  async daemon(args, log = true, instrumented = undefined, name = 'host') {
    const socket = join(this.folder, name)
    const program =
      instrumented === undefined ? [cli] : ['--import', preload, join(instrumented.copy, 'dist/cli/main.js')]
    const child = this.own(
      spawn(process.execPath, ['--import', endsWithParent, ...program, 'host', '--socket', socket, ...args], {
        env: { ...process.env, ...instrumented?.env },
        stdio: ['ignore', 'ignore', log ? 'inherit' : 'ignore', 'ipc'],
        // Ctrl-C in a terminal reaches the whole group: only the run itself acts on it
        detached: true,
      }),
    )
    const until = Date.now() + 60_000
    while (!(await answers(`${socket}.admin`))) {
      if (child.exitCode !== null || child.signalCode !== null || Date.now() > until)
        throw new Error('the daemon did not start')
      await sleep(5)
    }
    return { child, socket, region: `unix:${socket}`, relay: `unix:${socket}.relay` }
  }

  /** A process of this run: a module that answers what it is asked, see serve(). */
  worker(module, { args = [], preload: first = false, collects = true, env } = {}) {
    const child = this.own(
      fork(join(import.meta.dirname, module), args, {
        execArgv: first ? ['--import', preload] : collects ? ['--expose-gc'] : [],
        env: { ...process.env, ...env },
        serialization: 'advanced',
        detached: true,
      }),
    )
    return new Worker(child)
  }
}

export class Worker {
  #calls = new Map()
  #next = 0
  constructor(child) {
    this.child = child
    this.pid = child.pid
    child.on('message', ({ id, value, error, note }) => {
      if (id === undefined) {
        this.onNote?.(note)
        return
      }
      const call = this.#calls.get(id)
      this.#calls.delete(id)
      clearTimeout(call?.timer)
      if (error === undefined) call?.resolve(value)
      else call?.reject(Object.assign(new Error(error.message), error))
    })
    child.on('error', () => {})
    this.exited = new Promise((resolve) => {
      child.once('exit', (code, signal) => {
        for (const call of this.#calls.values()) {
          clearTimeout(call.timer)
          call.reject(new Error(`process ${child.pid} ended (${signal ?? code})`))
        }
        this.#calls.clear()
        resolve({ code, signal })
      })
    })
  }
  ask(op, ...args) {
    const answer = new Promise((resolve, reject) => {
      if (!this.child.connected) {
        reject(new Error(`process ${this.pid} is gone`))
        return
      }
      const id = this.#next++
      const timer = setTimeout(() => {
        this.#calls.delete(id)
        reject(new Error(`${op}: no answer within ${ANSWER_MS / 1000} s`))
      }, ANSWER_MS)
      this.#calls.set(id, { resolve, reject, timer })
      this.child.send({ id, op, args }, () => {})
    })
    answer.catch(() => {}) // processes are killed here all the time, also while nobody waits
    return answer
  }
  kill(signal = 'SIGKILL') {
    this.child.kill(signal)
  }
}

/**
 * Returns when a process of kill-survivor has seen who is in the region now. Who dies there before anybody has seen it has died
 * without a daemon, as far as the others can know: its channels stay stalled (docs/design.md).
 */
export async function looksAround(worker) {
  for (let turn = 0; turn < 3; turn++) {
    await sleep(100)
    await worker.ask('peers')
  }
}

/** In the worker: answers with these functions. What nobody handles is told, and ends the process. */
export function serve(functions) {
  const tell = (note) => process.connected && process.send({ note })
  process.on('disconnect', () => process.exit(0))
  process.on('message', async ({ id, op, args }) => {
    try {
      process.send({ id, value: await functions[op](...args) }, () => {})
    } catch (error) {
      process.send({ id, error: { message: `${op}: ${error.stack}`, code: error.code } }, () => {})
    }
  })
  return tell
}

function answers(path) {
  return new Promise((resolve) => {
    const probe = connect(path)
    probe.on('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.on('error', () => resolve(false))
  })
}

/** Of a living process: bytes of resident memory, open descriptors, seconds of processor time. */
export function processStats(pid) {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ')
  return {
    // pages of the region belong to no process
    rss: 1024 * (field(status, 'VmRSS') - field(status, 'RssShmem')),
    fds: readdirSync(`/proc/${pid}/fd`).length,
    cpu: (Number(fields[11]) + Number(fields[12])) / 100,
  }
}
const field = (text, name) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0)

export const median = (numbers) => quantile(numbers, 0.5)
export function quantile(numbers, share) {
  const sorted = [...numbers].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0
}

/** Median of the slopes of all pairs (Theil and Sen): an outlier moves nothing. */
export function slope(points) {
  const slopes = []
  for (let i = 0; i < points.length; i++) {
    for (let k = i + 1; k < points.length; k++) {
      if (points[k][0] > points[i][0])
        slopes.push((points[k][1] - points[i][1]) / (points[k][0] - points[i][0]))
    }
  }
  return median(slopes)
}

/** A random number generator that gives the same numbers for the same seed (mulberry32): below(n), pick(list). */
export function random(seed) {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  const below = (n) => Math.floor(next() * n)
  return { next, below, pick: (list) => list[below(list.length)] }
}
