import { defineConfig } from 'vitest/config'

// Tests that boot real guests: `npm run test:vm`, and the last step of `.ci/run`. Not part of `npm test`, because they
// need QEMU and take minutes. Two files at a time: a guest waits more than it works.
export default defineConfig({
  test: {
    name: 'vm',
    include: ['test/vm/**/*.test.ts'],
    pool: 'forks',
    execArgv: ['--expose-gc'],
    maxWorkers: 2,
    testTimeout: 300_000,
    hookTimeout: 300_000,
    teardownTimeout: 30_000,
  },
})
