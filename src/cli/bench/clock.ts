import { native } from '../../native/binding.js'

const { benchTime } = native

/**
 * Milliseconds, as performance.now(), of which it takes two thirds of the time: a round trip over shared memory lasts ten times as long as
 * reading the clock.
 */
export function clock(): number {
  native.benchClock()
  return benchTime[0]!
}
