// Pictures of long runs: one panel for each quantity over time, as SVG.
const WIDTH = 900
const PANEL = 170
const LEFT = 80
const RIGHT = 190
const COLOURS = ['#0b6e99', '#d9730d', '#0f7b6c', '#ad1a72', '#6940a5', '#dfab01', '#e03e3e', '#64473a']
const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`)
const short = (value) =>
  value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toPrecision(2)

/** Panels: { title, unit, series: [{ name, points: [[x, y], …] }] }; `x` is what the x axis says. */
export function plot(title, panels, { x, foot }) {
  const height = 40 + panels.length * PANEL + 50
  const parts = panels.map((panel, i) => draw(panel, 40 + i * PANEL, x))
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" font-family="system-ui, sans-serif" font-size="12" fill="#444">
<style>.title{font-size:15px;font-weight:600;fill:#111}.grid{stroke:#ddd;stroke-width:1}</style>
<rect width="${WIDTH}" height="${height}" fill="#fff"/>
<text x="${LEFT}" y="24" class="title">${escaped(title)}</text>
${parts.join('\n')}
<text x="${LEFT}" y="${height - 10}" font-size="10">${escaped(foot)}</text>
</svg>
`
}

function draw({ title, unit, series }, top, xText) {
  const all = series.flatMap(({ points }) => points)
  const right = WIDTH - RIGHT
  const upper = top + 24
  const bottom = top + PANEL - 34
  if (all.length === 0) return `<text x="${LEFT}" y="${top + 14}">${escaped(title)}: nothing measured</text>`
  const xMax = Math.max(...all.map(([px]) => px)) || 1
  const yMax = Math.max(...all.map(([, py]) => py)) * 1.05 || 1
  const x = (value) => (LEFT + (value / xMax) * (right - LEFT)).toFixed(1)
  const y = (value) => (bottom - (value / yMax) * (bottom - upper)).toFixed(1)
  const out = [
    `<text x="${LEFT}" y="${top + 14}" font-weight="600">${escaped(title)}, ${escaped(unit)}</text>`,
  ]
  for (let i = 0; i <= 4; i++) {
    const [vx, vy] = [(xMax * i) / 4, (yMax * i) / 4]
    out.push(`<line x1="${LEFT}" x2="${right}" y1="${y(vy)}" y2="${y(vy)}" class="grid"/>`)
    out.push(`<text x="${LEFT - 8}" y="${y(vy)}" dy="4" text-anchor="end">${short(vy)}</text>`)
    out.push(`<text x="${x(vx)}" y="${bottom + 16}" text-anchor="middle">${short(vx)}</text>`)
  }
  out.push(`<text x="${right + 10}" y="${bottom + 16}">${escaped(xText)}</text>`)
  series.forEach(({ name, points }, i) => {
    const colour = COLOURS[i % COLOURS.length]
    const line = points.map(([px, py]) => `${x(px)},${y(py)}`).join(' ')
    out.push(`<polyline points="${line}" fill="none" stroke="${colour}" stroke-width="1.5"/>`)
    out.push(`<text x="${right + 10}" y="${upper + 12 + i * 15}" fill="${colour}">${escaped(name)}</text>`)
  })
  return out.join('\n')
}
