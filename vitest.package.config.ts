import { defineConfig } from 'vitest/config'

// Tests of the tarball that `npm run prebuild` makes: `npm run test:prebuilt`. Not part of `npm test`, because the first build with
// zig takes minutes and 1.3 GB of compilers and Nodes.
export default defineConfig({
  test: {
    name: 'package',
    include: ['test/package/**/*.test.ts'],
    pool: 'forks',
    fileParallelism: false,
    // each is an interpreter that fills a processor
    maxConcurrency: 2,
    testTimeout: 240_000,
    hookTimeout: 600_000,
    teardownTimeout: 30_000,
  },
})
