// What a release needs beside its tests: the tarball holds exactly the files that are meant, there is a bill of materials, and
// nothing in it has a known hole. Last line: N passed, M failed.
//   node scripts/release.mjs [--write]      --write: the files that there are become those that are meant (scripts/release-files.txt)
// The bill of materials (CycloneDX) is left in build/release/sbom.cdx.json.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { root, run, say, total } from './lib.mjs'

const list = join(root, 'scripts/release-files.txt')
const { dependencies, version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const results = []
const check = (what, good, more = '') => {
  results.push({ passed: good ? 1 : 0, failed: good ? 0 : 1 })
  say(`${what}: ${good ? 'good' : `FAILED${more === '' ? '' : `\n${more}`}`}`)
}
const quiet = { log: () => {} }

/** JSON in what npm has printed: warnings may stand before it. */
function parsed(output) {
  for (let at = output.search(/^[[{]/m); at >= 0; ) {
    try {
      return JSON.parse(output.slice(at, output.lastIndexOf(output[at] === '{' ? '}' : ']') + 1))
    } catch {
      const next = output.slice(at + 1).search(/^[[{]/m)
      at = next < 0 ? -1 : at + 1 + next
    }
  }
  return null
}

/** One line for what is made of one source, and one for each package that comes along. */
const folded = (path) =>
  path
    .replace(/^(dist\/.*?)\.(js|js\.map|d\.ts)$/, '$1.{js,js.map,d.ts}')
    .replace(/^(node_modules\/(?:@[^/]+\/)?[^/]+)\/.*$/, '$1/**')

// npm pack runs no script here: the tree must have been built
const packed = parsed((await run('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], quiet)).output)
const files = [...new Set((packed?.[0]?.files ?? []).map(({ path }) => folded(path)))].sort()
if (process.argv.includes('--write')) writeFileSync(list, `${files.join('\n')}\n`)
const meant = existsSync(list) ? readFileSync(list, 'utf8').trim().split('\n') : []
// made by `npm run prebuild`, which takes minutes: without it they cannot be there
const wanted = existsSync(join(root, 'prebuilds'))
  ? meant
  : meant.filter((path) => !path.startsWith('prebuilds/'))
const missing = wanted.filter((path) => !files.includes(path))
const strange = files.filter((path) => !meant.includes(path))
check(
  `the tarball has ${files.length} entries, those of scripts/release-files.txt`,
  files.length > 0 && missing.length === 0 && strange.length === 0,
  [...missing.map((path) => `  missing: ${path}`), ...strange.map((path) => `  not meant: ${path}`)].join(
    '\n',
  ),
)

// with --omit dev npm leaves out what something of development needs as well: all of it, then, and that taken away
const sbom = parsed((await run('npm', ['sbom', '--sbom-format', 'cyclonedx'], quiet)).output)
if (sbom !== null) {
  const forDevelopment = (one) => one.properties?.some(({ name }) => name === 'cdx:npm:package:development')
  const left = new Set(sbom.components.filter(forDevelopment).map((one) => one['bom-ref']))
  sbom.components = sbom.components.filter((one) => !left.has(one['bom-ref']))
  sbom.dependencies = sbom.dependencies
    .filter(({ ref }) => !left.has(ref))
    .map(({ ref, dependsOn }) => ({ ref, dependsOn: dependsOn.filter((one) => !left.has(one)) }))
}
const named = new Map((sbom?.components ?? []).map((component) => [component.name, component.version]))
const unnamed = Object.entries(dependencies).filter(
  ([name, wantedVersion]) => named.get(name) !== wantedVersion,
)
check(
  `bill of materials: vmring ${version} with ${named.size} packages`,
  sbom?.bomFormat === 'CycloneDX' && unnamed.length === 0,
  unnamed.map(([name]) => `  not in it as package.json says: ${name}`).join('\n'),
)
if (sbom !== null) {
  mkdirSync(join(root, 'build/release'), { recursive: true })
  writeFileSync(join(root, 'build/release/sbom.cdx.json'), `${JSON.stringify(sbom, null, 1)}\n`)
}

const { output, code } = await run('npm', ['audit', '--omit', 'dev', '--json', '--fetch-retries', '0'], {
  ...quiet,
  timeout: 60_000,
})
const audit = parsed(output)
const found = audit?.metadata?.vulnerabilities
if (found === undefined) {
  say(
    `npm audit: NOT RUN, the registry has no answer to it (${audit?.error?.summary || audit?.message || `exit code ${code}`})`,
  )
} else {
  check(
    `npm audit: ${found.total} known holes in what is shipped`,
    found.total === 0,
    JSON.stringify(audit.vulnerabilities, null, 1),
  )
}
total(results)
