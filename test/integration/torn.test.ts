/** The short form of `node scripts/long/torn.mjs`. */
import { expect, test } from 'vitest'
import { torn } from '../hostile/torn.mjs'

test('texts, JSON and clones that the other side changes while they are decoded: what was there at some moment', async () => {
  for (const result of await torn({ seconds: 1 })) {
    expect(result.failures, JSON.stringify(result)).toEqual([])
    expect(result.changed, JSON.stringify(result)).toBeGreaterThan(0)
    expect(result.checked, JSON.stringify(result)).toBeGreaterThan(0)
  }
}, 200_000)
