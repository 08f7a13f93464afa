// The long runs in full, unit of work by unit of work:
//   npm run long -- scribble | fuzz | torn | kill | soak | restart | storm [--plan] [--beside N]
// What is done is kept in build/long after each unit, and the same command goes on from there, also after Ctrl-C, as long as
// the commit is the same. Results, with commit id, memory, descriptors and times, go to bench/results/long/NAME.json and .svg.
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { lanes } from './lib.mjs'
import { machine, Progress, processStats, root, saveJson, say } from './long/lib.mjs'
import { plot } from './long/plot.mjs'

const MiB = 2 ** 20
const MINUTES_EACH = 10
const results = (name, kind) => join(root, 'bench/results/long', `${name}.${kind}`)
const own = (name) => ['--json', results(name, 'json'), '--svg', results(name, 'svg')]
const script = (name) => join(root, 'scripts/long', `${name}.mjs`)
const each = `${MINUTES_EACH * 60}`

/** Name → units: arguments of node. Runs that draw for themselves keep their own progress too: `draws`. */
const runs = {
  scribble: {
    about: `random and replayed values over each area of a region in use, ${MINUTES_EACH} minutes each, ASan and UBSan`,
    units: async () => {
      const { AREAS } = await import('../test/hostile/scribble.mjs')
      return ['api', 'core'].flatMap((level) =>
        AREAS.map((area) => [script('scribble'), '--seconds', each, '--area', area, '--level', level]),
      )
    },
  },
  fuzz: {
    about: `10^9 pushes and pops of the core, and ${MINUTES_EACH} minutes for each parser of foreign bytes`,
    units: async () => {
      const { nativeTargets, scriptTargets } = await import('./long/fuzz-targets.mjs')
      const parsers = [...nativeTargets, ...scriptTargets].filter((target) => target !== 'core')
      return [
        // in parts, so that an interruption loses only one; each has a seed of its own
        ...Array.from({ length: 10 }, () => [script('fuzz'), '--operations', '1e8']),
        ...parsers.map((target) => [script('fuzz'), '--seconds', each, '--target', target]),
      ]
    },
  },
  torn: {
    about: 'payloads that change while they are decoded, a hundred million times',
    units: () => Array.from({ length: 10 }, () => [script('torn'), '--attempts', '1e7']),
  },
  kill: {
    about: '10,000 processes killed at random moments, and one at every labelled step',
    draws: true,
    units: () => [
      [script('kill-steps'), '--json', results('kill-steps', 'json')],
      [script('kill'), '--kills', '10000', ...own('kill')],
    ],
  },
  soak: {
    about: 'two hours of slow traffic of all kinds with positions that wrap',
    draws: true,
    units: () => [[script('soak'), '--minutes', '120', ...own('soak')]],
  },
  restart: {
    about: 'the daemon killed and started again 100 times under load',
    draws: true,
    units: () => [[script('restart'), '--times', '100', ...own('restart')]],
  },
  storm: {
    about: 'a million doorbells a second from a hostile peer, beside one that only burns the processor',
    draws: true,
    units: () => [[script('storm'), '--rounds', '15', '--json', results('storm', 'json')]],
  },
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    plan: { type: 'boolean' },
    beside: { type: 'string', default: '1' },
    help: { type: 'boolean', short: 'h' },
  },
})
const [name, ...rest] = positionals
const chosen = runs[name]
const width = Number(values.beside)
if (chosen === undefined || rest.length > 0 || values.help || !(width >= 1)) {
  const lines = Object.entries(runs).map(([one, { about }]) => `  ${one.padEnd(10)} ${about}`)
  console.log(
    `usage: npm run long -- NAME [--plan] [--beside N]\n${lines.join('\n')}\n\n--plan only says what would run, --beside runs N units at a time. Results: bench/results/long. Ctrl-C leaves nothing behind; the same command goes on.`,
  )
  process.exit(values.help ? 0 : 2)
}
const units = await chosen.units()
if (values.plan) {
  for (const unit of units) console.log(`node ${unit.join(' ').replaceAll(`${root}/`, '')}`)
  process.exit(0)
}
for (const [file] of units) if (!existsSync(file)) throw new Error(`${file} is not there`)

const made = machine()
const progress = new Progress(`long-${name}`, { units, commit: made.commit })
const done = progress.load() ?? []
if (done.length > 0) say(`${name}: ${done.length} of ${units.length} units are done, going on`)

const children = new Set()
let interrupted = false
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    interrupted = true
    end('SIGINT')
    setTimeout(() => end('SIGKILL'), 10_000).unref()
  })
}
process.on('exit', () => end('SIGKILL'))

/** The units that run and everything that they started: each a group of its own. */
function end(signal) {
  for (const child of children) {
    try {
      process.kill(-child.pid, signal)
    } catch {
      // it has ended by itself
    }
  }
}

/** Memory and descriptors of a process and all its descendants. */
function family(pid) {
  const parents = new Map()
  for (const entry of readdirSync('/proc').filter((one) => /^\d+$/.test(one))) {
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, 'utf8').replace(/^.*\) /, '')
      parents.set(Number(entry), Number(stat.split(' ')[1]))
    } catch {
      // it has just ended
    }
  }
  const all = [pid]
  for (const one of all) for (const [entry, parent] of parents) if (parent === one) all.push(entry)
  const sum = { rss: 0, fds: 0, processes: all.length }
  for (const one of all) {
    try {
      const { rss, fds } = processStats(one)
      sum.rss += rss
      sum.fds += fds
    } catch {
      // likewise
    }
  }
  return sum
}

/** One unit to its end: what it said as JSON, how it ended, and what it used. */
function perform(unit, number) {
  return new Promise((resolve) => {
    const began = Date.now()
    const result = { number, command: unit.join(' ').replaceAll(`${root}/`, ''), lines: [], samples: [] }
    const child = spawn(process.execPath, unit, {
      cwd: root,
      stdio: ['ignore', 'pipe', 'inherit'],
      detached: true,
    })
    children.add(child)
    const sampler = setInterval(() => {
      result.samples.push({ t: (Date.now() - began) / 60_000, ...family(child.pid) })
    }, 10_000)
    let text = ''
    child.stdout.on('data', (chunk) => {
      process.stdout.write(chunk)
      text = (text + chunk).slice(-1_000_000)
    })
    child.on('close', (code, signal) => {
      clearInterval(sampler)
      children.delete(child)
      for (const line of text.split('\n').filter((one) => one.startsWith('{'))) {
        try {
          result.lines.push(JSON.parse(line))
        } catch {
          // something that only begins like that
        }
      }
      resolve({ ...result, minutes: (Date.now() - began) / 60_000, code: code ?? signal })
    })
  })
}

const waiting = [...units.entries()].filter(([number]) => !done.some((one) => one.number === number))
await lanes(waiting, width, async ([number, unit]) => {
  if (interrupted) return
  say(`${name}: unit ${number + 1} of ${units.length}: ${unit.slice(1).join(' ').replaceAll(`${root}/`, '')}`)
  const result = await perform(unit, number)
  if (interrupted) return
  done.push(result)
  progress.save(done)
  if (chosen.draws !== true) write()
})

function write() {
  let offset = 0
  const points = (what, scale) =>
    done.flatMap(({ samples, minutes }) => {
      const start = offset
      offset += minutes
      return samples.map((one) => [start + one.t, one[what] * scale])
    })
  const series = (what, scale) => {
    offset = 0
    return [{ name: what, points: points(what, scale) }]
  }
  saveJson(results(name, 'json'), { ...made, beside: width, units: done })
  mkdirSync(join(root, 'bench/results/long'), { recursive: true })
  writeFileSync(
    results(name, 'svg'),
    plot(
      `${name}: ${chosen.about}`,
      [
        { title: 'Memory, all processes of the run', unit: 'MiB', series: series('rss', 1 / MiB) },
        { title: 'Descriptors, all processes of the run', unit: 'open', series: series('fds', 1) },
      ],
      { x: 'minutes', foot: `commit ${made.commit}, Node ${made.node}, ${made.cpu}` },
    ),
  )
}

if (interrupted) {
  say(`${name}: interrupted; the same command goes on`)
  process.exit(130)
}
progress.finished()
const failed = done.filter(({ code }) => code !== 0)
for (const { command, code } of failed) say(`${name}: FAILED (${code}): node ${command}`)
console.log(`${done.length - failed.length} passed, ${failed.length} failed`)
process.exit(failed.length > 0 ? 1 : 0)
