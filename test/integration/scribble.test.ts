/**
 * A region that somebody scribbles over, beside one in peace and the relay of the same daemon: the short form of
 * `node scripts/long/scribble.mjs`. Needs what `npm test` builds.
 */
import { expect, test } from 'vitest'
import { scribble } from '../hostile/scribble.mjs'

// one that only a formatter writes, one of every process, one of every channel; .ci/run has all of them, with sanitizers
const AREAS = ['table', 'control', 'records']

test('scribbling over a region: typed errors there, nothing elsewhere, and then it serves again', async () => {
  const results = await scribble({ areas: AREAS, seconds: 1.5, seed: Date.now() % 2 ** 32 })
  for (const result of results) {
    expect(result.failures, JSON.stringify(result)).toEqual([])
    expect(result.lies, JSON.stringify(result)).toBeGreaterThan(0)
    expect(result.messages, JSON.stringify(result)).toBeGreaterThan(0)
    for (const count of Object.values(result.elsewhere)) expect(count).toBeGreaterThan(20)
  }
  expect(results.map(({ area }) => area)).toEqual(AREAS)
}, 300_000)
