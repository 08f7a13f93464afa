/** What one process can make another spend: each limit is reached, told to the one who reached it, and counted for the operator. */
import { expect, onTestFinished, test } from 'vitest'
import { hostStatus } from '../../src/host/admin-client.js'
import { attach, type Channel, type Peer } from '../../src/index.js'
import { native } from '../../src/native/binding.js'
import { connectIvshmem } from '../../src/path/ivshmem-client.js'
import { sleep, startDaemon, until, vmring } from '../support/processes.js'
import { remote } from '../support/remote.js'

async function two(region: string, limits: object): Promise<[Peer, Peer]> {
  const limited = await attach({ region, relay: 'none', limits })
  const other = await attach({ region, relay: 'none' })
  onTestFinished(() => Promise.all([limited.close(), other.close()]).then(() => {}))
  return [limited, other]
}

const limit = { code: 'ERR_VMRING_LIMIT' }

test('channels of one process, rings, and channels that wait to be taken', async () => {
  const { region, socket } = await startDaemon(['--no-relay', '--size', '16M', '--sections', '4'])
  const [limited, other] = await two(region, { channelsPerPeer: 3, ringBytes: 100_000 })
  const server = await limited.listen('few')
  server.on('channel', () => {})
  await limited.listen('nobody takes them', { backlog: 1 })
  const open: Channel[] = []
  // larger than allowed: the other side says what would do
  open.push(await other.connect('few', { wait: 5000, ringSize: 2 ** 20 }))
  expect(open[0]!.inlineLimit).toBe(65_536 / 4)
  open.push(await other.connect('nobody takes them'))
  await expect(other.connect('nobody takes them')).rejects.toMatchObject(limit)
  open.push(await other.connect('few'))
  await expect(other.connect('few')).rejects.toMatchObject(limit)
  await open.pop()!.close()
  open.push(await other.connect('few'))

  const counted = async () =>
    (await hostStatus(socket)).peers.find((peer) => peer.section === limited.section)?.report?.limits
  await until(async () => {
    const { channels = 0, ringBytes = 0, waiting = 0 } = (await counted()) ?? {}
    return channels > 0 && ringBytes > 0 && waiting > 0
  }, 10_000)
  const { text } = await vmring(['ls', '--socket', socket])
  expect(text).toMatch(/limit reached: channels of one process +\d+ times/)
})

test('limits that are none are refused', async () => {
  const { region } = await startDaemon(['--no-relay', '--size', '1M', '--sections', '2'])
  for (const limits of [{ channelsPerPeer: 0 }, { ringBytes: 12 }, { channelsPerPeer: 1.5 }])
    await expect(attach({ region, relay: 'none', limits })).rejects.toMatchObject({
      code: 'ERR_VMRING_ARGUMENT',
    })
})

test('doorbells without end are not listened to: an idle process stays nearly idle, and is still reached', async () => {
  const { region, socket } = await startDaemon(['--no-relay', '--size', '4M', '--sections', '4'])
  const rung = await remote<{ peer: Peer }>()
  await rung.run(async ({ vmring, state }, address) => {
    state.peer = await vmring.attach({ region: address, relay: 'none' })
    const server = await state.peer.listen('echo')
    server.on('channel', (channel) => channel.on('message', (message) => void channel.send(message.copy())))
  }, region)
  const counters = () => rung.run(({ state }) => state.peer.counters()!)
  const other = await attach({ region, relay: 'none' })
  onTestFinished(() => other.close())
  const channel = await other.connect('echo', { wait: 5000 })
  let answers = 0
  channel.on('message', () => {
    answers++
  })
  const hostile = await connectIvshmem(socket)
  onTestFinished(() => hostile.close())
  const bells: number[] = []
  hostile.start({
    onJoin: (_id, vector, fd) => {
      if (vector === 0) bells.push(fd)
    },
    onLeave() {},
    onLost() {},
  })
  await until(() => bells.length >= 2)
  const before = await counters()
  let asked = 0
  let muted = false
  const end = performance.now() + 30_000
  for (let turn = 0; !muted && performance.now() < end; turn++) {
    for (let i = 0; i < 500; i++) native.eventfdSignal(bells[i % bells.length]!)
    if (answers === asked) {
      channel.trySend(Buffer.from('still there'))
      asked++
    }
    await new Promise(setImmediate)
    if (turn % 500 === 499) muted = (await counters()).muted > before.muted
  }
  expect(muted).toBe(true)
  await until(() => answers === asked)
  expect(asked).toBeGreaterThan(5)
  // once it is over, a doorbell is a doorbell again
  await sleep(100)
  const calm = (await counters()).muted
  for (let i = 0; i < 20; i++) {
    channel.trySend(Buffer.from('again'))
    asked++
    await until(() => answers === asked)
  }
  expect((await counters()).muted).toBe(calm)
})
