import { defineConfig } from 'vitest/config'

// The real libraries over vmring: `npm run test:adapters`, and a step of `.ci/run`. Not part of `npm test`, because they need
// Redis, PostgreSQL and openssl.
export default defineConfig({
  test: {
    name: 'adapters',
    include: ['test/adapters/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 60_000,
    teardownTimeout: 20_000,
  },
})
