// What was made from which sources: fingerprints, and stamps that know them and every file that was made.
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { bin, root } from './lib.mjs'

export const json = (path) => JSON.parse(readFileSync(path, 'utf8'))
export const versionOf = (name) => json(bin(`${name}/package.json`)).version

/** The files at and below a path of the repository, in order, as paths of the repository. `keep` (a pattern) goes by their names. */
export function filesUnder(path, keep = /./) {
  const full = join(root, path)
  if (!existsSync(full)) return []
  if (statSync(full).isFile()) return [path]
  return readdirSync(full, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && keep.test(entry.name))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(root.length + 1))
    .sort()
}

/** Of names and contents of files, and of words that change the outcome as well. */
export function fingerprint(paths, keep, ...words) {
  const sum = createHash('sha256').update(words.join('\0'))
  for (const path of paths.flatMap((p) => filesUnder(p, keep)))
    sum.update(`\0${path}\0`).update(readFileSync(join(root, path)))
  return sum.digest('hex')
}

/** True when the stamp is that of this fingerprint and all that was made then is still there. */
export function isFresh(stamp, wanted) {
  try {
    const { fingerprint, made } = json(stamp)
    return fingerprint === wanted && made.every((path) => existsSync(join(root, path)))
  } catch {
    return false // no stamp, or none of ours
  }
}

export function markFresh(stamp, wanted, made) {
  writeFileSync(`${stamp}.${process.pid}`, JSON.stringify({ fingerprint: wanted, made }))
  renameSync(`${stamp}.${process.pid}`, stamp)
}
