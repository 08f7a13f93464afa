// A daemon, and the two who must not notice that others die: the survivor, who talks to all of them, and the witness.
import { now } from './kill-traffic.mjs'
import { sleep, within } from './lib.mjs'

/** Within this time, ms, everybody is told. */
export const TOLD_MS = 2000
/** A machine that does other work: what came later than two seconds is counted, what came later than this often fails. */
export const SLACK = 5

export class Yard {
  #household
  #args
  constructor(household, name, args) {
    this.#household = household
    this.#args = args
    this.name = name
  }

  /** Rejects when the daemon ends before all is `settled`. `program`: of the daemon, see Household. */
  async start(settled, program) {
    await this.#startDaemon(program)
    const { child, region, relay } = this.daemon
    this.survivor = this.#household.worker('kill-survivor.mjs')
    this.witness = this.#household.worker('kill-survivor.mjs')
    const gone = new Promise((_, reject) =>
      child.once('exit', () => reject(new Error('the daemon has ended'))),
    )
    gone.catch(() => {}) // later it is meant to
    const talk = async () => {
      await this.survivor.ask('start', 'survivor', region, relay)
      await this.witness.ask('start', 'witness', region, relay)
      await this.survivor.ask('talk', 'witness')
      await settled()
    }
    await Promise.race([talk(), gone])
  }

  async #startDaemon(program) {
    this.daemon = await this.#household.daemon(this.#args, false, program, this.name)
  }

  async killDaemon() {
    const { child } = this.daemon
    if (child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGKILL')
    await gone
  }

  /**
   * The daemon dies, unless it has, and comes back. Milliseconds until the two, and `others` (promises), have joined it;
   * undefined when that takes too long.
   */
  async restart(others = []) {
    await this.killDaemon()
    await sleep(20)
    const back = [this.survivor, this.witness].map(
      (one) => new Promise((resolve) => (one.onNote = () => resolve(true))),
    )
    await this.#startDaemon()
    const start = now()
    return (await within(Promise.all([...back, ...others]), TOLD_MS * SLACK)) && now() - start
  }

  async end() {
    const workers = [this.survivor, this.witness].filter((one) => one !== undefined)
    for (const one of workers) one.kill()
    await Promise.all(workers.map((one) => one.exited))
    if (this.daemon !== undefined) await this.killDaemon()
  }
}
