// SIGKILL at every single labelled step. A step is a comment in the sources, `// @step NAME`: it costs nothing in what ships,
// and is a call in the copy of dist that runs here. Every step is reached, or this fails; at every step a process dies (the
// daemon for its own), and the survivor must be told, keep what it had, have its memory back and serve the next.
//   node scripts/long/kill-steps.mjs [--only WORD]          Last line: N passed, M failed.
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { askHost } from '../../dist/host/admin-client.js'
import { filesUnder } from '../fresh.mjs'
import { total } from '../lib.mjs'
import { now } from './kill-traffic.mjs'
import { Household, options, root, say, sleep } from './lib.mjs'

const TOLD_MS = 2000 * 5 // five times what is promised: the machine does other work
const { only } = options('node scripts/long/kill-steps.mjs', {
  only: ['', 'steps whose name contains this word'],
})
const STEP = /^(\s*)\/\/ @step (.+)$/gm
const household = new Household()
const results = []
let names = 1

/** dist with its steps as calls, and what it needs around it. */
function instrumented() {
  const copy = join(household.folder, 'steps')
  mkdirSync(copy)
  cpSync(join(root, 'dist'), join(copy, 'dist'), { recursive: true })
  cpSync(join(root, 'package.json'), join(copy, 'package.json'))
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  process.env.VMRING_ADDON ??= join(root, 'build/Release/vmring.node')
  const found = new Set()
  for (const file of filesUnder('dist').filter((one) => one.endsWith('.js'))) {
    const text = readFileSync(join(root, file), 'utf8')
    const calls = text.replace(STEP, (_, indent, name) => {
      found.add(name)
      return `${indent}globalThis.vmringStep?.(${JSON.stringify(name)});`
    })
    if (calls !== text) writeFileSync(join(copy, file), calls)
  }
  const labels = filesUnder('src').flatMap((file) =>
    [...readFileSync(join(root, file), 'utf8').matchAll(STEP)].map(([, , name]) => name),
  )
  for (const name of labels)
    if (!found.has(name)) fail(`step '${name}' of the sources is not in dist: build first`)
  if (new Set(labels).size !== labels.length) fail('two steps have the same name')
  return { copy, labels }
}

function fail(text) {
  results.push({ passed: 0, failed: 1 })
  say(`steps: FAILED ${text}`)
}

const within = (promise, ms) => Promise.race([promise, sleep(ms).then(() => undefined)])

/** A daemon, the survivor and the witness, who talk. */
class Rig {
  async start(daemonEnv) {
    this.args = ['--size', '64M', '--sections', '8']
    this.daemon = await household.daemon(this.args, false, daemonEnv && { copy, env: daemonEnv })
    const { region, relay } = this.daemon
    this.survivor = household.worker('kill-survivor.mjs')
    this.witness = household.worker('kill-survivor.mjs')
    await this.survivor.ask('start', 'survivor', region, relay)
    await this.witness.ask('start', 'witness', region, relay)
    await this.survivor.ask('talk', 'witness')
    await sleep(300)
    this.base = await this.survivor.ask('free')
    return this
  }

  /** A life that may end at a step. What it reached; null: it was killed. */
  async life(role, step, { rejoin = false } = {}) {
    const whose = ++names
    const { region, relay, socket } = this.daemon
    const env = step === undefined ? {} : { VMRING_STEP: step.join('\t') }
    const one = household.worker('kill-life.mjs', { args: [join(copy, 'dist/index.js')], preload: true, env })
    const back = new Promise((resolve) => {
      one.onNote = (note) => note === 'rejoined' && resolve(true)
    })
    let steps = null
    try {
      const reached = role === 'listener' ? this.survivor.ask('reach', whose, 5) : null
      const uuid = await one.ask('open', role, region, relay, whose)
      await reached
      if (rejoin) {
        await this.restart()
        await back
        await one.ask('closeAll')
        await sleep(3500) // a former region is left when it has been unused for two looks
      } else {
        await one.ask('talk')
        await this.survivor.ask('partWith', whose)
        for (const restore of [false, true]) await askHost(socket, { op: 'revoke', peer: uuid, restore })
      }
      await one.ask('close')
      steps = await one.ask('steps')
    } catch (error) {
      if (one.child.signalCode === null && !(await within(one.exited, 1000))) {
        // without a daemon nobody would say that it is dead
        await within(back, 3000)
        one.kill()
        throw error
      }
    }
    one.endedAt = now()
    one.kill()
    await one.exited
    return { steps, endedAt: one.endedAt }
  }

  async restart() {
    this.daemon.child.kill('SIGKILL')
    const back = [this.survivor, this.witness].map((one) => new Promise((resolve) => (one.onNote = resolve)))
    this.daemon = await household.daemon(this.args, false)
    const start = now()
    if (!(await within(Promise.all(back), 10_000))) throw new Error('not everybody joined the new daemon')
    if (now() - start > TOLD_MS) throw new Error(`joining took ${now() - start} ms`)
  }

  /** What must be true when nobody but survivor and witness is left. */
  async verify(what, endedAt, memory = true) {
    const bad = []
    const { left, over } = await this.survivor.ask('settled', 5000)
    if (left > 0) bad.push(`${left} channels are open`)
    for (const { wrong, at, code } of over) {
      if (wrong > 0) bad.push('messages came wrong')
      if (code !== null && !/^ERR_VMRING_/.test(code)) bad.push(`ended with ${code}`)
      if (at > endedAt + 5 && code !== 'ERR_VMRING_PEER_GONE') bad.push(`told by ${code}`)
      if (at - endedAt > TOLD_MS) bad.push(`told after ${at - endedAt} ms`)
    }
    let free = 0
    for (let i = 0; i < 200 && memory && free !== this.base; i++) {
      free = await this.survivor.ask('free')
      if (free !== this.base) await sleep(20)
    }
    if (memory && free !== this.base) bad.push(`${this.base - free} bytes of the section are not free`)
    const seen = await this.survivor.ask('seen')
    if (seen.wrong > 0 || seen.failures.length > 0 || seen.got === 0)
      bad.push(`the witness: ${JSON.stringify(seen)}`)
    if (bad.length > 0) fail(`${what}: ${[...new Set(bad)].join('; ')}`)
    else results.push({ passed: 1, failed: 0 })
  }

  end() {
    for (const { child } of [this.survivor, this.witness, this.daemon]) child.kill('SIGKILL')
  }
}

const { copy, labels } = instrumented()
const wanted = labels.filter((name) => name.includes(only))
const rig = await new Rig().start()
const reached = {}

// Everybody's first life is whole, and shows who comes by where.
for (const role of ['listener', 'connector']) {
  const { steps, endedAt } = await rig.life(role)
  if (steps === null) throw new Error(`a whole life of a ${role} ended too early`)
  reached[role] = steps
  await rig.verify(`a whole life of a ${role}`, endedAt)
}
for (const role of ['listener', 'connector']) {
  for (const name of wanted.filter((one) => reached[role][one] !== undefined && !household.interrupted)) {
    const visits = new Set([1, Math.ceil(reached[role][name] / 2)])
    for (const visit of visits) {
      const { steps, endedAt } = await rig.life(role, [name, visit])
      // how often it comes by depends on the timing; the first visit always happens
      if (steps !== null && visit === 1) fail(`a ${role} did not die at '${name}'`)
      await rig.verify(`a ${role} that dies at '${name}', visit ${visit}`, endedAt)
    }
  }
}
rig.end()

// Coming back to a daemon that was started again: each death in a world of its own.
const rejoining = wanted.filter((name) => name.startsWith('rejoin: '))
for (const name of rejoining) {
  if (household.interrupted) break
  const world = await new Rig().start()
  const { steps, endedAt } = await world.life('connector', [name, 1], { rejoin: true })
  reached[name] = { [name]: 1 }
  if (steps !== null) fail(`'${name}' was not reached`)
  await world.verify(`dies at '${name}'`, endedAt, false)
  world.end()
}

// The daemon's own steps: it dies when a third process comes, and is started again.
const daemonSteps = wanted.filter((name) => name.startsWith('daemon: '))
let before = {}
if (daemonSteps.length > 0) {
  const file = join(household.folder, 'counts')
  const world = await new Rig().start({ VMRING_STEP_COUNTS: file })
  const visits = async () => {
    rmSync(file, { force: true })
    world.daemon.child.kill('SIGUSR2')
    while (!existsSync(file) || readFileSync(file).length === 0) await sleep(10)
    return JSON.parse(readFileSync(file, 'utf8'))
  }
  before = await visits()
  await world.life('connector')
  await sleep(200)
  reached.daemon = await visits()
  world.end()
}
for (const name of daemonSteps) {
  if (household.interrupted || reached.daemon[name] === undefined) continue
  let world = null
  // how often it has come by before there are three depends on the timing
  for (let visit = (before[name] ?? 0) + 1; world === null && visit < (before[name] ?? 0) + 4; visit++)
    world = await new Rig().start({ VMRING_STEP: `${name}\t${visit}` }).catch(() => null)
  if (world === null) {
    fail(`the daemon dies at '${name}' too early`)
    continue
  }
  const died = new Promise((resolve) => world.daemon.child.once('exit', () => resolve(true)))
  let first = null
  for (let tries = 0; tries < 3 && world.daemon.child.signalCode === null; tries++) {
    first = world.life('connector').catch(() => null)
    await Promise.race([died, first.then(() => sleep(200))])
  }
  if (!(await within(died, 1000))) fail(`the daemon did not die at '${name}'`)
  try {
    await world.restart()
    await first
    const { steps, endedAt } = await world.life('listener')
    if (steps === null) fail(`after '${name}' the next life ended too early`)
    await world.verify(`the daemon dies at '${name}'`, endedAt, false)
  } catch (error) {
    fail(`the daemon dies at '${name}': ${error.message}`)
  }
  world.end()
}

const everywhere = new Set(Object.values(reached).flatMap((steps) => Object.keys(steps)))
for (const name of wanted)
  if (!everywhere.has(name) && !household.interrupted) fail(`step '${name}' was never reached`)
say(`steps: ${wanted.length} steps, ${results.length} lives`)
await household.close()
total(results)
process.exit()
