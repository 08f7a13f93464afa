// Drives cmake-js: the addon and the C++ tests, plain or with sanitizers, each in a build directory of its own.
//   node scripts/native.mjs build [none|address|thread]
//   node scripts/native.mjs test [none|address|thread|valgrind ...] [--only WORD]    last line: N passed, M failed
import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { bin, lastLine, must, nodeDir, root, run, say, seconds, total, verdict } from './lib.mjs'

// Values that nobody has written are what neither sanitizer sees (MemorySanitizer needs a whole world built with it), and leaks.
const memcheck = [
  '--quiet',
  '--error-exitcode=99',
  '--leak-check=full',
  '--errors-for-leak-kinds=definite',
  '--fair-sched=yes',
]
// The explorer enumerates interleavings itself, on one thread: a sanitizer adds nothing but time. Nor does one for memory where
// the order of a few words is all there is to see.
const kinds = {
  none: { sanitize: 'none', config: 'Release', skip: /^$/ },
  address: {
    sanitize: 'address,undefined',
    config: 'RelWithDebInfo',
    skip: /^(explorer|handover|wake_litmus)/,
  },
  thread: { sanitize: 'thread', config: 'RelWithDebInfo', skip: /^explorer/ },
  // not what several processes do against the clock: one of them takes fifty times as long here
  valgrind: {
    sanitize: 'none',
    config: 'Release',
    build: 'none',
    under: ['valgrind', ...memcheck],
    skip: /^(explorer|handover|hostile|killed|scribble|stopped|stress|torn|wake_litmus)/,
  },
}
const timeout = 600_000

/** Builds `vmring` (the addon) or `native_tests`, or all; returns { dir, addon }: where the test programs are, and the addon. */
export async function buildNative(name, target) {
  const { sanitize, config, build = name } = kinds[name]
  const out = join(root, `build-${build}`)
  mkdirSync(out, { recursive: true })
  const lock = join(out, '.lock')
  const cmakeJs = [
    bin('cmake-js/bin/cmake-js'),
    `--directory=${root}`,
    `--out=${out}`,
    `--config=${config}`,
    `--parallel=${availableParallelism()}`,
    `--CDVMRING_SANITIZE=${sanitize}`,
    ...(target === undefined ? [] : [`--target=${target}`]),
  ]
  // cmake-js knows this name only from the environment; without it, it would download headers
  const env = { npm_config_nodedir: await nodeDir() }
  for (const step of ['configure', 'build']) {
    const title = `cmake-js ${step} (${sanitize})`
    const { output } = await must('flock', [lock, process.execPath, ...cmakeJs, step], {
      title,
      env,
    })
    const warnings = output.split('\n').filter((line) => /\bwarning:/.test(line))
    if (warnings.length > 0) say(`the compiler warns:\n${warnings.join('\n')}`)
  }
  return { dir: join(out, 'test'), addon: join(out, config, 'vmring.node') }
}

/** What a Node process needs in its environment to run with the addon of `buildNative('address')`. */
export function sanitized(addon) {
  // The runtime must come first in a process that was not linked with it; libstdc++ beside it, because the runtime looks up the
  // function that throws when it starts, and Node's own copy is not visible to it.
  const library = (name) => execFileSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim()
  return {
    VMRING_ADDON: addon,
    LD_PRELOAD: ['libasan.so', 'libubsan.so', 'libstdc++.so.6'].map(library).join(' '),
    // Node itself never frees everything at exit; SIGBUS is ours to handle
    ASAN_OPTIONS: 'detect_leaks=0:handle_sigbus=0:abort_on_error=1',
    UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
  }
}

async function testNative(name, only) {
  const { dir } = await buildNative(name, 'native_tests')
  const { skip, under = [] } = kinds[name]
  // only what has a source: a build directory keeps programs of tests that are gone
  const programs = readdirSync(join(root, 'native/test'))
    .filter((file) => file.endsWith('_test.cc'))
    .map((file) => file.slice(0, -3))
    .filter((file) => !skip.test(file) && (only === undefined || file.includes(only)))
    .sort()
  const counts = []
  for (const program of programs) {
    const started = Date.now()
    const env = {
      ASAN_OPTIONS: 'handle_sigbus=0:detect_stack_use_after_return=1',
      UBSAN_OPTIONS: 'print_stacktrace=1',
      TSAN_OPTIONS: 'halt_on_error=1:second_deadlock_stack=1',
    }
    const [command, ...args] = [...under, join(dir, program)]
    const result = await run(command, args, { env, timeout, log: () => {} })
    const count = verdict(lastLine(result.output), result.code)
    counts.push(count)
    if (count.failed > 0) process.stderr.write(`${result.output.split('\n').slice(-60).join('\n')}\n`)
    say(
      `${program} (${name}): ${count.passed} passed, ${count.failed} failed, ${result.why}, ${seconds(started)} s`,
    )
  }
  return counts
}

if (process.argv[1] === import.meta.filename) {
  const [command, ...rest] = process.argv.slice(2)
  const at = rest.indexOf('--only')
  const only = at < 0 ? undefined : rest.splice(at, 2)[1]
  const names = rest.length > 0 ? rest : ['none', 'address', 'thread']
  if (!['build', 'test'].includes(command) || names.some((name) => !(name in kinds))) {
    console.error(
      'usage: node scripts/native.mjs build|test [none|address|thread|valgrind ...] [--only WORD]',
    )
    process.exit(2)
  }
  if (command === 'build') {
    for (const name of names) console.log((await buildNative(name)).addon)
  } else {
    const counts = []
    for (const name of names) counts.push(...(await testNative(name, only)))
    total(counts)
  }
}
