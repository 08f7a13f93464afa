// Builds what is older than its sources: the addon (node-gyp → build/Release/vmring.node) and the TypeScript (tsc → dist/).
// Safe when several run at once: one works, the others wait and then find everything done.
//   node scripts/build.mjs [--clean | --addon | --ts]
import { createHash } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { bin, must, nodeDir, root, run, say } from './lib.mjs'

const args = new Set(process.argv.slice(2))
const stampOf = (name) => join(root, 'build', `.${name}.stamp`)

function filesUnder(path, keep) {
  const full = join(root, path)
  if (!existsSync(full)) return []
  if (statSync(full).isFile()) return [path]
  return readdirSync(full, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && keep.test(entry.name))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(root.length + 1))
    .sort()
}

function hash(paths, keep, ...salt) {
  const sum = createHash('sha256').update(salt.join('\0'))
  for (const path of paths.flatMap((p) => filesUnder(p, keep)))
    sum.update(`\0${path}\0`).update(readFileSync(join(root, path)))
  return sum.digest('hex')
}

const version = (name) => JSON.parse(readFileSync(bin(`${name}/package.json`), 'utf8')).version

const parts = {
  addon: {
    wanted: () =>
      hash(
        ['binding.gyp', 'native/core', 'native/linux', 'native/addon'],
        /\.(cc|cpp|hpp|h|gyp)$/,
        process.arch,
        version('node-addon-api'),
      ),
    output: join(root, 'build/Release/vmring.node'),
    build: buildAddon,
  },
  ts: {
    wanted: () =>
      hash(['tsconfig.json', 'tsconfig.build.json', 'src'], /\.(ts|json)$/, version('typescript')),
    output: join(root, 'dist/index.js'),
    build: buildTypeScript,
  },
}

const isFresh = (name, wanted) => {
  const stamp = stampOf(name)
  return existsSync(parts[name].output) && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted
}

async function buildAddon() {
  const nodedir = await nodeDir()
  const gyp = [
    bin('node-gyp/bin/node-gyp.js'),
    'configure',
    'build',
    `--nodedir=${nodedir}`,
    `--jobs=${availableParallelism()}`,
  ]
  const { output } = await must(process.execPath, gyp, { title: 'building the native addon with node-gyp' })
  // our flags leave no warning; one that appears is to be seen
  const warnings = output.split('\n').filter((line) => /\bwarning:/.test(line))
  if (warnings.length > 0) say(`the compiler warns:\n${warnings.join('\n')}`)
}

// tsc writes beside dist; then each changed file replaces its forerunner in one step, so that programs that run from dist
// meanwhile never see half a file. Type errors fail the build, but what tsc made of the rest is there.
async function buildTypeScript() {
  const fresh = join(root, 'build', `dist.${process.pid}`)
  const dist = join(root, 'dist')
  const tsc = [bin('typescript/bin/tsc'), '-p', 'tsconfig.build.json', '--outDir', fresh]
  const { code, output } = await run(process.execPath, tsc, { title: 'compiling TypeScript' })
  try {
    const list = (dir) => (existsSync(dir) ? readdirSync(dir, { recursive: true, withFileTypes: true }) : [])
    const relative = (dir) =>
      list(dir)
        .filter((e) => e.isFile())
        .map((e) => join(e.parentPath ?? e.path, e.name).slice(dir.length + 1))
    const made = new Set(relative(fresh))
    for (const file of made) {
      const from = join(fresh, file)
      const to = join(dist, file)
      if (file === 'cli/main.js') chmodSync(from, 0o755)
      if (existsSync(to) && readFileSync(to).equals(readFileSync(from))) continue
      mkdirSync(dirname(to), { recursive: true })
      renameSync(from, to)
    }
    for (const file of relative(dist)) if (!made.has(file)) rmSync(join(dist, file))
  } finally {
    rmSync(fresh, { recursive: true, force: true })
  }
  if (code !== 0) {
    process.stderr.write(output)
    process.exit(1)
  }
}

if (args.has('--clean')) {
  for (const dir of ['dist', 'build', 'build-none', 'build-address', 'build-thread'])
    rmSync(join(root, dir), { recursive: true, force: true })
  process.exit(0)
}

const chosen = Object.keys(parts).filter(
  (name) => args.has(`--${name}`) || !(args.has('--addon') || args.has('--ts')),
)
if (chosen.every((name) => isFresh(name, parts[name].wanted()))) process.exit(0)

mkdirSync(join(root, 'build'), { recursive: true })
if (!args.has('--locked')) {
  // the kernel gives the lock back whatever becomes of us
  const again = [
    '--',
    join(root, 'build/.lock'),
    process.execPath,
    fileURLToPath(import.meta.url),
    ...args,
    '--locked',
  ]
  const { code } = await run('flock', again)
  process.exit(code)
}
for (const name of chosen) {
  const wanted = parts[name].wanted()
  if (isFresh(name, wanted)) continue
  await parts[name].build()
  writeFileSync(`${stampOf(name)}.${process.pid}`, wanted)
  renameSync(`${stampOf(name)}.${process.pid}`, stampOf(name))
}
