// Coverage-guided fuzzing: the C++ parsers by libFuzzer with ASan and UBSan (native/test/fuzz), the TypeScript ones by V8's block
// coverage (test/fuzz). One JSON line for each target; last line: N passed, M failed. What is found lies in build-fuzz/crashes.
//   node scripts/long/fuzz.mjs --operations 1e9            pushes and pops of the core, however long that takes
//   node scripts/long/fuzz.mjs --seconds 600 [--target NAME ...] [--seed N] [--json FILE]       each target for that long
//   node scripts/long/fuzz.mjs --ci                        10^7 operations, and every input of every corpus
//   node scripts/long/fuzz.mjs --target NAME FILE ...      runs these inputs
//   node scripts/long/fuzz.mjs --merge --target NAME       into the repository: the inputs that reach more than those there
// Needs clang++ with libFuzzer (Debian: clang-14, libclang-rt-14-dev).
import { existsSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { must, root, run, say, total } from '../lib.mjs'
import { nativeTargets as native, scriptTargets as script } from './fuzz-targets.mjs'
import { common, endsWhenTold, options, reporter } from './lib.mjs'

const files = []
const given = options(
  'node scripts/long/fuzz.mjs [INPUT ...]',
  {
    seconds: [600, 'for each target'],
    operations: [0, 'pushes and pops of the core instead, however long that takes'],
    target: [[...native, ...script], 'one of them; again for another'],
    seed: common.seed,
    ci: [false, '10^7 operations, and every input of every corpus'],
    merge: [false, 'into the repository: the inputs that reach more than those there'],
    json: common.lines,
  },
  files,
)
const { seed, ci, merge } = given
const operations = ci ? 1e7 : given.operations
const seconds = operations > 0 ? 0 : given.seconds
const chosen = operations > 0 && !ci ? ['core'] : given.target
endsWhenTold('fuzz')
const { report, counts } = reporter(given.json)

const build = join(root, 'build-fuzz')
const crashes = join(build, 'crashes')
const kept = (name) =>
  join(root, native.includes(name) ? 'native/test/fuzz/corpus' : 'test/fuzz/corpus', name)
const grown = (name) => {
  const path = join(build, 'corpus', name)
  mkdirSync(path, { recursive: true })
  return path
}
mkdirSync(crashes, { recursive: true })

/** Debian's name carries the version, other systems' need not. */
async function compiler() {
  for (const name of ['clang++-14', 'clang++'])
    if ((await run(name, ['--version'], { log: () => {} })).code === 0) return name
  say('no clang++ here: install clang-14 and libclang-rt-14-dev')
  process.exit(1)
}

async function compile(name) {
  const program = join(build, name)
  const source = `native/test/fuzz/${name}_fuzz.cc`
  const newest = ['native/core', 'native/linux', 'native/test', 'native/test/fuzz']
    .flatMap((folder) => readdirSync(join(root, folder)).map((file) => join(root, folder, file)))
    .reduce((latest, file) => Math.max(latest, statSync(file).mtimeMs), 0)
  if (existsSync(program) && statSync(program).mtimeMs > newest) return program
  const flags = ['-std=c++20', '-O1', '-g', '-Wall', '-Wextra', '-Wshadow', '-Inative', '-Inative/test']
  const sanitize = ['-fsanitize=fuzzer,address,undefined', '-fno-sanitize-recover=all']
  await must(await compiler(), [...flags, ...sanitize, source, '-o', program], {
    title: `compiling ${source}`,
  })
  return program
}

async function fuzzNative(name) {
  const program = await compile(name)
  const common = ['-timeout=10', '-rss_limit_mb=2048', `-artifact_prefix=${crashes}/${name}-`]
  if (files.length > 0) return { ...(await finished(run(program, [...common, ...files], { log: () => {} }))) }
  // inputs grow long: short ones hardly come to anything before they end
  const args = [...common, `-seed=${seed}`, '-max_len=4096', '-len_control=0', '-use_value_profile=1']
  const counted = name === 'core' && operations > 0
  if (ci && !counted) args.push('-runs=20000')
  else if (!counted) args.push(`-max_total_time=${seconds}`)
  const env = counted ? { VMRING_FUZZ_OPERATIONS: String(operations) } : {}
  const folders = [grown(name), kept(name)].filter(existsSync)
  const result = await finished(run(program, [...args, ...folders], { env, log: () => {} }))
  const { output } = result
  const last = (expression) => [...output.matchAll(expression)].at(-1)
  const [, coverage, corpus] = last(/cov: (\d+) ft: \d+ corp: (\d+)/g) ?? []
  const [, pushed, popped] = last(/pushed (\d+) popped (\d+)/g) ?? []
  const runs = Number(last(/^#(\d+)/gm)?.[1] ?? 0)
  return {
    inputs: runs,
    ...(pushed && {
      operations: Number(pushed) + Number(popped),
      pushed: Number(pushed),
      popped: Number(popped),
    }),
    coverage: Number(coverage ?? 0),
    corpus: Number(corpus ?? 0),
    failures: result.failures,
  }
}

async function finished(running) {
  const { code, output, why } = await running
  return { output, failures: code === 0 ? [] : [`${why}: ${output.slice(-3000)}`] }
}

async function fuzzScript(name) {
  const program = join(root, 'test/fuzz/run.mjs')
  if (files.length > 0) {
    const { failures } = await finished(run(process.execPath, [program, name, ...files], { log: () => {} }))
    return { failures }
  }
  const how = {
    seconds: ci ? 1 : seconds,
    seed,
    corpus: [kept(name), ...(ci ? [] : [grown(name)])],
    ...(!ci && { keep: grown(name) }),
    crashes,
  }
  const result = await finished(
    run(process.execPath, [program, name, JSON.stringify(how)], { log: () => {} }),
  )
  const line = result.output.split('\n').find((text) => text.startsWith('{"target"'))
  return line === undefined ? { failures: result.failures } : JSON.parse(line)
}

async function mergeInto(name) {
  mkdirSync(kept(name), { recursive: true })
  if (!native.includes(name)) {
    const how = { seconds: 0, seed: 1, corpus: [kept(name), grown(name)], keep: kept(name), all: true }
    return finished(
      run(process.execPath, [join(root, 'test/fuzz/run.mjs'), name, JSON.stringify(how)], { log: () => {} }),
    )
  }
  // short ones only: the repository is for what each part of the code needs, not for everything that was ever found
  const args = ['-merge=1', '-max_len=512', kept(name), grown(name)]
  return finished(run(await compile(name), args, { log: () => {} }))
}

for (const name of chosen) {
  const started = Date.now()
  const work = merge ? mergeInto : native.includes(name) ? fuzzNative : fuzzScript
  const { output: _, target: __, ...result } = await work(name)
  report({ target: name, seed, seconds: Math.round((Date.now() - started) / 1000), ...result })
}
total(counts)
