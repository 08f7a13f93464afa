import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

// Whose guests take longest; with one of these last, a processor would stand still meanwhile.
const first = ['nested', 'life', 'cat', 'vsock', 'net', 'bench']
const rank = ({ moduleId }: TestSpecification) => {
  const at = first.findIndex((name) => moduleId.endsWith(`/${name}.test.ts`))
  return at < 0 ? first.length : at
}

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return files.sort((a, b) => rank(a) - rank(b) || a.moduleId.localeCompare(b.moduleId))
  }
}

// Tests that boot real guests: `npm run test:vm`, and the last step of `.ci/run`. Not part of `npm test`, because they
// need QEMU and take minutes. Two files at a time: a guest waits more than it works.
export default defineConfig({
  test: {
    name: 'vm',
    include: ['test/vm/**/*.test.ts'],
    sequence: { sequencer: LongestFirst },
    pool: 'forks',
    execArgv: ['--expose-gc'],
    maxWorkers: 2,
    testTimeout: 300_000,
    hookTimeout: 300_000,
    teardownTimeout: 30_000,
  },
})
