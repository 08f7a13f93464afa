/** What a run comes to: one entry of `results` in the JSON. Times in nanoseconds, sizes in bytes. */
import { decodeFromCompressedBase64, type Histogram } from 'hdr-histogram-js'
import { type ClientReport, type Job, overLocalMemory, type ServerReport } from './job.js'

export interface RoundTrip {
  min: number
  p50: number
  p90: number
  p99: number
  'p99.9': number
  'p99.99': number
  max: number
}

export interface Result {
  test: string
  /** counts from 1 */
  run: number
  transport: string
  mode?: string
  api: string
  fill: string
  touch: string
  size: number
  /** milliseconds */
  idleGap?: number
  peers?: number
  channels: number
  roundTrip?: RoundTrip
  messagesPerSecond: number
  bytesPerSecond: number
  samples: number
  lost: number
  duplicated: number
  reordered: number
  doorbells?: number
  suppressed?: number
  cpuSeconds: number
  openNanoseconds: number
  bytesPerChannel?: number
  sameProcess: boolean
}

export interface Outcome {
  result: Result
  histogram: Histogram | null
}

export function outcomeOf(job: Job, run: number, client: ClientReport, server: ServerReport): Outcome {
  const oneWay = job.test === 'throughput'
  const histogram =
    client.histogram === undefined ? null : (decodeFromCompressedBase64(client.histogram) as Histogram)
  const { samples, seconds } = oneWay ? server : client
  const messagesPerSecond = seconds > 0 ? samples / seconds : 0
  const together = (name: 'doorbells' | 'suppressed' | 'bytesPerChannel') =>
    client[name] === undefined ? {} : { [name]: client[name] + (server[name] ?? 0) }
  const result: Result = {
    test: job.test,
    run,
    transport: job.transport,
    ...(job.mode !== undefined && { mode: job.mode }),
    ...{ api: job.api, fill: job.fill, touch: job.touch, size: job.size },
    ...((job.test === 'latency' || job.test === 'scale') && { idleGap: job.idleGap }),
    ...(overLocalMemory(job) && { peers: job.peers }),
    channels: job.channels,
    ...(histogram !== null && { roundTrip: roundTrip(histogram) }),
    messagesPerSecond,
    bytesPerSecond: messagesPerSecond * job.size,
    samples,
    // what arrived with other bytes than were sent did not arrive
    lost: Math.max(0, client.sent - server.received) + Math.max(0, server.sent - client.received),
    duplicated: client.duplicated + server.duplicated,
    reordered: client.reordered + server.reordered,
    ...together('doorbells'),
    ...together('suppressed'),
    cpuSeconds: client.cpuSeconds + server.cpuSeconds,
    openNanoseconds: client.openNanoseconds,
    ...together('bytesPerChannel'),
    sameProcess: job.transport === 'messageport',
  }
  return { result, histogram }
}

export function roundTrip(histogram: Histogram): RoundTrip {
  const at = (percentile: number) => histogram.getValueAtPercentile(percentile)
  return {
    min: histogram.totalCount === 0 ? 0 : histogram.minNonZeroValue,
    p50: at(50),
    p90: at(90),
    p99: at(99),
    'p99.9': at(99.9),
    'p99.99': at(99.99),
    max: histogram.totalCount === 0 ? 0 : histogram.maxValue,
  }
}

export function median(values: readonly number[]): number {
  if (values.length === 0) return 0
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** The runs of one combination, together. */
export interface Group {
  key: string
  results: Result[]
  /** of all its runs */
  histogram: Histogram | null
}

const KEYS = [
  'test',
  'transport',
  'mode',
  'api',
  'fill',
  'touch',
  'size',
  'idleGap',
  'peers',
  'channels',
] as const

export function groupsOf(outcomes: readonly Outcome[]): Group[] {
  const groups = new Map<string, Group>()
  for (const { result, histogram } of outcomes) {
    const key = KEYS.map((name) => result[name]).join(' ')
    const group = groups.get(key)
    if (group === undefined) {
      groups.set(key, { key, results: [result], histogram })
    } else {
      group.results.push(result)
      if (histogram !== null) group.histogram?.add(histogram)
    }
  }
  return [...groups.values()]
}

/** What tells one combination from the others that were measured: 'shm busy sync'. */
export function namesOf(groups: readonly Group[]): string[] {
  const varies = (name: (typeof KEYS)[number]) =>
    new Set(groups.map(({ results: [one] }) => one![name]).filter((value) => value !== undefined)).size > 1
  return groups.map(({ results }) => {
    const one = results[0]!
    const words: string[] = [one.transport]
    if (one.mode !== undefined) words.push(one.mode)
    if (one.transport === 'shm' && (varies('api') || one.api !== 'event')) words.push(one.api)
    if (one.fill !== 'copy') words.push('reserve')
    if (varies('touch')) words.push(`touch ${one.touch}`)
    if (varies('idleGap') && one.idleGap !== undefined) words.push(`gap ${one.idleGap} ms`)
    if (varies('peers') && one.peers !== undefined) words.push(`${one.peers} peers`)
    if (varies('channels')) words.push(`${one.channels} channels`)
    return words.join(' ')
  })
}

export function medianOf(group: Group, value: (result: Result) => number | undefined): number | undefined {
  const values = group.results.map(value).filter((one): one is number => one !== undefined)
  return values.length === 0 ? undefined : median(values)
}

/** A run with any of these has failed. */
export function faulty({ lost, duplicated, reordered }: Result): boolean {
  return lost + duplicated + reordered > 0
}
