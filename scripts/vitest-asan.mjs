// The API tests over the addon that cmake-js built with AddressSanitizer and UBSan. Last line: N passed, M failed.
//   node scripts/vitest-asan.mjs [vitest arguments]
import { total, vitest } from './lib.mjs'
import { buildNative, sanitized } from './native.mjs'

const { addon } = await buildNative('address', 'vmring')
const args = process.argv.slice(2)
const projects = ['unit', 'conformance', 'api'].map((name) => `--project=${name}`)
total([
  await vitest(process.execPath, args.length > 0 ? args : projects, {
    name: 'vitest with ASan and UBSan',
    timeout: 900_000,
    env: sanitized(addon),
  }),
])
