/** HdrHistogram's percentile files, which latency people load into their tools: one for each combination, times in microseconds. */
import { extname } from 'node:path'
import { groupsOf, namesOf, type Outcome } from './result.js'

const TICKS_PER_HALF = 5
const NANO_PER_MICRO = 1000

/** [path, text] */
export function hgrm(path: string, outcomes: readonly Outcome[]): [string, string][] {
  const groups = groupsOf(outcomes).filter(({ histogram }) => histogram !== null)
  const names = namesOf(groups)
  const extension = extname(path)
  const stem = extension === '' ? path : path.slice(0, -extension.length)
  return groups.map((group, i) => {
    const name = `${names[i]} ${group.results[0]!.size}`.replace(/[^\w.]+/g, '-')
    const text = group.histogram!.outputPercentileDistribution(TICKS_PER_HALF, NANO_PER_MICRO)
    return [groups.length === 1 ? path : `${stem}.${name}${extension}`, text]
  })
}
