/** What people read: a table, medians over the runs of each combination. */
import { bytes as sizeText, table } from '../output.js'
import type { Environment } from './environment.js'
import type { Floors } from './job.js'
import { faulty, type Group, groupsOf, medianOf, namesOf, type Outcome, type Result } from './result.js'

export interface Report {
  version: string
  environment: Environment & Record<string, unknown>
  floor: Floors
  results: Result[]
}

export function time(nanoseconds: number): string {
  if (nanoseconds === 0) return '–'
  if (nanoseconds < 10_000) return `${Math.round(nanoseconds)} ns`
  if (nanoseconds < 10_000_000) return `${(nanoseconds / 1000).toFixed(nanoseconds < 100_000 ? 1 : 0)} µs`
  return `${(nanoseconds / 1e6).toFixed(nanoseconds < 1e8 ? 1 : 0)} ms`
}

export function rate(perSecond: number): string {
  if (perSecond >= 1e6) return `${(perSecond / 1e6).toFixed(perSecond >= 1e7 ? 1 : 2)} M/s`
  if (perSecond >= 1e4) return `${(perSecond / 1e3).toFixed(1)} k/s`
  return `${perSecond.toFixed(0)}/s`
}

export function speed(bytesPerSecond: number): string {
  if (bytesPerSecond >= 1e9) return `${(bytesPerSecond / 1e9).toFixed(2)} GB/s`
  return `${(bytesPerSecond / 1e6).toFixed(bytesPerSecond >= 1e8 ? 0 : 1)} MB/s`
}

const times = (factor: number) => `${factor >= 10 ? factor.toFixed(0) : factor.toFixed(1)} ×`

/** The Unix socket that a combination is held against. */
function rival(group: Group, groups: readonly Group[]): Group | undefined {
  const mine = group.results[0]!
  const same = ['test', 'touch', 'size', 'idleGap'] as const
  const fits = groups.filter(
    ({ results: [other] }) =>
      other!.transport === 'unix' && same.every((name) => other![name] === mine[name]),
  )
  return fits.find(({ results: [other] }) => other!.channels === mine.channels) ?? fits[0]
}

type Row = string[]

function latencyRows(groups: readonly Group[], names: readonly string[]): Row[] {
  const rows = groups.map((group, i) => {
    const at = (name: 'p50' | 'p90' | 'p99' | 'p99.9' | 'max') =>
      time(medianOf(group, (result) => result.roundTrip?.[name]) ?? 0)
    const p50 = medianOf(group, (result) => result.roundTrip?.p50)
    const theirs = rival(group, groups)
    const other = theirs === undefined ? undefined : medianOf(theirs, (result) => result.roundTrip?.p50)
    const ratio = theirs === group || !p50 || !other ? '' : times(other / p50)
    const perMessage = medianOf(group, (result) =>
      result.doorbells === undefined ? undefined : result.doorbells / Math.max(1, result.samples),
    )
    return [
      names[i]!,
      sizeText(group.results[0]!.size),
      ...[at('p50'), at('p90'), at('p99'), at('p99.9'), at('max'), ratio],
      perMessage === undefined ? '' : perMessage.toFixed(2),
    ]
  })
  return [['', 'size', 'p50', 'p90', 'p99', 'p99.9', 'max', 'below unix', 'doorbells'], ...rows]
}

function throughputRows(groups: readonly Group[], names: readonly string[]): Row[] {
  const rows = groups.map((group, i) => {
    const messages = medianOf(group, (result) => result.messagesPerSecond)!
    const theirs = rival(group, groups)
    const other = theirs === undefined ? undefined : medianOf(theirs, (result) => result.messagesPerSecond)
    const perMessage = medianOf(group, (result) =>
      result.doorbells === undefined ? undefined : result.doorbells / Math.max(1, result.samples),
    )
    return [
      names[i]!,
      sizeText(group.results[0]!.size),
      rate(messages),
      speed(medianOf(group, (result) => result.bytesPerSecond)!),
      theirs === group || !other ? '' : times(messages / other),
      perMessage === undefined ? '' : perMessage.toFixed(4),
    ]
  })
  return [['', 'size', 'messages', 'bytes', 'times unix', 'doorbells'], ...rows]
}

function scaleRows(groups: readonly Group[], names: readonly string[]): Row[] {
  const rows = groups.map((group, i) => {
    const memory = medianOf(group, (result) => result.bytesPerChannel)
    return [
      names[i]!,
      time(medianOf(group, (result) => result.roundTrip?.p50) ?? 0),
      time(medianOf(group, (result) => result.roundTrip?.p99) ?? 0),
      time(medianOf(group, (result) => result.openNanoseconds)!),
      memory === undefined ? '' : sizeText(memory),
      (medianOf(group, (result) => result.cpuSeconds) ?? 0).toFixed(3),
    ]
  })
  return [['', 'p50', 'p99', 'opening', 'memory per channel', 'CPU seconds'], ...rows]
}

/** The whole text. */
export function text(
  outcomes: readonly Outcome[],
  environment: Environment,
  floors: Floors & { fillBytesPerSecond?: number },
): string {
  const parts: string[] = []
  const groups = groupsOf(outcomes)
  for (const test of new Set(groups.map(({ results: [one] }) => one!.test))) {
    const members = groups.filter(({ results: [one] }) => one!.test === test)
    const names = namesOf(members)
    const runs = Math.max(...members.map(({ results }) => results.length))
    if (test === 'throughput') {
      parts.push(
        `One way. Medians of ${runs} runs.\n\n${table(throughputRows(members, names), [1, 2, 3, 4, 5])}`,
      )
      continue
    }
    const from =
      test === 'rate'
        ? 'from the time at which it was meant to be sent'
        : 'there and back, the full round trip'
    const rows = test === 'scale' ? scaleRows(members, names) : latencyRows(members, names)
    parts.push(`A message ${from}. Medians of ${runs} runs.\n\n${table(rows, [1, 2, 3, 4, 5, 6, 7, 8])}`)
  }
  if (outcomes.some(({ result }) => result.sameProcess))
    parts.push('messageport: two threads of one process; the others are two processes.\n')
  parts.push(
    `Floors in the same run, C++: one cache line there and back ${time(floors.cacheLineRoundTrip)}, the ring alone ${time(floors.ringRoundTrip)}, eventfd and epoll ${time(floors.eventfdRoundTrip)}; memcpy ${speed(floors.memcpyBytesPerSecond)}${floors.fillBytesPerSecond === undefined ? '' : `, fill ${speed(floors.fillBytesPerSecond)}`}.\n`,
  )
  parts.push(`${provenance(environment)}\n`)
  for (const { result } of outcomes.filter((one) => faulty(one.result)))
    parts.push(
      `FAILED: ${result.transport} ${result.mode ?? ''} ${result.size} B, run ${result.run}: ${result.lost} lost, ${result.duplicated} twice, ${result.reordered} out of order\n`,
    )
  return parts.join('\n')
}

export function provenance(environment: Environment): string {
  const { commit, cpu, processors, kernel, node, emulated, placement, load } = environment
  const code =
    commit === null
      ? 'an installed package'
      : `commit ${commit.slice(0, 12)}${commit.endsWith('+') ? ' and changes' : ''}`
  const emulation = emulated ? ' The processor was EMULATED: figures compare with each other only.' : ''
  return `${cpu}, ${processors} processors, Linux ${kernel}, Node ${node}, ${code}; ${placement}; load ${load.toFixed(1)}.${emulation}`
}
