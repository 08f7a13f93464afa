/**
 * How many times slower than a real processor the one is that runs the tests: VMRING_TEST_SLOW, for one that a program
 * interprets. What tests wait for, and how long at most, grows with it.
 */
export const SLOW = Number(process.env.VMRING_TEST_SLOW ?? 1)

export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms * SLOW))
}
