import { expect, test } from 'vitest'
import { type ShmNetwork, ShmPath } from '../../src/path/shm.js'
import { until } from '../support/processes.js'

test('what waits for room in the control ring is not put behind itself when it is repeated', async () => {
  const sent: Uint8Array[] = []
  let room = 0
  const sendControl = (_section: number, frame: Uint8Array): boolean => {
    if (room === 0) return false
    room--
    sent.push(frame)
    return true
  }
  const network = { peer: { sendControl } } as unknown as ShmNetwork
  const remote = { uuid: new Uint8Array(16), incarnation: 1, section: 1, stalled: false, peerId: 1, pid: 1 }
  const path = new ShmPath(network, remote)
  const [first, second] = [Uint8Array.of(1), Uint8Array.of(2)]
  for (let i = 0; i < 3; i++) for (const frame of [first, second]) path.send(frame)
  room = 1
  await until(() => sent.length === 1, 5000)
  path.send(first) // it has left: this may have been lost
  room = 10
  await until(() => sent.length === 3, 5000)
  path.send(second)
  expect(sent).toEqual([first, second, first, second])
})
