/**
 * Runs a scenario under every schedule that deviates from the fair order at most k times: depth first, each schedule
 * from the beginning. The fair order takes what has been due for longest, and lets timers run when nothing else is due.
 */
import type { Scenario } from './parts.js'
import { World } from './world.js'

/** [step, which of the possibilities at that step] */
export type Deviations = readonly (readonly [number, number])[]

export interface Explored {
  schedules: number
  steps: number
  failures: string[]
}

interface Run {
  /** possibilities at each step */
  widths: number[]
  trail: string[]
  error: Error | null
}

const MAX_STEPS = 700
/** simulated time after which nothing can still be under way, ms */
const PATIENCE = 60_000

async function play(scenario: Scenario, deviations: Deviations, script: string[] = []): Promise<Run> {
  const world = new World(scenario)
  const run: Run = { widths: [], trail: [], error: null }
  try {
    await world.open()
    const wanted = new Map(deviations)
    let finishing = false
    let reason: string | null = null
    for (let step = 0; ; step++) {
      reason = world.unsettled()
      if (reason === null && !finishing) {
        finishing = true
        world.finish()
        await world.settle()
      }
      if (finishing && world.over) break
      const steps = world.steps(true)
      run.widths.push(steps.length)
      if (step >= MAX_STEPS || world.timers.now > PATIENCE)
        throw new Error(`no end in sight: ${reason ?? 'closing'}`)
      const told = steps.findIndex(({ label }) => label === script[0])
      if (told >= 0) script.shift()
      const choice = wanted.get(step) ?? Math.max(told, 0)
      const chosen = steps[choice]
      if (chosen === undefined)
        throw new Error(
          choice === 0
            ? `stuck: ${reason ?? 'closing'}`
            : `step ${step} has no choice ${choice}: not deterministic`,
        )
      run.trail.push(`${choice === 0 ? ' ' : '*'} ${step} ${chosen.label}`)
      chosen.run()
      await world.settle()
      world.check()
    }
    world.verdict()
  } catch (error) {
    run.error = error as Error
  } finally {
    world.takeDown()
  }
  return run
}

/** The fair order, but each step of the script is taken as soon as it is possible. */
export async function follow(scenario: Scenario, script: string[]): Promise<Run> {
  return play(scenario, [], [...script])
}

/**
 * `depth` deviations at most. Beyond the first, only one in `stride` of the schedules is run, chosen by their number, so
 * that the whole breadth is touched.
 */
export async function explore(
  scenario: Scenario,
  depth: number,
  stride = 1,
  maxFailures = 3,
): Promise<Explored> {
  const result: Explored = { schedules: 0, steps: 0, failures: [] }
  let serial = 0
  const visit = async (deviations: Deviations): Promise<void> => {
    const run = await play(scenario, deviations)
    result.schedules++
    result.steps += run.trail.length
    if (result.schedules % 500 === 0) globalThis.gc?.()
    if (run.error !== null) {
      result.failures.push(`${JSON.stringify(deviations)}: ${run.error.stack}\n${run.trail.join('\n')}`)
      return
    }
    if (deviations.length === depth) return
    const first = (deviations.at(-1)?.[0] ?? -1) + 1
    for (let step = first; step < run.widths.length; step++) {
      for (let choice = 1; choice < run.widths[step]!; choice++) {
        if (result.failures.length >= maxFailures) return
        const next: Deviations = [...deviations, [step, choice]]
        if (next.length === 1 || serial++ % stride === 0) await visit(next)
      }
    }
  }
  await visit([])
  return result
}
