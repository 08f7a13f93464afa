/** Runs one after the other, in fresh processes; the order is reversed every round, so that a drift of the machine meets all. */
import type { Crew } from './crew.js'
import type { Floors, Job } from './job.js'
import type { Plan } from './plan.js'
import { median, type Outcome, outcomeOf } from './result.js'
import type { Place } from './worker.js'

/** of one floor, in each round */
const FLOOR_MS = 200
/** for processes to start and to end: seconds where the processor is emulated */
const SPARE_MS = 120_000
/** of the standard ring: where copies are compared, they go over the same memory */
const FLOOR_SIZE = 64 * 1024

export interface Measured {
  outcomes: Outcome[]
  floors: (Floors & { fillBytesPerSecond: number })[]
}

export type Tell = (text: string) => void

export function describeJob(job: Job): string {
  const words = [job.test, job.transport, job.mode, job.transport === 'shm' ? job.api : undefined]
  return `${words.filter((word) => word !== undefined).join(' ')}, ${job.size} B`
}

function limitOf(job: Job): number {
  return job.warmup + 3 * (job.duration + job.idleGap) + job.channels * 50 + SPARE_MS
}

export class Rounds {
  readonly measured: Measured = { outcomes: [], floors: [] }
  readonly #crew: Crew
  readonly #plan: Plan
  readonly #place: Place
  readonly #tell: Tell
  #done = 0

  constructor(crew: Crew, plan: Plan, place: Place, tell: Tell) {
    this.#crew = crew
    this.#plan = plan
    this.#place = place
    this.#tell = tell
  }

  get #all(): number {
    return this.#plan.jobs.length * this.#plan.rounds
  }

  async run(): Promise<void> {
    for (let round = 0; round < this.#plan.rounds; round++) {
      this.#tell(`floors, round ${round + 1} of ${this.#plan.rounds}`)
      this.measured.floors.push(await this.#floors())
      const order = round % 2 === 0 ? this.#plan.jobs : [...this.#plan.jobs].reverse()
      for (const job of order) {
        this.#done++
        this.#tell(`${this.#done} of ${this.#all}: ${describeJob(job)}`)
        this.measured.outcomes.push(await this.#one(job, round + 1))
      }
    }
  }

  async #floors() {
    const { jobs, cpus } = this.#plan
    const largest = jobs.reduce(
      (most, job) => (job.size > most.size && job.size <= FLOOR_SIZE ? job : most),
      jobs[0]!,
    )
    const { idleGap, size, ring } = largest
    const child = this.#crew.start('the floors', {
      role: 'floor',
      each: FLOOR_MS,
      job: { cpus, idleGap, size, ring },
    })
    const { floors } = await child.hear('floors', 5 * FLOOR_MS + 6 * idleGap + SPARE_MS)
    await child.ended
    return floors
  }

  async #one(job: Job, run: number): Promise<Outcome> {
    const name = describeJob(job)
    const place = this.#place
    const limit = limitOf(job)
    const others = job.peers > 2 && place.service === null ? await this.#crowd(job.peers - 2) : null
    try {
      const client = this.#crew.start(name, { role: 'client', job, place })
      // two threads of one process, or the other one is started by the other machine
      if (job.transport === 'messageport' || place.service !== null) {
        const { client: own, server } = await client.hear('result', limit)
        await client.ended
        return outcomeOf(job, run, own, server)
      }
      const server = this.#crew.start(name, { role: 'server', job, place })
      client.onNote = (note) => server.note(note)
      server.onNote = (note) => client.note(note)
      const [result] = await Promise.all([client.hear('result', limit), server.hear('ended', limit)])
      await Promise.all([client.ended, server.ended])
      return outcomeOf(job, run, result.client, result.server)
    } finally {
      await others?.end()
    }
  }

  async #crowd(count: number) {
    const child = this.#crew.start('other peers', { role: 'crowd', region: this.#place.region, count })
    await child.hear('seated', SPARE_MS)
    return child
  }
}

export function floorMedians(floors: Measured['floors']): Floors & { fillBytesPerSecond: number } {
  const of = (name: keyof Floors | 'fillBytesPerSecond') => median(floors.map((one) => one[name]))
  return {
    cacheLineRoundTrip: of('cacheLineRoundTrip'),
    ringRoundTrip: of('ringRoundTrip'),
    eventfdRoundTrip: of('eventfdRoundTrip'),
    memcpyBytesPerSecond: of('memcpyBytesPerSecond'),
    fillBytesPerSecond: of('fillBytesPerSecond'),
  }
}

/** Every run of a bench between machines, in the order in which both sides go through them. */
export function sequence(plan: Plan): Job[] {
  return Array.from({ length: plan.rounds }, (_, round) =>
    round % 2 === 0 ? plan.jobs : [...plan.jobs].reverse(),
  ).flat()
}

/** The listening side: one process for each run that the other side makes. */
export async function follow(crew: Crew, jobs: Job[], place: Place, tell: Tell): Promise<void> {
  for (const [index, job] of jobs.entries()) {
    tell(`${index + 1} of ${jobs.length}: ${describeJob(job)}`)
    const child = crew.start(describeJob(job), { role: 'server', job, place })
    await child.hear('ended', limitOf(job) + place.wait)
    await child.ended
  }
}
