/**
 * The picture: the percentile spectrum of round trips, and throughput by size, both on log scales. Two kinds of line charts need no
 * charting library; the one that would draw them (echarts) is larger than everything else in the package together.
 */

import { bytes as sizeText } from '../output.js'
import type { Environment } from './environment.js'
import { provenance, rate, speed, time } from './report.js'
import { type Group, groupsOf, medianOf, namesOf, type Outcome } from './result.js'

const WIDTH = 860
const HEIGHT = 380
const LEFT = 76
const RIGHT = 200
const TOP = 44
const BOTTOM = 46
const COLOURS = ['#0b6e99', '#d9730d', '#0f7b6c', '#ad1a72', '#6940a5', '#dfab01', '#e03e3e', '#64473a']
const PERCENTILES = [0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 99.995, 99.999]
const PERCENTILE_TICKS = [0, 50, 90, 99, 99.9, 99.99, 99.999]

interface Line {
  name: string
  points: [number, number][]
}

interface Chart {
  title: string
  lines: Line[]
  xTicks: [number, string][]
  xText: string
  yText: (value: number) => string
}

/** For text in SVG and HTML. */
export const escaped = (text: string) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`)

function draw({ title, lines, xTicks, xText, yText }: Chart, top: number): string {
  const all = lines.flatMap(({ points }) => points)
  const [xs, ys] = [all.map(([x]) => x), all.map(([, y]) => y)]
  const xMin = Math.min(...xs, ...xTicks.map(([x]) => x))
  const xMax = Math.max(...xs, ...xTicks.map(([x]) => x))
  const low = Math.floor(Math.log10(Math.min(...ys)))
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...ys))))
  const right = WIDTH - RIGHT
  const bottom = top + HEIGHT - BOTTOM
  const x = (value: number) => LEFT + ((value - xMin) / (xMax - xMin || 1)) * (right - LEFT)
  const y = (value: number) => bottom - ((Math.log10(value) - low) / (high - low)) * (bottom - top - TOP)
  const out = [`<text x="${LEFT}" y="${top + 22}" class="title">${escaped(title)}</text>`]
  for (let power = low; power <= high; power++) {
    const at = y(10 ** power).toFixed(1)
    out.push(`<line x1="${LEFT}" x2="${right}" y1="${at}" y2="${at}" class="grid"/>`)
    out.push(`<text x="${LEFT - 8}" y="${at}" dy="4" text-anchor="end">${yText(10 ** power)}</text>`)
  }
  for (const [value, text] of xTicks) {
    const at = x(value).toFixed(1)
    out.push(`<line x1="${at}" x2="${at}" y1="${top + TOP}" y2="${bottom}" class="grid"/>`)
    out.push(`<text x="${at}" y="${bottom + 16}" text-anchor="middle">${escaped(text)}</text>`)
  }
  out.push(`<text x="${(LEFT + right) / 2}" y="${bottom + 34}" text-anchor="middle">${escaped(xText)}</text>`)
  // names stand at the ends of their lines, as far apart as they must
  const ends = lines
    .map((line, i) => ({ line, i, at: y(line.points.at(-1)![1]) }))
    .sort((a, b) => a.at - b.at)
  ends.forEach((end, i) => {
    if (i > 0) end.at = Math.max(end.at, ends[i - 1]!.at + 15)
  })
  for (const { line, i, at } of ends) {
    const colour = COLOURS[i % COLOURS.length]!
    const points = line.points.map(([px, py]) => `${x(px).toFixed(1)},${y(py).toFixed(1)}`)
    out.push(`<polyline points="${points.join(' ')}" fill="none" stroke="${colour}" stroke-width="2"/>`)
    if (points.length < 6)
      for (const point of points) {
        const [cx, cy] = point.split(',')
        out.push(`<circle cx="${cx}" cy="${cy}" r="3" fill="${colour}"/>`)
      }
    out.push(
      `<text x="${right + 10}" y="${at.toFixed(1)}" dy="4" fill="${colour}">${escaped(line.name)}</text>`,
    )
  }
  return out.join('\n')
}

const nines = (percentile: number) => Math.log10(1 / (1 - percentile / 100))

function spectrum(groups: readonly Group[]): Chart | null {
  const members = groups.filter(({ histogram }) => histogram !== null && histogram.totalCount > 0)
  if (members.length === 0) return null
  const names = namesOf(members)
  const sizes = new Set(members.map(({ results: [one] }) => one!.size))
  const lines = members.map(({ histogram, results }, i) => ({
    name: sizes.size > 1 ? `${names[i]} ${sizeText(results[0]!.size)}` : names[i]!,
    // beyond what so many samples can say there is no line
    points: PERCENTILES.filter((p) => p === 0 || histogram!.totalCount * (1 - p / 100) >= 1).map(
      (p): [number, number] => [nines(p), Math.max(1, histogram!.getValueAtPercentile(p))],
    ),
  }))
  return {
    title: `Round trip there and back${sizes.size === 1 ? `, ${sizeText([...sizes][0]!)}` : ''}`,
    lines,
    xTicks: PERCENTILE_TICKS.map((p) => [nines(p), `${p} %`]),
    xText: 'share of messages that were at least so fast',
    yText: time,
  }
}

function bySize(groups: readonly Group[]): Chart | null {
  const members = groups.filter(({ results: [one] }) => one!.test === 'throughput')
  if (members.length === 0) return null
  const names = namesOf(members)
  const lines = new Map<string, Line>()
  const sizes = new Set<number>()
  members.forEach((group, i) => {
    const line = lines.get(names[i]!) ?? { name: names[i]!, points: [] }
    const { size } = group.results[0]!
    sizes.add(size)
    line.points.push([Math.log2(size), Math.max(1, medianOf(group, (result) => result.bytesPerSecond)!)])
    line.points.sort(([a], [b]) => a - b)
    lines.set(line.name, line)
  })
  return {
    title: 'One way, bytes per second by size of message',
    lines: [...lines.values()],
    xTicks: [...sizes].sort((a, b) => a - b).map((size) => [Math.log2(size), sizeText(size)]),
    xText: 'size of a message',
    yText: (value) => (value >= 1e6 ? speed(value) : `${rate(value).replace('/s', 'B/s')}`),
  }
}

/** One picture with the charts that the runs give. */
export function picture(outcomes: readonly Outcome[], environment: Environment): string {
  const groups = groupsOf(outcomes)
  const charts = [spectrum(groups), bySize(groups)].filter((chart) => chart !== null)
  const height = charts.length * HEIGHT + 30
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="system-ui, sans-serif" font-size="12" fill="#444" role="img">
<title>${escaped(`vmring bench: ${charts.map(({ title }) => title).join('; ')}`)}</title>
<style>.title{font-size:15px;font-weight:600;fill:#111}.grid{stroke:#ddd;stroke-width:1}</style>
<rect width="${WIDTH}" height="${height}" fill="#fff"/>
${charts.map((chart, i) => draw(chart, i * HEIGHT)).join('\n')}
<text x="${LEFT}" y="${height - 10}" font-size="10">${escaped(provenance(environment))}</text>
</svg>
`
}
