// Holds bench/results/ against what the project claims: ratios within one run, median over the runs. For the few claims in
// nanoseconds the floor of the same bench is taken off.
//   node bench/claims.mjs [FOLDER]
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const TICKS_PER_SECOND = 100
const PARTS = ['latency', 'gap', 'throughput', 'events', 'scale', 'idle']

export const median = (values) => {
  if (values.length === 0) return Number.NaN
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** Results that have all of these fields. */
export function pick(report, wanted) {
  return report.results.filter((result) =>
    Object.entries(wanted).every(([name, value]) => result[name] === value),
  )
}

/** One for each run that has both. */
function ratios(report, over, under, value) {
  const others = pick(report, under)
  return pick(report, over).flatMap((one) => {
    const other = others.find(({ run }) => run === one.run)
    return other === undefined ? [] : [value(one) / value(other)]
  })
}

export const ratio = (report, over, under, value) => median(ratios(report, over, under, value))

export const p50 = (result) => result.roundTrip.p50
const messages = (result) => result.messagesPerSecond
const opening = (result) => result.openNanoseconds

// [text, [limit, 'most' or 'least'], figure(reports), unit]
function claims({ latency, gap, throughput, events, scale, idle }) {
  const busy = { transport: 'shm', mode: 'busy', api: 'sync', fill: 'copy' }
  const unix = { transport: 'unix' }
  const oneWay = (size, touch = 'header') =>
    ratio(throughput, { ...busy, size, touch }, { ...unix, size, touch }, messages)
  const list = []
  const claim = (text, kind, limit, figure, unit = '×') => list.push({ text, kind, limit, figure, unit })
  if (latency) {
    const trips = (wanted) => median(pick(latency, wanted).map(p50))
    const adaptive = { transport: 'shm', mode: 'adaptive' }
    const above = trips(busy) - latency.floor.cacheLineRoundTrip
    claim('busy, sync, 64 B: round trip above the cache-line floor', 'most', 200, above, 'ns')
    claim('busy, sync, 64 B: below unix', 'least', 25, ratio(latency, unix, busy, p50))
    const tail = median(pick(latency, busy).map(({ roundTrip }) => roundTrip['p99.9'] / roundTrip.p50))
    claim('busy, sync, 64 B: p99.9 over p50', 'most', 10, tail)
    for (const api of ['sync', 'event', 'iterate'])
      claim(
        `adaptive, hot, 64 B, ${api}: below unix`,
        'least',
        api === 'iterate' ? 5 : 8,
        ratio(latency, unix, { ...adaptive, api }, p50),
      )
    for (const api of ['event', 'iterate'])
      claim(`busy, 64 B, ${api}: below unix`, 'least', 5, ratio(latency, unix, { ...busy, api }, p50))
  }
  if (gap) {
    for (const api of ['sync', 'event']) {
      const adaptive = { transport: 'shm', mode: 'adaptive', api }
      if (pick(gap, adaptive).length === 0) continue // measured before both were
      const floor = median(pick(gap, adaptive).map(p50)) / gap.floor.eventfdRoundTrip
      claim(`adaptive, a gap of 5 ms, ${api}: times the eventfd floor`, 'most', 1.3, floor)
      claim(`adaptive, a gap of 5 ms, ${api}: times unix`, 'most', 1, ratio(gap, adaptive, unix, p50))
      claim('the same, the worst run', 'shown', 0, Math.max(...ratios(gap, adaptive, unix, p50)))
    }
  }
  if (throughput) {
    for (const [size, name, limit] of [
      [64, '64 B', 20],
      [1024, '1 KiB', 20],
      [65536, '64 KiB copied in', 15],
    ]) {
      claim(`one way, ${name}: times unix`, 'least', limit, oneWay(size))
      claim('the same, a sum over every byte', 'shown', 0, oneWay(size, 'all'))
    }
    const bytes = (fill, touch = 'header') =>
      median(pick(throughput, { ...busy, fill, size: 65536, touch }).map((one) => one.bytesPerSecond))
    const { memcpyBytesPerSecond } = throughput.floor
    const { fillBytesPerSecond } = throughput.environment
    claim('one way, 64 KiB copied in: share of memcpy', 'least', 0.5, bytes('copy') / memcpyBytesPerSecond)
    claim(
      'one way, 64 KiB filled in place: share of the fill alone',
      'shown',
      0,
      bytes('reserve') / fillBytesPerSecond,
    )
    claim('the same, a sum over every byte', 'shown', 0, bytes('reserve', 'all') / fillBytesPerSecond)
  }
  if (events) {
    for (const api of ['event', 'iterate']) {
      const mine = { transport: 'shm', mode: 'adaptive', api }
      claim(`one way, 64 B, adaptive, ${api}: times unix`, 'least', 5, ratio(events, mine, unix, messages))
      const bells = pick(events, { transport: 'shm', mode: 'event', api }).map(
        (one) => one.doorbells / one.samples,
      )
      claim(`event mode under load, ${api}: doorbells per message`, 'most', 0.05, median(bells), '')
    }
  }
  if (scale) {
    const one = { transport: 'shm', channels: 1, peers: 2 }
    claim(
      '1,000 idle channels: times the round trip',
      'most',
      1.2,
      ratio(scale, { ...one, channels: 1000 }, one, p50),
    )
    claim('32 peers: times the round trip', 'most', 1.2, ratio(scale, { ...one, peers: 32 }, one, p50))
    const many = { channels: 1000 }
    const open = ratio(scale, { ...one, ...many }, { ...unix, ...many }, opening)
    claim('opening a channel: times opening a Unix socket', 'most', 2, open)
    const memory = median(pick(scale, { ...one, ...many }).map(({ bytesPerChannel }) => bytesPerChannel))
    claim('memory of a channel, both sides, rings of 16 KiB', 'shown', 0, memory, 'B')
  }
  if (idle) {
    for (const mode of ['event', 'adaptive']) {
      const ticks = median(pick(idle, { mode }).map(({ cpuSeconds }) => cpuSeconds)) * TICKS_PER_SECOND
      claim(`1,000 idle channels, ${mode}: clock ticks in 10 s, both processes`, 'most', 2, ticks, '')
    }
  }
  return list
}

export function readResults(folder) {
  const reports = {}
  for (const name of PARTS) {
    const path = join(folder, `${name}.json`)
    if (existsSync(path)) reports[name] = JSON.parse(readFileSync(path, 'utf8'))
  }
  return reports
}

export function report(folder) {
  const reports = readResults(folder)
  const list = claims(reports)
  for (const name of PARTS.filter((part) => !reports[part]))
    list.push({ text: `npm run bench -- --only ${name}`, kind: 'absent' })
  const held = ({ kind, limit, figure }) =>
    kind === 'shown' || (kind === 'most' && figure <= limit) || (kind === 'least' && figure >= limit)
  const lines = list.map((claim) => {
    if (claim.kind === 'absent') return `ABSENT  ${claim.text}`
    const { text, kind, limit, figure, unit } = claim
    const words = kind === 'shown' ? '' : `  (at ${kind} ${limit})`
    const number = Math.abs(figure) >= 100 ? figure.toFixed(0) : figure.toPrecision(3)
    return `${kind === 'shown' ? 'shown ' : held(claim) ? 'holds ' : 'MISSED'}  ${text}: ${number} ${unit}${words}`
  })
  return { text: lines.join('\n'), missed: list.filter((claim) => !held(claim)).length }
}

if (process.argv[1] === import.meta.filename) {
  const { text, missed } = report(process.argv[2] ?? join(import.meta.dirname, 'results'))
  console.log(text)
  process.exitCode = missed > 0 ? 1 : 0
}
