// The API tests over the addon that cmake-js built with AddressSanitizer and UBSan. Last line: N passed, M failed.
//   node scripts/vitest-asan.mjs [vitest arguments]
import { execFileSync } from 'node:child_process'
import { total, vitest } from './lib.mjs'
import { buildNative } from './native.mjs'

const { addon } = await buildNative('address', 'vmring')
// The runtime must come first in a process that was not linked with it; libstdc++ beside it, because the runtime looks up the
// function that throws when it starts, and Node's own copy is not visible to it.
const library = (name) => execFileSync('g++', [`-print-file-name=${name}`], { encoding: 'utf8' }).trim()
const args = process.argv.slice(2)
const projects = ['unit', 'conformance', 'api'].map((name) => `--project=${name}`)
total([
  await vitest(process.execPath, args.length > 0 ? args : projects, {
    name: 'vitest with ASan and UBSan',
    timeout: 900_000,
    env: {
      VMRING_ADDON: addon,
      LD_PRELOAD: ['libasan.so', 'libubsan.so', 'libstdc++.so.6'].map(library).join(' '),
      // Node itself never frees everything at exit; SIGBUS is ours to handle
      ASAN_OPTIONS: 'detect_leaks=0:handle_sigbus=0:abort_on_error=1',
      UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1',
    },
  }),
])
