import { defineConfig } from 'vitest/config'

// Tests import the TypeScript sources; the programs they spawn run from dist/, which `npm test` builds first.
// `api` is what `npm run test:nodes` and the sanitizer run repeat beside `unit` and `conformance`.
const apiTests = 'test/integration/**/*api*.test.ts'

function project(name: string, include: string[], exclude: string[] = []) {
  return { extends: true as const, test: { name, include, exclude } }
}

export default defineConfig({
  test: {
    pool: 'forks',
    // most tests wait for other processes
    maxWorkers: 2,
    // garbage collection is something that tests ask for by name
    execArgv: ['--expose-gc'],
    // attach() without a region must not look for the relay of the machine that runs the tests
    env: { VMRING_RELAY: 'none' },
    testTimeout: 60_000,
    hookTimeout: 60_000,
    teardownTimeout: 20_000,
    projects: [
      project('unit', ['test/unit/**/*.test.ts']),
      project('explore', ['test/explore/**/*.test.ts']),
      project('conformance', ['test/conformance/**/*.test.ts']),
      project('api', [apiTests]),
      project('integration', ['test/integration/**/*.test.ts'], [apiTests]),
    ],
  },
})
