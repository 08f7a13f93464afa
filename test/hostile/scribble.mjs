// Two regions and a relay, numbered traffic on all three, and a scribbler in the memory of one of them, area by area.
// What must hold: nobody crashes or hangs; in the scribbled region each channel, connect and attach goes on or says by an error of
// ours why not, and once the scribbling is over the region serves as before; elsewhere every message comes, none late.
import { fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { AREAS } from './layout.mjs'

const here = (name) => fileURLToPath(new URL(name, import.meta.url))
const CALL = 60_000

export { AREAS }

/** A process of ours: questions and answers, what it tells, what it fails at. */
class Program {
  failures = []
  onRing = () => {}
  #count = 0
  #calls = new Map()
  #errors = ''

  constructor(name, env, file, ...args) {
    this.name = name
    this.child = fork(here(file), args, { env, stdio: ['ignore', 'ignore', 'pipe', 'ipc'] })
    this.child.stderr.setEncoding('utf8').on('data', (text) => {
      this.#errors = (this.#errors + text).slice(-5000)
    })
    this.child.on('message', (message) => {
      if (message.ring !== undefined) this.onRing(message.ring)
      if (message.failure !== undefined) this.failures.push(`${name}: ${message.failure}`)
      const call = this.#calls.get(message.id ?? message.answer)
      if (message.error !== undefined) call?.reject(new Error(`${name}: ${message.error}`))
      else call?.resolve(message.value ?? message)
    })
    this.ended = once(this.child, 'exit').then(([code, signal]) => {
      if (!this.stopping) this.failures.push(`${name} ended (${code ?? signal}): ${this.#errors}`)
      for (const call of this.#calls.values()) call.reject(new Error(`${name} is gone: ${this.#errors}`))
    })
    this.ready = once(this.child, 'message')
  }

  say(message) {
    if (this.child.connected) this.child.send(message)
  }

  async ask(op, more = {}) {
    const id = ++this.#count
    const answer = new Promise((resolve, reject) => this.#calls.set(id, { resolve, reject }))
    this.say({ id, op, ask: id, ...more })
    const timer = setTimeout(() => this.#calls.get(id)?.reject(new Error(`${this.name}: ${op} hangs`)), CALL)
    try {
      return await answer
    } finally {
      clearTimeout(timer)
      this.#calls.delete(id)
    }
  }

  async stop() {
    this.stopping = true
    this.child.kill('SIGKILL')
    await this.ended
  }
}

async function daemon(socket, env) {
  const args = ['host', '--socket', socket, '--size', '4M', '--sections', '4', '--json']
  const child = spawn(process.execPath, [here('../../dist/cli/main.js'), ...args], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', (text) => {
    errors = (errors + text).slice(-5000)
  })
  const ended = once(child, 'exit')
  await Promise.race([
    once(child.stdout, 'data'),
    ended.then(() => {
      throw new Error(`vmring host: ${errors}`)
    }),
  ])
  child.stdout.resume()
  const fd = readdirSync(`/proc/${child.pid}/fd`).find((name) => {
    try {
      return readlinkSync(`/proc/${child.pid}/fd/${name}`).includes('memfd:')
    } catch {
      return false
    }
  })
  return { child, ended, memory: `/proc/${child.pid}/fd/${fd}`, errors: () => errors }
}

const resident = (pid) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) / 1024

/**
 * Runs all areas one after the other; `report` hears of each as it ends. Returns the reports; each has `failures`, empty when all held.
 * @param {{ areas?: string[], seconds: number, seed: number, gap?: number, env?: object, report?: (result: object) => void }} how
 *   seconds for each area; gap: ms within which elsewhere a message must have come; env: of all processes, beside ours
 */
export async function scribble({ areas = AREAS, seconds, seed, gap = 2500, env = {}, report = () => {} }) {
  const environment = { ...process.env, VMRING_RELAY: 'none', ...env }
  const directory = mkdtempSync(join(tmpdir(), 'vmring-scribble-'))
  const programs = []
  const daemons = []
  const results = []
  try {
    const [bad, good] = [join(directory, 'a.sock'), join(directory, 'b.sock')]
    for (const socket of [bad, good]) daemons.push(await daemon(socket, environment))
    const start = async (name, file, ...args) => {
      const program = new Program(name, environment, file, ...args)
      programs.push(program)
      await program.ready
      return program
    }
    const scribbler = await start('scribbler', 'scribbler.mjs', daemons[0].memory, String(seed))
    const listener = await start('listener', 'victim.mjs')
    const dialler = await start('dialler', 'victim.mjs')
    const far = [await start('relay listener', 'victim.mjs'), await start('relay dialler', 'victim.mjs')]
    for (const one of [listener, dialler]) one.onRing = (ring) => scribbler.say({ ring })

    // the two in the scribbled region are in the other one too
    const pair = (kind, service, region, relay, [a, b]) => [
      () => a.ask('join', { name: service, kind, service, region, relay, dials: false }),
      () => b.ask('join', { name: service, kind, service, region, relay, dials: true }),
    ]
    const loud = (dials) => ({
      name: 'loud',
      kind: 'loud',
      service: 'loud',
      region: `unix:${bad}`,
      relay: null,
      dials,
    })
    const rejoin = () => Promise.all([listener.ask('rejoin', loud(false)), dialler.ask('rejoin', loud(true))])
    for (const step of [
      ...pair('quiet', 'elsewhere', `unix:${good}`, null, [listener, dialler]),
      ...pair('quiet', 'relayed', null, `unix:${bad}.relay`, far),
    ])
      await step()

    const quiet = [listener, dialler, ...far]
    const asked = async (op) => Promise.all(quiet.map((one) => one.ask(op)))
    const failures = () => [
      ...programs.flatMap((one) => one.failures),
      ...daemons
        .filter(({ child }) => child.exitCode !== null || child.signalCode !== null)
        .map((one) => one.errors()),
    ]
    /** nobody scribbles, and what only a formatter writes is whole: then everybody can come in and talk */
    const heal = async () => {
      scribbler.say({ area: null, restore: true })
      await scribbler.ask('lies')
      const [a, b] = await rejoin()
      if (!a || !b) return 'attach() fails although nobody scribbles any more'
      const before = (await dialler.ask('told')).messages
      for (const until = Date.now() + CALL / 2; Date.now() < until; await sleep(20))
        if ((await dialler.ask('told')).messages > before + 20) return null
      return 'no message comes although nobody scribbles any more'
    }

    const first = await heal()
    if (first !== null) throw new Error(first)
    const before = daemons.map(({ child }) => resident(child.pid))
    for (const area of areas) {
      await asked('reset')
      const { lies } = await scribbler.ask('lies')
      const until = Date.now() + seconds * 1000
      const found = []
      while (Date.now() < until && failures().length + found.length === 0) {
        scribbler.say({ area })
        await sleep(Math.min(1000, Math.max(0, until - Date.now())))
        // come and go in the midst of it; who cannot, waits until it is over
        const joined = await rejoin()
        if (joined.includes(false) || Date.now() >= until)
          found.push(...[await heal()].filter((what) => what !== null))
      }
      found.push(...[await heal()].filter((what) => what !== null))
      const [a, b, c, d] = await asked('told')
      const gaps = { region: Math.max(a.gap, b.gap), relay: Math.max(c.gap, d.gap) }
      for (const [where, longest] of Object.entries(gaps))
        if (longest > gap) found.push(`${where}: no message for ${Math.round(longest)} ms`)
      const sum = (key) => a[key] + b[key]
      const codes = { ...a.codes }
      for (const [code, count] of Object.entries(b.codes)) codes[code] = (codes[code] ?? 0) + count
      const result = {
        area,
        seed,
        seconds,
        lies: (await scribbler.ask('lies')).lies - lies,
        messages: sum('messages'),
        bytes: sum('bytes'),
        channels: sum('opened'),
        broken: sum('broken'),
        stuck: sum('stuck'),
        refused: sum('refused'),
        joined: sum('joined'),
        codes,
        elsewhere: { region: a.quiet + b.quiet, relay: c.quiet + d.quiet },
        longestGap: { region: Math.round(gaps.region), relay: Math.round(gaps.relay) },
        residentMiB: {
          peers: [a.rss, b.rss].map((bytes) => Math.round(bytes / 2 ** 20)),
          daemon: Math.round(resident(daemons[0].child.pid)),
          daemonBefore: Math.round(before[0]),
        },
        failures: [...failures(), ...found],
      }
      results.push(result)
      report(result)
      if (result.failures.length > 0) break
    }
    await asked('quieten')
    await asked('stop')
    const last = results.at(-1)
    last?.failures.push(...failures().filter((what) => !last.failures.includes(what)))
    return results
  } finally {
    for (const one of programs) await one.stop()
    for (const { child, ended } of daemons) {
      child.kill('SIGKILL')
      await ended
    }
    rmSync(directory, { recursive: true, force: true })
  }
}
