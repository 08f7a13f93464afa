// docs/conformance.md, from the results.
import { rules } from './rules.mjs'

const HEADINGS = { net: 'net', http: 'http', http2: 'http2', tls: 'tls', 'stream-duplex': 'Duplex streams' }

export function document({ node, summary, files }) {
  const lines = [
    '# Conformance',
    '',
    `Node's own tests with \`node:net\` replaced by \`vmring/net\`, on Node ${node}. Made by \`npm run conformance -- --tests DIR\`; do not edit.`,
    '',
    'Each file runs in a fresh process: first as it is, then with every port and every path of the test routed to a service, so that all',
    'of its connections are channels in a region of `vmring host`. A file counts if it passes on the plain `node:net` and no rule excludes it.',
    '',
    '| family | files | pass on node:net | of these excluded | count | pass on vmring/net |',
    '|---|---|---|---|---|---|',
    ...Object.entries(summary).map(
      ([name, { files: count, plain, excluded, counting, passed }]) =>
        `| ${HEADINGS[name]} | ${count} | ${plain} | ${excluded} | ${counting} | ${passed} (${counting === 0 ? '–' : `${((100 * passed) / counting).toFixed(1)} %`}) |`,
    ),
    '',
    '## Rules',
    '',
    'A rule excludes a file by its name or its source (`scripts/conformance/rules.mjs` has the patterns).',
    '',
    '| rule | the test … |',
    '|---|---|',
    ...[...new Map(rules.map(({ id, why }) => [id, why]))].map(([id, why]) => `| ${id} | ${why} |`),
  ]
  for (const name of Object.keys(summary)) {
    lines.push('', `## ${HEADINGS[name]}`, '', '| file | result |', '|---|---|')
    const rows = Object.entries(files)
      .filter(([, result]) => result.family === name)
      .sort(([a], [b]) => (a < b ? -1 : 1))
    for (const [file, result] of rows) lines.push(`| ${file} | ${verdict(result)} |`)
  }
  return `${lines.join('\n')}\n`
}

function verdict({ rule, plain, status }) {
  if (plain !== 'pass') return `does not count: ${plain} on node:net`
  if (rule !== undefined) return `excluded: ${rule}`
  return status === 'pass' ? 'pass' : `**${status}**`
}
