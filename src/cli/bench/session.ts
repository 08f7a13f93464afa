/** A whole bench: daemon, rounds, and what is shown of it, also when it ends early. */
import { Progress } from '../progress.js'
import { Crew } from './crew.js'
import { type Environment, environment, packageVersion } from './environment.js'
import { hgrm } from './hgrm.js'
import { page } from './html.js'
import { type Job, overLocalMemory } from './job.js'
import type { BenchOptions, Plan } from './plan.js'
import { type Report, text } from './report.js'
import { faulty } from './result.js'
import { floorMedians, follow, Rounds, sequence } from './rounds.js'
import { picture } from './svg.js'
import type { Place } from './worker.js'

const MEET_MS = 30_000

export class Session {
  readonly #plan: Plan
  readonly #options: BenchOptions
  readonly #crew = new Crew()
  readonly #environment: Environment
  readonly #progress = new Progress('starting')
  #other: Environment | null = null
  #rounds: Rounds | null = null

  constructor(plan: Plan, options: BenchOptions) {
    this.#plan = plan
    this.#options = options
    this.#environment = environment(plan.cpus)
  }

  get faulty(): boolean {
    return this.#rounds?.measured.outcomes.some(({ result }) => faulty(result)) ?? false
  }

  async run(wait: number): Promise<void> {
    const { listen, connect } = this.#options
    const service = listen ?? connect
    if (service !== undefined) return this.#between(service, wait, listen !== undefined)
    const named = this.#options.region ?? (process.env.VMRING_REGION || undefined)
    const { size, sections } = this.#plan.region
    const needed = this.#plan.jobs.some(overLocalMemory)
    const region = named ?? (needed ? await this.#crew.daemon(size, sections) : undefined)
    const place: Place = { directory: this.#crew.directory, region, service: null, wait }
    this.#rounds = new Rounds(this.#crew, this.#plan, place, this.#tell)
    await this.#rounds.run()
  }

  async #between(service: string, wait: number, listens: boolean): Promise<void> {
    const place: Place = { directory: null, region: this.#options.region, service, wait }
    this.#progress.update(listens ? `waiting for --connect ${service}` : `looking for --listen ${service}`)
    const jobs: Job[] | null = listens ? null : sequence(this.#plan)
    const child = this.#crew.start('the other side', {
      ...{ role: 'meet', place, jobs },
      environment: this.#environment,
    })
    const { meeting } = await child.hear('met', listens ? wait : wait + MEET_MS)
    await child.ended
    this.#other = meeting.environment
    const running = { ...place, wait: MEET_MS * 4 }
    if (listens) return follow(this.#crew, meeting.jobs, running, this.#tell)
    this.#rounds = new Rounds(this.#crew, this.#plan, running, this.#tell)
    await this.#rounds.run()
  }

  readonly #tell = (line: string): void => {
    this.#progress.update(line)
    if (!process.stderr.isTTY) process.stderr.write(`${line}\n`)
  }

  quiet(): void {
    this.#progress.stop()
  }

  /** What was measured so far; null: nothing. */
  report() {
    const measured = this.#rounds?.measured
    if (measured === undefined || measured.outcomes.length === 0) return null
    const { outcomes } = measured
    const { fillBytesPerSecond, ...floor } = floorMedians(measured.floors)
    const shown = {
      ...this.#environment,
      fillBytesPerSecond,
      ...(this.#other !== null && { other: this.#other }),
    }
    const json: Report = {
      version: packageVersion(),
      environment: shown,
      floor,
      results: outcomes.map(({ result }) => result),
    }
    const emulated = this.#environment.emulated || (this.#other?.emulated ?? false)
    const where = { ...this.#environment, emulated }
    const words = () => text(outcomes, where, { ...floor, fillBytesPerSecond })
    return {
      json,
      text: words,
      hgrm: (path: string) => hgrm(path, outcomes),
      svg: () => picture(outcomes, where),
      html: () => page(outcomes, where, words()),
    }
  }

  clear(): Promise<void> {
    return this.#crew.clear()
  }
}
