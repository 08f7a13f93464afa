// SIGKILL at every single labelled step. A step is a comment in the sources, `// @step NAME`: it costs nothing in what ships,
// and is a call in the copy of dist that runs here. Every step is reached, or this fails; at every step a process dies (the
// daemon for its own), and the survivor must be told, keep what it had, have its memory back and serve the next.
//   node scripts/long/kill-steps.mjs [--only WORD] [--json FILE]          Last line: N passed, M failed.
// An interrupted run goes on where it was when it is called again.
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { askHost } from '../../dist/host/admin-client.js'
import { filesUnder } from '../fresh.mjs'
import { total } from '../lib.mjs'
import { now } from './kill-traffic.mjs'
import {
  Household,
  looksAround,
  machine,
  options,
  Progress,
  quantile,
  root,
  saveJson,
  say,
  sleep,
  within,
} from './lib.mjs'
import { SLACK, TOLD_MS, Yard } from './yard.mjs'

const LIFE_MS = 150_000 // a life with all its checks; what takes longer hangs, and that is a failure
const SAID_MS = 500
const REJOINED_MS = 30_000 // a daemon has to start first
const ROLES = ['listener', 'connector']
const STEP = /^(\s*)\/\/ @step (.+)$/gm

const { only, json } = options('node scripts/long/kill-steps.mjs', {
  only: ['', 'steps whose name contains this word'],
  json: ['', 'file for the figures'],
})
const made = machine()
const progress = new Progress('kill-steps', { only, commit: made.commit })
/** lives: key → what was wrong, '' when nothing was. reached: whose whole life came by where, how often. */
const state = progress.load() ?? {
  lives: {},
  reached: {},
  told: [],
  freed: [],
  joined: [],
  pauses: [],
  seconds: 0,
}
const before = state.seconds
const began = now()
const household = new Household()
let names = 1

/** dist with its steps as calls, and what it needs around it. */
function instrumented() {
  const folder = join(household.folder, 'steps')
  mkdirSync(folder)
  cpSync(join(root, 'dist'), join(folder, 'dist'), { recursive: true })
  cpSync(join(root, 'package.json'), join(folder, 'package.json'))
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
  process.env.VMRING_ADDON ??= join(root, 'build/Release/vmring.node')
  const found = new Set()
  for (const file of filesUnder('dist').filter((one) => one.endsWith('.js'))) {
    const text = readFileSync(join(root, file), 'utf8')
    const calls = text.replace(STEP, (_, indent, name) => {
      found.add(name)
      return `${indent}globalThis.vmringStep?.(${JSON.stringify(name)});`
    })
    if (calls !== text) writeFileSync(join(folder, file), calls)
  }
  const all = filesUnder('src').flatMap((file) =>
    [...readFileSync(join(root, file), 'utf8').matchAll(STEP)].map(([, , name]) => name),
  )
  const missing = all.find((name) => !found.has(name))
  if (missing !== undefined) throw new Error(`step '${missing}' of the sources is not in dist: build first`)
  if (new Set(all).size !== all.length) throw new Error('two steps have the same name')
  return { copy: folder, labels: all }
}

/** One life and its checks, unless that was done before. `work`: what was wrong, a list. True unless it threw. */
async function check(key, work) {
  if (household.interrupted || state.lives[key] !== undefined) return true
  let whole = true
  let wrong
  try {
    wrong = (await within(work(), LIFE_MS)) ?? [`no end within ${LIFE_MS / 1000} s`]
    whole = wrong.length === 0
  } catch (error) {
    wrong = [error.message]
    whole = false
  }
  if (household.interrupted) return true // what was cut short is done again
  state.lives[key] = [...new Set(wrong)].join('; ')
  state.seconds = before + (now() - began) / 1000
  progress.save(state)
  if (state.lives[key] !== '') say(`steps: FAILED ${key}: ${state.lives[key]}`)
  const count = Object.keys(state.lives).length
  if (count % 10 === 0) say(`steps: ${count} lives, ${state.seconds.toFixed(0)} s; last: ${key}`)
  return whole
}

class Rig extends Yard {
  constructor(name) {
    super(household, name, ['--size', '64M', '--sections', '8'])
  }

  async start(daemonEnv) {
    const settled = async () => {
      await sleep(300)
      this.base = await this.survivor.ask('free')
    }
    await super.start(settled, daemonEnv && { copy, env: daemonEnv })
    return this
  }

  /** A life that may end at a step. What it reached; null: it was killed. */
  async life(role, step, { rejoin = false } = {}) {
    const whose = ++names
    const { region, relay, socket } = this.daemon
    const diary = join(household.folder, `died-${whose}`)
    const go = `${diary}-go`
    const env = step === undefined ? {} : { VMRING_STEP: step.join('\t'), VMRING_STEP_AT: diary }
    // whoever dies in the new region before the survivor has seen it there has died without a daemon, as far as that one knows
    if (rejoin) env.VMRING_STEP_GO = go
    const one = household.worker('kill-life.mjs', { args: [join(copy, 'dist/index.js')], preload: true, env })
    const heard = (word) =>
      new Promise((resolve) => {
        one.child.on('message', ({ note }) => note === word && resolve(true))
      })
    const [ready, back] = [heard('ready'), heard('rejoined')]
    const ended = one.exited.then(() => Promise.reject(new Error('it has ended')))
    // nobody waits for a listener that is dead
    ended.catch(() => this.survivor.ask('abandon', whose)).catch(() => {}) // it may have ended too
    let steps = null
    try {
      await Promise.race([ready, ended])
      const opened = one.ask('open', role, region, relay, whose)
      if (role === 'listener') {
        const refused = await this.survivor.ask('reach', whose, 5)
        // who has died says so itself, below; who lives waits for channels that do not come
        if (refused.length > 0 && !(await within(one.exited, 1000)))
          throw new Error(`the survivor cannot connect: ${refused}`)
      }
      const uuid = await opened
      if (rejoin) {
        await this.restart()
        await looksAround(this.survivor)
        writeFileSync(go, '')
        await Promise.race([back, ended]) // it may die on the way there, and then says nothing any more
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
      if (!(await within(one.exited, 1000))) {
        // without a daemon nobody would say that it is dead
        if (await one.ask('attached')) {
          await within(back, REJOINED_MS)
          await looksAround(this.survivor)
        }
        one.kill()
        throw error
      }
    }
    const endedAt = existsSync(diary) ? Number(readFileSync(diary)) : now()
    one.kill()
    await one.exited
    return { steps, endedAt }
  }

  async restart() {
    const took = await super.restart()
    if (took === undefined) throw new Error('not everybody joined the new daemon')
    state.joined.push(took)
    const start = now()
    // the relay comes after the region, and the life that follows moves its channels there
    const people = await Promise.all([this.survivor.ask('uuid'), this.witness.ask('uuid')])
    const atRelay = async () => {
      const { relay } = await askHost(this.daemon.socket, { op: 'status' })
      return people.every((uuid) => relay.peers.some((one) => one.uuid === uuid && one.present))
    }
    while (!(await atRelay())) {
      if (now() - start > TOLD_MS * SLACK) throw new Error('not everybody is at the new relay')
      await sleep(5)
    }
  }

  /** What is not as it must be when nobody but survivor and witness is left. */
  async verify(endedAt, memory = true) {
    const bad = []
    const { left, over } = await this.survivor.ask('settled', 5000)
    if (left > 0) bad.push(`${left} channels are open`)
    for (const { wrong, at, code } of over) {
      if (wrong > 0) bad.push('messages came wrong')
      if (code !== null && !/^ERR_VMRING_/.test(code)) bad.push(`ended with ${code}`)
      // what it had still said comes first
      if (at > endedAt + SAID_MS && code !== 'ERR_VMRING_PEER_GONE') bad.push(`told by ${code}`)
      if (at - endedAt > TOLD_MS * SLACK) bad.push(`told after ${at - endedAt} ms`)
      if (at > endedAt) state.told.push(at - endedAt)
    }
    const start = now()
    let free = 0
    for (let i = 0; i < 200 && memory && free !== this.base; i++) {
      free = await this.survivor.ask('free')
      if (free !== this.base) await sleep(20)
    }
    if (memory && free !== this.base) bad.push(`${this.base - free} bytes of the section are not free`)
    if (memory) state.freed.push(now() - start)
    const seen = await this.survivor.ask('seen')
    if (seen.wrong > 0 || seen.failures.length > 0 || seen.got === 0)
      bad.push(`the witness: ${JSON.stringify(seen)}`)
    state.pauses.push(seen.longest)
    return bad
  }
}

/** What `work` makes of a rig of its own, which ends in any case. */
async function inWorld(name, work, daemonEnv) {
  const world = new Rig(name)
  try {
    await world.start(daemonEnv)
    return await within(work(world), LIFE_MS - 5000)
  } finally {
    await world.end()
  }
}

/** All deaths in one role. What went wrong once may spoil the rest: then it goes on with another rig. */
async function deathsOf(role, wanted) {
  let rig = null
  const check1 = async (key, work) => {
    const ready = async () => {
      rig ??= await new Rig(role).start()
      return work()
    }
    if (await check(key, ready)) return
    await rig?.end()
    rig = null
  }
  // the first life is whole, and shows who comes by where
  await check1(`a whole life of a ${role}`, async () => {
    const { steps, endedAt } = await rig.life(role)
    if (steps === null) return ['it ended too early']
    state.reached[role] = steps
    return rig.verify(endedAt)
  })
  const reached = state.reached[role] ?? {}
  for (const name of wanted.filter((one) => reached[one] !== undefined)) {
    for (const visit of new Set([1, Math.ceil(reached[name] / 2)])) {
      await check1(`a ${role} that dies at '${name}', visit ${visit}`, async () => {
        const { steps, endedAt } = await rig.life(role, [name, visit])
        const bad = await rig.verify(endedAt)
        // how often it comes by depends on the timing; the first visit always happens
        return steps !== null && visit === 1 ? ['it did not die there', ...bad] : bad
      })
    }
  }
  await rig?.end()
}

/** Coming back to a daemon that was started again: each death in a world of its own. */
async function deathsBetweenDaemons(wanted) {
  for (const name of wanted.filter((one) => one.startsWith('rejoin: '))) {
    await check(`dies at '${name}'`, () =>
      inWorld('rejoin', async (world) => {
        const { steps, endedAt } = await world.life('connector', [name, 1], { rejoin: true })
        if (steps !== null) return ['it was not reached']
        state.reached[name] = { [name]: 1 }
        return world.verify(endedAt, false)
      }),
    )
  }
}

/** The daemon's own steps: it dies when a third process comes, and is started again. */
async function deathsOfDaemon(wanted) {
  const steps = wanted.filter((name) => name.startsWith('daemon: '))
  if (steps.length === 0) return
  const file = join(household.folder, 'counts')
  await check('a whole life beside a daemon', () =>
    inWorld(
      'daemon',
      async (world) => {
        const visits = async () => {
          rmSync(file, { force: true })
          world.daemon.child.kill('SIGUSR2')
          while (!existsSync(file) || readFileSync(file).length === 0) await sleep(10)
          return JSON.parse(readFileSync(file, 'utf8'))
        }
        state.beforeThird = await visits()
        await world.life('connector')
        await sleep(200)
        state.reached.daemon = await visits()
        return []
      },
      { VMRING_STEP_COUNTS: file },
    ),
  )
  const reached = state.reached.daemon ?? {}
  for (const name of steps.filter((one) => reached[one] !== undefined))
    await check(`the daemon dies at '${name}'`, () => deathOfDaemon(name, state.beforeThird[name] ?? 0))
}

async function deathOfDaemon(name, visits) {
  let world = null
  try {
    // how often it has come by before there are three depends on the timing
    for (let visit = visits + 1; world === null && visit < visits + 4; visit++) {
      const next = new Rig('daemon')
      world = await next.start({ VMRING_STEP: `${name}\t${visit}` }).catch(() => null)
      if (world === null) await next.end()
    }
    return world === null ? ['it dies too early'] : await within(restartedOnce(world), LIFE_MS - 15_000)
  } finally {
    await world?.end()
  }
}

/** Somebody comes until the daemon has died of it; then another one comes to the next daemon. */
async function restartedOnce(world) {
  const { child } = world.daemon
  const died = new Promise((resolve) => child.once('exit', () => resolve(true)))
  let first = null
  for (let tries = 0; tries < 3 && child.signalCode === null; tries++) {
    first = world.life('connector').catch(() => null)
    await Promise.race([died, first.then(() => sleep(200))])
  }
  const bad = (await within(died, 1000)) ? [] : ['it did not die']
  await world.restart()
  await first
  const { steps, endedAt } = await world.life('listener')
  if (steps === null) bad.push('the next life ended too early')
  return [...bad, ...(await world.verify(endedAt, false))]
}

const { copy, labels } = instrumented()
const wanted = labels.filter((name) => name.includes(only))
if (Object.keys(state.lives).length > 0) say(`steps: goes on after ${Object.keys(state.lives).length} lives`)
await Promise.all(ROLES.map((role) => deathsOf(role, wanted)))
await deathsBetweenDaemons(wanted)
await deathsOfDaemon(wanted)
await household.close()
if (household.interrupted) {
  say('steps: interrupted; call again to go on')
  process.exit(130)
}

const everywhere = new Set(Object.values(state.reached).flatMap((steps) => Object.keys(steps)))
for (const name of wanted.filter((one) => !everywhere.has(one))) {
  state.lives[`step '${name}'`] = 'it was never reached'
  say(`steps: FAILED step '${name}' was never reached`)
}
const spread = (numbers) => ({
  p50: quantile(numbers, 0.5),
  most: Math.max(0, ...numbers),
  late: numbers.filter((ms) => ms > TOLD_MS).length,
  count: numbers.length,
})
const { lives, reached, told, freed, joined, pauses, seconds } = state
const figures = {
  ...made,
  seconds,
  steps: wanted.length,
  told: spread(told),
  freed: spread(freed),
  joined: spread(joined),
  pauses: spread(pauses),
}
if (json !== '') saveJson(json, { ...figures, lives, reached })
say(`steps: ${JSON.stringify(figures)}`)
progress.finished()
total(Object.values(lives).map((wrong) => ({ passed: wrong === '' ? 1 : 0, failed: wrong === '' ? 0 : 1 })))
process.exit()
