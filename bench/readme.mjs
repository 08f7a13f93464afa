// What the README shows of bench/results/: one table, one picture, and where they come from. Empty without results.
import { median, p50, pick, ratio, readResults } from './claims.mjs'

const micro = (nanoseconds) =>
  nanoseconds < 10_000 ? `${Math.round(nanoseconds)} ns` : `${(nanoseconds / 1000).toFixed(1)} µs`
const speed = (bytes) =>
  bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB/s` : `${(bytes / 1e6).toFixed(0)} MB/s`
const count = (perSecond) =>
  perSecond >= 1e6 ? `${(perSecond / 1e6).toFixed(1)} M/s` : `${(perSecond / 1e3).toFixed(0)} k/s`
const times = (factor) => `${factor >= 10 ? factor.toFixed(0) : factor.toFixed(1)} ×`

export function benchText(folder) {
  const { latency, throughput } = readResults(folder)
  if (!latency || !throughput) return ''
  const unix = { transport: 'unix' }
  const rows = []
  const trip = (text, mine) => {
    const of = (wanted) => micro(median(pick(latency, wanted).map(p50)))
    rows.push([text, of(mine), of(unix), times(ratio(latency, unix, mine, p50))])
  }
  for (const [mode, api, words] of [
    ['busy', 'sync', '`receiveSync`'],
    ['adaptive', 'sync', '`receiveSync`'],
    ['adaptive', 'event', '`message` events'],
    ['adaptive', 'iterate', '`for await`'],
  ])
    trip(`64 bytes and back, \`${mode}\`, ${words}`, { transport: 'shm', mode, api, fill: 'copy' })
  for (const [size, name] of [
    [64, '64 B'],
    [1024, '1 KiB'],
    [65536, '64 KiB'],
  ]) {
    const at = { size, touch: 'header' }
    const mine = { ...at, transport: 'shm', mode: 'busy', api: 'sync', fill: 'copy' }
    const value = size < 4096 ? (one) => one.messagesPerSecond : (one) => one.bytesPerSecond
    const text = size < 4096 ? count : speed
    const of = (wanted) => text(median(pick(throughput, wanted).map(value)))
    const gain = ratio(throughput, mine, { ...at, ...unix }, value)
    rows.push([`one way, messages of ${name}, \`busy\``, of(mine), of({ ...at, ...unix }), times(gain)])
  }
  const { cacheLineRoundTrip, ringRoundTrip, eventfdRoundTrip } = latency.floor
  const { commit, cpu, processors, load, kernel, node, emulated } = latency.environment
  const floors = `Floors in the same run, C++: a cache line there and back ${micro(cacheLineRoundTrip)}, the ring alone ${micro(ringRoundTrip)}, eventfd and epoll ${micro(eventfdRoundTrip)}; memcpy ${speed(throughput.floor.memcpyBytesPerSecond)}.`
  const from = `${cpu}, Linux ${kernel}, Node ${node}, commit ${(commit ?? 'unknown').slice(0, 12)}${commit?.endsWith('+') ? ' and changes' : ''}${emulated ? ', EMULATED' : ''}; ${processors} processors, load when it began ${load.toFixed(1)}${load > 1 ? ': THE MACHINE HAD OTHER WORK, which spinning suffers from most' : ''}.`
  return [
    '| median of five runs in turn | vmring | node:net, Unix socket | ratio |',
    '|---|---|---|---|',
    ...rows.map((row) => `| ${row.join(' | ')} |`),
    '',
    `${floors} ${from}`,
    '',
    '![Round trips by percentile](bench/results/latency.svg)',
    '',
  ].join('\n')
}
