// Makes the addon for every machine that the package serves, prebuilds/linux-{x64,arm64}-glibc/vmring.node, and packs the tarball
// that installs without compiler and network. Built with zig (scripts/zig pins it): it links against the symbols of an old glibc on
// any machine, and takes its C++ library along. What is older than the sources is built; what was built is checked every time.
//   node scripts/prebuild.mjs [--no-pack]     standard output: the path of the tarball
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, join } from 'node:path'
import { filesUnder, fingerprint, isFresh, json, markFresh, versionOf } from './fresh.mjs'
import { bin, must, nodeDir, root, run, say, seconds } from './lib.mjs'

/** The oldest glibc that the binaries run on: that of Debian 10, RHEL 8 and Node's own builds. README.md states it too. */
export const glibcFloor = '2.28'
const targets = { x64: 'x86_64', arm64: 'aarch64' }
const maxTarball = 10 * 1024 * 1024
const zigDir = join(root, 'scripts/zig')
const work = join(root, 'build/prebuild')

function stop(text) {
  say(text)
  process.exit(1)
}

async function findZig() {
  const [name, version] = Object.entries(json(join(zigDir, 'package.json')).dependencies)[0]
  const installed = join(zigDir, 'node_modules', name)
  if (
    !existsSync(join(installed, 'zig')) ||
    json(join(installed, 'package.json')).version.split('+')[0] !== version
  ) {
    const args = ['ci', '--no-audit', '--no-fund', '--prefix', zigDir]
    await must('npm', args, { title: `fetching zig ${version} from npm (350 MB unpacked, build time only)` })
  }
  return { zig: join(installed, 'zig'), version }
}

const sources = () => ['native/addon', 'native/linux'].flatMap((dir) => filesUnder(dir, /\.cc$/))

// The flags of binding.gyp, for clang.
async function build(arch, zig, output) {
  const dir = join(work, arch)
  rmSync(dir, { recursive: true, force: true })
  mkdirSync(dir, { recursive: true })
  const target = ['-target', `${targets[arch]}-linux-gnu.${glibcFloor}`]
  const flags = [
    ...[
      '-std=c++20',
      '-O2',
      '-fPIC',
      '-fexceptions',
      '-fvisibility=hidden',
      '-pthread',
      '-Wall',
      '-Wextra',
      '-Wshadow',
    ],
    ...[
      '-DNAPI_VERSION=8',
      '-DNAPI_CPP_EXCEPTIONS',
      '-DBUILDING_NODE_EXTENSION',
      '-DNODE_GYP_MODULE_NAME=vmring',
    ],
    ...['-Inative', '-isystem', join(await nodeDir(), 'include/node'), '-isystem', bin('node-addon-api')],
  ]
  const files = sources()
  const started = Date.now()
  const objects = files.map((file) => join(dir, `${file.replaceAll('/', '-')}.o`))
  let next = 0
  let done = 0
  const worker = async () => {
    while (next < files.length) {
      const i = next++
      const result = await run(zig, ['c++', ...target, ...flags, '-c', files[i], '-o', objects[i]], {
        log: () => {},
      })
      // zig says of its own flags that they are not used here; of ours, every warning is to be seen
      const said = result.output
        .split('\n')
        .filter((line) => line !== '' && !line.startsWith('zig: warning: argument unused'))
      if (said.length > 0) say(said.join('\n'))
      if (result.code !== 0) stop(`${files[i]} does not compile for ${arch}: ${result.why}`)
      done += 1
      say(`linux-${arch}: ${done} of ${files.length} compiled, ${seconds(started)} s`)
    }
  }
  await Promise.all(Array.from({ length: Math.min(4, availableParallelism()) }, worker))

  // Node brings a C++ library and an unwinder of its own; nothing of ours may be mixed with it, so two names are all we show.
  const map = join(dir, 'exports.map')
  writeFileSync(map, '{ global: napi_register_module_v1; node_api_module_get_api_version_v1; local: *; };\n')
  const made = join(dir, 'vmring.node')
  const link = [
    ...['c++', ...target, '-shared', '-pthread', '-s', '-Wl,-z,relro,-z,now', '-Wl,-z,nodelete'],
    ...[`-Wl,--version-script=${map}`, '-Wl,-soname,vmring.node', ...objects, '-o', made],
  ]
  await must(zig, link, {
    title: `linking linux-${arch} (the first time zig builds its C++ library: minutes)`,
  })
  mkdirSync(join(output, '..'), { recursive: true })
  renameSync(made, output)
}

const above = (version, floor) => {
  const [a, b] = [version, floor].map((text) => text.split('.').map(Number))
  for (let i = 0; i < Math.max(a.length, b.length); i++)
    if ((a[i] ?? 0) !== (b[i] ?? 0)) return (a[i] ?? 0) > (b[i] ?? 0)
  return false
}

/** What a binary needs and shows: { glibc: highest version, needed, shown, machine }. readelf reads every architecture's files. */
export async function inspect(file) {
  const { output } = await must('readelf', ['-W', '-h', '-d', '-V', '--dyn-syms', file], { log: () => {} })
  const versions = [...output.matchAll(/\bName: GLIBC_([\d.]+)/g)].map((match) => match[1])
  const symbols = [...output.matchAll(/^ +\d+: [0-9a-f]+ +\d+ \w+ +(?:GLOBAL|WEAK) +\w+ +(\w+) (\S+)/gm)]
  return {
    machine: /Machine: +(.*)/.exec(output)?.[1],
    glibc: versions.reduce((a, b) => (above(b, a) ? b : a), '0'),
    needed: [...output.matchAll(/\(NEEDED\).*\[(.*)\]/g)].map((match) => match[1]),
    shown: symbols.filter(([, section]) => section !== 'UND').map(([, , name]) => name),
    wanted: symbols.filter(([, section]) => section === 'UND').map(([, , name]) => name),
  }
}

async function check(arch, file) {
  const { machine, glibc, needed, shown, wanted } = await inspect(file)
  const faults = []
  if (!(machine ?? '').toLowerCase().includes(arch === 'x64' ? 'x86-64' : 'aarch64'))
    faults.push(`is for ${machine}`)
  if (above(glibc, glibcFloor)) faults.push(`needs glibc ${glibc}, above the floor of ${glibcFloor}`)
  const foreign = needed.filter(
    (name) => !/^(lib(c|m|pthread|dl|rt)\.so\.\d|ld-linux-[\w-]+\.so\.\d)$/.test(name),
  )
  if (foreign.length > 0) faults.push(`needs ${foreign.join(', ')}`)
  // a C++ symbol that is looked for elsewhere would be found in Node's own C++ library
  const cxx = wanted.filter((name) =>
    /^(_Z|__cxa_(?!atexit|finalize|thread_atexit)|_Unwind|__gxx)/.test(name),
  )
  if (cxx.length > 0) faults.push(`takes C++ from outside: ${cxx.join(', ')}`)
  const names = shown.filter(
    (name) => !/^(napi_register_module_v1|node_api_module_get_api_version_v1)$/.test(name),
  )
  if (names.length > 0 || shown.length === 0)
    faults.push(`shows ${shown.length === 0 ? 'nothing' : names.join(', ')}`)
  if (faults.length > 0) stop(`${file.slice(root.length + 1)}:\n  ${faults.join('\n  ')}`)
  say(
    `linux-${arch}: ${Math.round(statSync(file).size / 1024)} KiB, needs glibc ${glibc} (floor ${glibcFloor}), C++ library inside`,
  )
}

async function pack() {
  await must(process.execPath, [join(root, 'scripts/build.mjs'), '--ts'])
  // a binary of an earlier layout would go along unseen
  for (const name of readdirSync(join(root, 'prebuilds')))
    if (!(name.replace(/^linux-|-glibc$/g, '') in targets))
      stop(`prebuilds/${name} is nothing that we make: remove it`)
  const { name, version } = json(join(root, 'package.json'))
  const tarball = join(root, `${name}-${version}.tgz`)
  rmSync(tarball, { force: true })
  await must('npm', ['pack', '--ignore-scripts', '--pack-destination', root], { title: 'packing' })
  if (!existsSync(tarball)) stop(`npm pack did not make ${basename(tarball)}`)

  const listed = (await must('tar', ['-tzf', tarball], { log: () => {} })).output.split('\n')
  const inside = listed
    .filter((path) => path !== '' && !path.endsWith('/'))
    .map((path) => path.replace(/^package\//, ''))
  const meant = new Set([
    ...['package.json', 'README.md', 'LICENSE', ...filesUnder('dist'), ...filesUnder('docs')],
    ...Object.keys(targets).map((arch) => `prebuilds/linux-${arch}-glibc/vmring.node`),
  ])
  // the bundled ones, and what they need themselves
  const isBundled = (path) => path.startsWith('node_modules/')
  const extra = inside.filter((path) => !meant.has(path) && !isBundled(path))
  const absent = [...meant].filter((path) => !inside.includes(path))
  for (const bundled of json(join(root, 'package.json')).bundleDependencies)
    if (!inside.includes(`node_modules/${bundled}/package.json`))
      absent.push(`node_modules/${bundled} (bundled)`)
  const faults = [...extra.map((path) => `not meant: ${path}`), ...absent.map((path) => `missing: ${path}`)]
  const packed = JSON.parse(
    (await must('tar', ['-xzOf', tarball, 'package/package.json'], { log: () => {} })).output,
  )
  // with either of these an install would want to build, and many package managers would refuse
  for (const script of ['preinstall', 'install', 'postinstall'])
    if (packed.scripts?.[script] !== undefined) faults.push(`package.json has a script "${script}"`)
  if (packed.gypfile !== false) faults.push('package.json lacks "gypfile": false')
  const { size } = statSync(tarball)
  if (size >= maxTarball) faults.push(`${size} bytes; ${maxTarball} is too much`)
  if (faults.length > 0) stop(`${basename(tarball)}:\n  ${faults.join('\n  ')}`)
  say(`${basename(tarball)}: ${inside.length} files, ${Math.round(size / 1024)} KiB`)
  console.log(tarball)
}

async function main() {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    stop(
      `prebuilt binaries are made on Linux x64 (zig from npm); this is ${process.platform} ${process.arch}.`,
    )
  for (const [tool, from] of [
    ['readelf', 'binutils'],
    ['tar', 'tar'],
  ])
    if ((await run(tool, ['--version'], { log: () => {} })).code !== 0)
      stop(`${tool} is missing: apt-get install ${from}`)
  if (!existsSync(bin('node-addon-api/package.json'))) stop('node_modules is not complete: npm ci')
  const { zig, version } = await findZig()
  const native = ['native/addon', 'native/core', 'native/linux', 'scripts/prebuild.mjs']
  const wanted = fingerprint(native, /./, version, versionOf('node-addon-api'))
  for (const arch of Object.keys(targets)) {
    const path = `prebuilds/linux-${arch}-glibc/vmring.node`
    const stamp = join(work, `${arch}.stamp`)
    if (!isFresh(stamp, wanted)) {
      await build(arch, zig, join(root, path))
      markFresh(stamp, wanted, [path])
    }
    await check(arch, join(root, path))
  }
  if (!process.argv.includes('--no-pack')) await pack()
}

if (process.argv[1] === import.meta.filename) await main()
