/**
 * Path changes of the real session layer under every schedule that deviates from the fair one a few times: frames dropped,
 * doubled, overtaken, on each path; timers that fire early; wishes, losses, returns, ends and deaths at every step.
 */
import { expect, test } from 'vitest'
import { explore, follow } from './explore.js'
import type { PathSpec, Scenario } from './parts.js'

const wire = (name: string): PathSpec => ({ name, kind: 'wire' })
const shared = (name: string, keepsOutbox = true): PathSpec => ({ name, kind: 'shared', keepsOutbox })
const LIMIT = 240_000

/** Both want to move, and keep every second message for a while. */
const busy = { a: ['send', 'use:p2', 'send', 'send'], b: ['send', 'send', 'use:p1', 'send'], holdEvery: 2 }
/** One change, few messages: short enough for two deviations. */
const brief = { a: ['send', 'use:p2'], b: ['send'] }

/** name, scenario, most deviations in one schedule, one in how many of those with several, least number of schedules */
const table: [string, Scenario, number, number, number][] = [
  [
    'frames between wires',
    { ...busy, paths: [wire('p1'), wire('p2')], deviations: ['drop', 'double', 'overtake', 'timer'] },
    1,
    1,
    400,
  ],
  [
    'frames between memory and a wire',
    { ...busy, paths: [shared('p1'), wire('p2')], deviations: ['drop', 'double', 'overtake', 'timer'] },
    1,
    1,
    400,
  ],
  [
    'wishes among three paths',
    { ...busy, paths: [shared('p1'), wire('p2'), shared('p3')], deviations: ['use'] },
    1,
    1,
    400,
  ],
  [
    'paths lost and returning',
    { ...busy, paths: [shared('p1'), wire('p2')], returns: true, deviations: ['lose', 'timer'] },
    1,
    1,
    250,
  ],
  ['paths lost for good', { ...brief, paths: [wire('p1'), wire('p2')], deviations: ['lose'] }, 2, 4, 200],
  [
    'the only path lost and returning',
    { a: ['send'], b: ['send'], paths: [wire('p1')], returns: true, deviations: ['lose', 'timer'] },
    2,
    1,
    100,
  ],
  [
    'memory torn away',
    { ...busy, paths: [shared('p1', false), wire('p2')], returns: true, deviations: ['lose'] },
    1,
    1,
    80,
  ],
  [
    'ends in the middle',
    { ...busy, paths: [shared('p1'), wire('p2')], deviations: ['end', 'close', 'destroy'] },
    1,
    1,
    300,
  ],
  [
    'ends in the middle, frames in disorder',
    { ...brief, paths: [wire('p1'), shared('p2')], deviations: ['overtake', 'close', 'destroy'] },
    2,
    4,
    300,
  ],
  [
    'deaths and new lives',
    { ...busy, paths: [shared('p1'), wire('p2')], deviations: ['die', 'restart'] },
    1,
    1,
    250,
  ],
  [
    'two things at once',
    {
      ...brief,
      paths: [shared('p1'), wire('p2')],
      returns: true,
      deviations: ['drop', 'timer', 'use', 'lose'],
    },
    2,
    16,
    500,
  ],
]

for (const [name, scenario, depth, stride, least] of table) {
  test(name, { timeout: LIMIT }, async () => {
    const { schedules, steps, failures } = await explore(scenario, depth, stride)
    if (failures.length > 0) throw new Error(failures[0])
    expect(schedules).toBeGreaterThan(least)
    console.log(`${name}: ${schedules} schedules, ${steps} steps`)
  })
}

test('a ring whose MOVED is still on its way is not let go by a question that overtakes it', async () => {
  const scenario: Scenario = {
    a: ['use:p2'],
    b: [],
    paths: [wire('p1'), shared('p2')],
    deviations: ['overtake', 'destroy'],
  }
  const script = ['p2>b MOVE@1', 'b destroy', 'overtake with p2>a RETIRE@1', 'p2>b RETIRE+8@1']
  const { error, trail } = await follow(scenario, script)
  if (error !== null) throw new Error(`${error.message}\n${trail.join('\n')}`)
  expect(trail.join('\n')).toContain('overtake with p2>a RETIRE@1')
})
