// Writes what the docs say from what the code and the recorded runs say: docs/errors.md from the error table, the README's
// numbers from bench/results/ (demo.json, and what `npm run bench` leaves there), and what docs/hostile.md tells of long runs. With --check nothing is written, and a difference is an error.
//
//   node dist/cli/main.js demo --json > bench/results/demo.json && node scripts/docs.mjs
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { benchText } from '../bench/readme.mjs'
import { errorTable } from '../dist/errors.js'
import { recordedText } from './long/recorded.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const check = process.argv.includes('--check')
const stale = []

function write(name, text) {
  const path = root + name
  if (existsSync(path) && readFileSync(path, 'utf8') === text) return
  if (check) stale.push(name)
  else writeFileSync(path, text)
}

const cell = (text) => text.replaceAll('|', '\\|')
const rows = Object.entries(errorTable).map(
  ([code, { raised, cure }]) => `| \`${code}\` | ${cell(raised)} | ${cell(cure)} |`,
)
write(
  'docs/errors.md',
  `# Errors

Made from the table in src/errors.ts (exported as \`errorTable\`) by scripts/docs.mjs.

Every failure of vmring is a \`VmringError\` with a \`code\`, a sentence that says what to do, and a \`cause\` where there is one. What programs already handle for sockets
keeps its name and libuv's shape (\`code\`, \`errno\`, \`syscall\`, \`address\`): \`ECONNREFUSED\` when nobody listens under a name, \`EADDRINUSE\` for a name that is taken, and whatever the
operating system says (\`ENOENT\`, \`EACCES\`, …).

| code | raised when | cure |
|---|---|---|
${rows.join('\n')}
`,
)

const demo = JSON.parse(readFileSync(`${root}bench/results/demo.json`, 'utf8'))
const rate = (seconds) => `${(demo.size / seconds / 1e6).toFixed(0)} MB/s`
const micro = (trips) => `${(trips.median / 1000).toFixed(1)} µs`
const times = (mine, theirs) => `${(theirs / mine).toFixed(1)} ×`
const line = (what, value, mine, theirs, number = (x) => x) =>
  `| ${what} | ${value(mine)} | ${value(theirs)} | ${times(number(mine), number(theirs))} |`
const median = (trips) => trips.median
const { shm, net } = demo
const table = [
  '| | vmring | node:net, Unix socket | ratio |',
  '|---|---|---|---|',
  line(`a file of ${(demo.size / 2 ** 20).toFixed(0)} MiB, SHA-256 checked`, rate, shm.checked, net.checked),
  line('the same, bytes counted only', rate, shm.plain, net.plain),
  line('64 bytes and back, `adaptive` (default)', micro, shm.adaptive, net.echo, median),
  ...(shm.busy ? [line('64 bytes and back, `busy`', micro, shm.busy, net.echo, median)] : []),
].join('\n')
/** Writes each block, name → text, between its markers. */
function fill(file, blocks) {
  let whole = readFileSync(root + file, 'utf8')
  for (const [name, text] of Object.entries(blocks)) {
    const block = new RegExp(`(<!-- ${name}:[^\\n]*-->\\n)[\\s\\S]*?(<!-- /${name} -->)`)
    if (!block.test(whole)) throw new Error(`${file} has lost the markers of its ${name}`)
    whole = whole.replace(block, (_all, begin, end) => `${begin}${text}${end}`)
  }
  write(file, whole)
}
fill('README.md', { numbers: `${table}\n`, bench: benchText(`${root}bench/results`) })
fill('docs/hostile.md', { recorded: recordedText(`${root}bench/results/long`) })

if (stale.length !== 0) {
  console.error(`not what the sources say: ${stale.join(', ')}; run node scripts/docs.mjs`)
  process.exitCode = 1
}
