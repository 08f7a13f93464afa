// Builds what is older than its sources: the addon (node-gyp → build/Release/vmring.node) and the TypeScript (tsc → dist/).
// Safe when several run at once: one works, the others wait and then find everything done.
//   node scripts/build.mjs [--clean | --addon | --ts]
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { filesUnder, fingerprint, isFresh, markFresh, versionOf } from './fresh.mjs'
import { bin, must, nodeDir, root, run, say } from './lib.mjs'

const args = new Set(process.argv.slice(2))
const stampOf = (name) => join(root, 'build', `.${name}.stamp`)

const parts = {
  addon: {
    wanted: () =>
      fingerprint(
        ['binding.gyp', 'native/core', 'native/linux', 'native/addon'],
        /\.(cc|cpp|hpp|h|gyp)$/,
        process.arch,
        versionOf('node-addon-api'),
      ),
    made: () => ['build/Release/vmring.node'],
    build: buildAddon,
  },
  ts: {
    wanted: () =>
      fingerprint(['tsconfig.json', 'tsconfig.build.json', 'src'], /\.(ts|json)$/, versionOf('typescript')),
    made: () => filesUnder('dist'),
    build: buildTypeScript,
  },
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
    const relative = (dir) =>
      filesUnder(dir.slice(root.length + 1)).map((path) => join(root, path).slice(dir.length + 1))
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
if (chosen.every((name) => isFresh(stampOf(name), parts[name].wanted()))) process.exit(0)

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
  if (isFresh(stampOf(name), wanted)) continue
  await parts[name].build()
  markFresh(stampOf(name), wanted, parts[name].made())
}
