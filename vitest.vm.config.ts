import { defineConfig } from 'vitest/config'

// Tests that boot real guests: `npm run test:vm`, and the last step of `npm run ci`. Not part of `npm test`, because they
// need QEMU and take minutes.
export default defineConfig({
  test: {
    name: 'vm',
    include: ['test/vm/**/*.test.ts'],
    pool: 'forks',
    execArgv: ['--expose-gc'],
    fileParallelism: false,
    testTimeout: 240_000,
    hookTimeout: 300_000,
    teardownTimeout: 30_000,
  },
})
