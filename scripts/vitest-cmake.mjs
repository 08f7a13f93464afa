// The API tests over the plain addon that cmake-js builds, so that both builds are known to be the same thing.
import { total, vitest } from './lib.mjs'
import { buildNative } from './native.mjs'

const { addon } = await buildNative('none', 'vmring')
const projects = ['conformance', 'api'].map((name) => `--project=${name}`)
total([
  await vitest(process.execPath, projects, {
    name: 'vitest, addon by cmake-js',
    env: { VMRING_ADDON: addon },
  }),
])
