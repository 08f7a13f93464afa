// The lock files pin every package by version and integrity, and name no registry: each user's own is asked.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './lib.mjs'

const sets = ['', 'scripts/nodes/', 'scripts/nodes-arm64/', 'scripts/zig/']
const faults = []
for (const file of sets.map((dir) => `${dir}package-lock.json`)) {
  const { packages } = JSON.parse(readFileSync(join(root, file), 'utf8'))
  for (const [path, entry] of Object.entries(packages)) {
    if (entry.resolved !== undefined) faults.push(`${file}: ${path} has a registry address (resolved)`)
    if (path !== '' && !(entry.version && entry.integrity))
      faults.push(`${file}: ${path} has no version or integrity`)
  }
}
for (const file of sets.map((dir) => `${dir}package.json`)) {
  const { dependencies, devDependencies } = JSON.parse(readFileSync(join(root, file), 'utf8'))
  for (const [name, range] of Object.entries({ ...dependencies, ...devDependencies })) {
    if (!/^(npm:[a-z0-9-]+@)?\d+\.\d+\.\d+(-dev\.\d+)?$/.test(range))
      faults.push(`${file}: ${name} "${range}" is not an exact version`)
  }
}
for (const fault of faults) console.error(fault)
if (faults.length > 0) {
  console.error('Make the lock again with: npm install --omit-lockfile-registry-resolved=true')
  process.exit(1)
}
