/** Every kind of fault at every step of a channel's life: the oracle must not notice. */
import { expect, test } from 'vitest'
import { type Life, live } from '../support/lives.js'
import {
  type Fault,
  type FaultKind,
  FaultPlan,
  memoryRig,
  randomFaults,
  shrink,
} from '../support/memory-path.js'
import { SLOW } from '../support/slow.js'

const AT_ONCE = Math.ceil(12 / SLOW)

async function run(life: Life, faults: Fault[], wires: string[]): Promise<number> {
  const plan = new FaultPlan(faults)
  const rig = memoryRig(plan)
  try {
    for (const name of wires) rig.link(name)
    await live(rig, life)
  } finally {
    await rig.close()
  }
  return plan.frames
}

/** Runs the life once without a fault, to count its frames, and then once for each frame with the fault just there. */
async function everyStep(life: Life, kind: FaultKind, wires: string[]): Promise<number> {
  const frames = await run(life, [], wires)
  const failures: string[] = []
  let next = 0
  const worker = async (): Promise<void> => {
    while (next < frames + 4 && failures.length < 5) {
      const at = next++
      try {
        await run({ ...life, movesMayFail: kind === 'cut' }, [{ at, kind }], wires)
      } catch (error) {
        failures.push(`${kind} at frame ${at} of ${frames}: ${(error as Error).stack}`)
      }
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
  expect(failures).toEqual([])
  return frames
}

const plain: Life = { messages: 14 }
const moving: Life = {
  messages: 14,
  movesA: { 3: 'mem2', 9: 'mem1' },
  movesB: { 6: 'mem2', 9: 'mem2' },
  holdEvery: 5,
  leaseEvery: 4,
}
const leased: Life = {
  messages: 10,
  leaseEvery: 2,
  holdEvery: 2,
  movesA: { 1.5: 'mem2', 5.5: 'mem1' },
  movesB: { 3.5: 'mem1' },
}

const lossless: FaultKind[] = ['drop', 'delay', 'duplicate', 'reorder']

for (const kind of lossless) {
  test(`open, exchange, half-close, close: ${kind} at every step`, async () => {
    expect(await everyStep(plain, kind, ['mem1'])).toBeGreaterThan(30)
  })
  test(`close() on one side: ${kind} at every step`, async () => {
    await everyStep({ messages: 4, close: 'a' }, kind, ['mem1'])
    await everyStep({ messages: 4, close: 'b' }, kind, ['mem1'])
  })
}

for (const kind of [...lossless, 'cut'] as FaultKind[]) {
  test(`path changes from both sides at once: ${kind} at every step`, async () => {
    await everyStep(moving, kind, ['mem1', 'mem2'])
  })
  test(`leases held across path changes: ${kind} at every step`, async () => {
    await everyStep(leased, kind, ['mem1', 'mem2'])
  })
}

test('the wire dies at every step and the other one takes over', async () => {
  await everyStep(plain, 'cut', ['mem1', 'mem2'])
})

test('many faults at once, from seeds; a failure is cut down to the faults that matter', async () => {
  for (let seed = 1; seed <= 24; seed++) {
    const faults = randomFaults(seed, 600, 0.12, lossless)
    const fails = async (some: Fault[]): Promise<boolean> => {
      try {
        await run({ ...moving, messages: 40 }, some, ['mem1', 'mem2'])
        return false
      } catch {
        return true
      }
    }
    if (await fails(faults)) {
      const least = await shrink(faults, fails)
      throw new Error(`seed ${seed} fails with ${JSON.stringify(least)}`)
    }
  }
})
