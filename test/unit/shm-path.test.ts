import { expect, test, vi } from 'vitest'
import { native } from '../../src/native/binding.js'
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

test('an end is made ahead while channels are opened in a row, given up for one that finds no room, and not kept', async () => {
  let free = 4
  let made = 0
  const createEnd = (_section: number, capacity: number) => {
    if (free === 0) throw new Error('full')
    free--
    return { id: made++, offer: { capacity, tag: made, ringOffset: 0, readerOffset: 0, bell: 0 } }
  }
  const destroyed = vi.spyOn(native, 'endDestroy').mockImplementation(() => {
    free++
  })
  try {
    const network = {
      peer: { createEnd },
      region: { buffer: new ArrayBuffer(0) },
      countEnd: () => {},
      dropSpares: () => path.dropSpare(),
    }
    const remote = { uuid: new Uint8Array(16), incarnation: 1, section: 1, stalled: false, peerId: 1, pid: 1 }
    const path = new ShmPath(network as unknown as ShmNetwork, remote)
    const open = (capacity: number) => path.createEnd({ channel: new Uint8Array(24), epoch: 0, capacity })
    const now = vi.spyOn(performance, 'now').mockReturnValue(0)
    expect(open(16384).id).toBe(0)
    path.prepare(16384) // one alone
    expect(made).toBe(1)
    now.mockReturnValue(5)
    expect(open(16384).id).toBe(1)
    path.prepare(16384)
    path.prepare(16384)
    expect(made).toBe(3)
    expect(open(16384).id).toBe(2)
    path.prepare(16384)
    expect({ made, free }).toEqual({ made: 4, free: 0 })
    // another size: the one that is there is no use
    expect(open(4096).id).toBe(4)
    expect({ free, destroyed: destroyed.mock.calls }).toEqual({ free: 0, destroyed: [[3]] })
    path.prepare(4096) // no room, and nobody hears of it
    expect(() => open(4096)).toThrow('full')
    free = 1
    open(4096)
    free = 1
    path.prepare(4096)
    expect(free).toBe(0)
    const other = new ShmPath(network as unknown as ShmNetwork, { ...remote, section: 2 })
    other.createEnd({ channel: new Uint8Array(24), epoch: 0, capacity: 65536 })
    expect(free).toBe(0)
    free = 1
    path.prepare(4096)
    expect(free).toBe(0)
    now.mockRestore()
    await until(() => free === 1, 5000)
  } finally {
    vi.restoreAllMocks()
  }
})
