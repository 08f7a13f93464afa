// The core's C++ tests as arm64 programs, interpreted by qemu-user: what they find there is alignment, sizes, char that is
// unsigned, code that only one compiler takes. Orders of memory it does not show: the interpreter runs on this processor, and
// keeps its order. The explorer and the model checkers are for those.
//   node scripts/native-arm64.mjs [--all] [--only WORD]      last line: N passed, M failed
// Without --all the ones that take seconds. Needs Debian's g++-aarch64-linux-gnu and qemu-user-static.
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fingerprint, isFresh, markFresh } from './fresh.mjs'
import { lastLine, root, run, say, seconds, total, verdict } from './lib.mjs'

const compiler = 'aarch64-linux-gnu-g++'
const interpreter = 'qemu-aarch64-static'
/** Of an interpreter some twenty times slower than the processor. */
const QUICK = ['allocator', 'control_ring', 'large', 'record', 'region', 'section', 'wake']
// it needs uv.h for arm64; what it tests is the operating system's side
const NOT_CORE = ['ivshmem_client']

const args = process.argv.slice(2)
const all = args.includes('--all')
const at = args.indexOf('--only')
const only = at < 0 ? '' : args[at + 1]
const out = join(root, 'build-arm64')
mkdirSync(out, { recursive: true })

for (const [tool, from] of [
  [compiler, 'g++-aarch64-linux-gnu'],
  [interpreter, 'qemu-user-static'],
]) {
  if ((await run(tool, ['--version'], { log: () => {} })).code === 0) continue
  say(`${tool} is missing: apt-get install ${from}`)
  console.log('0 passed, 1 failed')
  process.exit(1)
}

const names = readdirSync(join(root, 'native/test'))
  .filter((file) => file.endsWith('_test.cc'))
  .map((file) => file.slice(0, -'_test.cc'.length))
  .filter((name) => !NOT_CORE.includes(name) && (all || QUICK.includes(name)) && name.includes(only))
  .sort()
const counts = []

async function perform(name) {
  const started = Date.now()
  const program = join(out, name)
  const stamp = `${program}.stamp`
  const wanted = fingerprint(
    ['native/core', `native/test/${name}_test.cc`, 'native/test'],
    /\.hpp$|_test\.cc$/,
    compiler,
  )
  if (!isFresh(stamp, wanted) || !existsSync(program)) {
    // one file, with all libraries in it: nothing of another machine has to be found when it runs
    const flags = [
      '-std=c++20',
      '-O1',
      '-static',
      '-pthread',
      '-Wall',
      '-Wextra',
      '-Wshadow',
      '-Inative',
      '-Inative/test',
    ]
    const built = await run(compiler, [...flags, `native/test/${name}_test.cc`, '-o', program], {
      log: () => {},
    })
    if (built.code !== 0 || /\bwarning:/.test(built.output)) {
      say(`${name}: ${built.output.split('\n').slice(0, 20).join('\n')}`)
      counts.push({ passed: 0, failed: 1 })
      return
    }
    markFresh(stamp, wanted, [program.slice(root.length + 1)])
  }
  const compiled = Date.now()
  const result = await run(interpreter, [program], { timeout: 1_200_000, log: () => {} })
  const count = verdict(lastLine(result.output), result.code)
  if (count.failed > 0) say(result.output.split('\n').slice(-40).join('\n'))
  counts.push(count)
  const times = `${((compiled - started) / 1000).toFixed(1)} s to compile, ${seconds(compiled)} s to run`
  say(`${name} (arm64): ${count.passed} passed, ${count.failed} failed, ${result.why}, ${times}`)
}

const waiting = [...names]
const lane = async () => {
  for (let name = waiting.shift(); name !== undefined; name = waiting.shift()) await perform(name)
}
await Promise.all([lane(), lane()])
total(counts)
