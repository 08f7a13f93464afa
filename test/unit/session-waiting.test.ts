/** connect() with `wait`, while nobody listens: it asks now and then, and not as fast as it is answered. */
import { afterEach, expect, test } from 'vitest'
import type { Dialer } from '../../src/session/dialer.js'
import { FaultPlan, memoryRig, type Rig } from '../support/memory-path.js'

let rig: Rig
afterEach(() => rig.close())

const calm = { retryFirst: 100, retryMax: 1000 }
const WAIT_MS = 1500

/** Frames that go both ways while connect() waits in vain. */
async function waitInVain(): Promise<number> {
  await expect.poll(() => [...rig.a.hub.remotes.values()].map(({ known }) => known)).toEqual([true])
  const before = rig.plan.frames
  const waited = rig.a.peer.connect('nobody', { wait: WAIT_MS })
  await expect(waited).rejects.toMatchObject({ code: 'ECONNREFUSED' })
  return rig.plan.frames - before
}

test('neither the other side nor the relay is asked without a pause', async () => {
  rig = memoryRig(new FaultPlan(), { timing: calm })
  rig.link('mem1', rig.plan, true)
  let asked = 0
  const dialer: Partial<Dialer> = {
    names: ['unix'],
    dialService: async () => {
      asked++
      throw new Error('nobody listens')
    },
    unlisten() {},
  }
  rig.a.hub.dialer = dialer as Dialer
  // a question and its answer every quarter of a second
  expect(await waitInVain()).toBeLessThan(40)
  expect(asked).toBeGreaterThan(1)
  expect(asked).toBeLessThanOrEqual(8)
})

test('whoever has not answered yet is asked at the growing intervals only', async () => {
  rig = memoryRig(new FaultPlan(), { timing: calm })
  rig.link('mem1', rig.plan, true)
  await expect.poll(() => [...rig.b.hub.remotes.values()].map(({ known }) => known)).toEqual([true])
  let left = Number.POSITIVE_INFINITY
  rig.plan.take = () => {
    rig.plan.frames++
    return left-- > 0 ? null : 'drop'
  }
  // the first question and its answer, then nothing arrives: 100, 200, 400 ms apart
  left = 2
  expect(await waitInVain()).toBeLessThanOrEqual(8)
})

test('who begins to listen meanwhile is found at once', async () => {
  rig = memoryRig(new FaultPlan(), { timing: calm })
  rig.link('mem1', rig.plan, true)
  const connecting = rig.a.peer.connect('late', { wait: 20_000 })
  await new Promise((resolve) => setTimeout(resolve, 300))
  await rig.b.peer.listen('late')
  expect((await connecting).closed).toBeInstanceOf(Promise)
})
