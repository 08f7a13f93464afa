// The daemon dies and is started again: channels in its old region go on, processes join the new one by themselves.
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { hostStatus } from '../../src/host/admin-client.js'
import { attach, type Channel, type Message, type Peer } from '../../src/index.js'
import { remote } from '../support/remote.js'
import { Daemon } from '../vm/ring.js'

let folder: string
let daemon: Daemon
const peers: Peer[] = []

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'vmring-rejoin-'))
  daemon = await Daemon.start(join(folder, 'socket'), '--size', '16M')
})

afterEach(async () => {
  await Promise.all(peers.splice(0).map((peer) => peer.close()))
  await daemon.kill()
  rmSync(folder, { recursive: true, force: true })
})

async function join2(): Promise<[Peer, Peer]> {
  const two = [
    await attach({ region: `unix:${daemon.socket}` }),
    await attach({ region: `unix:${daemon.socket}` }),
  ]
  peers.push(...two)
  return two as [Peer, Peer]
}

async function echo(peer: Peer, service: string): Promise<void> {
  const server = await peer.listen(service)
  server.on('channel', (channel: Channel) => {
    channel.on('message', (message) => channel.send(message.copy()))
  })
}

async function answers(channel: Channel, text: string): Promise<boolean> {
  const answer = new Promise<string>((resolve) =>
    channel.once('message', (message) => resolve(message.text())),
  )
  await channel.send(Buffer.from(text))
  return (await answer) === text
}

const rejoined = (peer: Peer) => new Promise<void>((resolve) => peer.once('rejoined', () => resolve()))

/** The regions that this process has mapped: their inodes, and how many mappings each has. */
function mapped(): Map<string, number> {
  const regions = new Map<string, number>()
  for (const line of readFileSync(`/proc/${process.pid}/maps`, 'utf8').split('\n')) {
    const inode = /^\S+ rw-s \S+ \S+ (\d+) +\/memfd:vmring/.exec(line)?.[1]
    if (inode !== undefined) regions.set(inode, (regions.get(inode) ?? 0) + 1)
  }
  return regions
}

async function restart(...both: Peer[]): Promise<void> {
  await daemon.kill('SIGKILL')
  const joined = Promise.all(both.map(rejoined))
  await daemon.start()
  await joined
}

const SETTLED = { timeout: 20_000, interval: 100 }

it('channels go on without the daemon, and new ones can be opened', async () => {
  const [one, two] = await join2()
  await echo(two, 'echo')
  const channel = await one.connect('echo', { wait: 5000 })
  channel.on('message', () => {})
  const lost = new Promise<Error>((resolve) => one.once('lost', resolve))
  await daemon.kill('SIGKILL')
  expect((await lost) as Error & { code?: string }).toMatchObject({ code: 'ERR_VMRING_SERVER_CLOSED' })
  expect(await answers(channel, 'still here')).toBe(true)
  const later = await one.connect('echo')
  expect(await answers(later, 'me too')).toBe(true)
})

it('processes join again within two seconds; old channels stay, new ones are in the new region', async () => {
  const [one, two] = await join2()
  await echo(two, 'echo')
  const old = await one.connect('echo', { wait: 5000 })
  old.on('message', () => {})
  for (let round = 1; round <= 3; round++) {
    await daemon.kill('SIGKILL')
    const both = Promise.all([rejoined(one), rejoined(two)])
    await daemon.start()
    const started = performance.now()
    await both
    // two seconds, five times over for a machine with other work; scripts/long/restart.mjs measures it
    expect(performance.now() - started).toBeLessThan(10_000)
    const { region, peers: known } = await hostStatus(daemon.socket)
    expect(known).toHaveLength(2)
    expect(region.freeSections).toBe(region.sections - 2)
    expect(await answers(old, `round ${round}`)).toBe(true)
    // a newcomer is in the new region only
    const newcomer = await attach({ region: `unix:${daemon.socket}` })
    const channel = await newcomer.connect('echo', { wait: 5000 })
    expect(await answers(channel, 'new')).toBe(true)
    const back = await newcomer.listen('newcomer')
    await expect.poll(() => one.peers().some(({ services }) => services.includes('newcomer'))).toBe(true)
    await back.close()
    await channel.close()
    await newcomer.close()
    await expect.poll(() => one.peers().length).toBe(1)
    expect(await answers(await one.connect('echo'), 'between the old ones')).toBe(true)
  }
  await one.close()
  const { region } = await hostStatus(daemon.socket)
  await expect
    .poll(async () => (await hostStatus(daemon.socket)).region.freeSections)
    .toBe(region.sections - 1)
  expect(await old.closed).toBeInstanceOf(Error)
})

it('a former region is let go of with its last channel and lease', async () => {
  const [one, two] = await join2()
  await echo(two, 'echo')
  const old = await one.connect('echo', { wait: 5000 })
  const kept = new Promise<Message>((resolve) => old.once('message', (message) => resolve(message.retain())))
  await old.send(Buffer.from('held'))
  const message = await kept
  const [former] = [...mapped().keys()]
  expect(mapped()).toEqual(new Map([[former, 2]]))

  await restart(one, two)
  const later = await one.connect('echo')
  later.on('message', () => {})
  expect(mapped().get(former!)).toBe(2) // a channel
  await old.close()
  await sleep(3500)
  expect(mapped().get(former!)).toBe(2) // a lease, and its outbox on the other side
  expect(message.text()).toBe('held')
  message.release()
  await expect.poll(() => [mapped().has(former!), mapped().size], SETTLED).toEqual([false, 1])

  // that the other has left the former region is no word about the process
  expect(await answers(later, 'still the same')).toBe(true)
  expect(one.peers()).toMatchObject([{ uuid: two.uuid, section: two.section }])
  await restart(one, two) // with channels open in the region that is now the former one
  await later.close()
  await expect.poll(() => mapped().size, SETTLED).toBe(1)
  expect(await answers(await one.connect('echo'), 'third region')).toBe(true)
})

it('a former region without channels stays for whoever is reached there alone', async () => {
  const [one] = await join2()
  const link = join(folder, 'link') // a process that does not find the new daemon, as a guest does not
  symlinkSync(daemon.socket, link)
  const before = await attach({ region: `unix:${link}` })
  peers.push(before)
  await echo(before, 'before')
  rmSync(link)
  await restart(one, peers[1]!)
  await sleep(3500)
  expect([...mapped().values()].sort()).toEqual([2, 3])
  const channel = await one.connect('before', { wait: 5000 })
  expect(await answers(channel, 'across')).toBe(true)
  await channel.close()
  await before.close()
  await expect.poll(() => [...mapped().values()], SETTLED).toEqual([2])
})

it.each(['none', 'relay'])(
  'a process that is killed in the new region has gone from the former too (%s)',
  async (relay) => {
    const [one] = await join2()
    const how = relay === 'none' ? 'none' : `unix:${daemon.socket}.relay`
    const victim = await remote<{ peer: Peer }>()
    const begin = async (service: string) =>
      await victim.run(
        async ({ vmring, state, tell }, region, given, name) => {
          state.peer ??= await vmring.attach({ region, relay: given })
          state.peer.once('rejoined', () => tell('rejoined'))
          const server = await state.peer.listen(name)
          server.on('channel', (channel) =>
            channel.on('message', (message) => void channel.send(message.copy())),
          )
        },
        `unix:${daemon.socket}`,
        how,
        service,
      )
    const survivor = relay === 'none' ? one : await attach({ region: `unix:${daemon.socket}`, relay: how })
    if (survivor !== one) peers.push(survivor)
    await begin('victim')
    const old = await survivor.connect('victim', { wait: 5000 })
    old.on('message', () => {})
    await restart(survivor)
    await victim.next()
    const later = await survivor.connect('victim', { wait: 5000 })
    later.on('message', () => {})
    expect([await answers(old, 'in the former'), await answers(later, 'in the new')]).toEqual([true, true])
    if (relay === 'relay') {
      // who has met it in the new region only reaches it over the relay too
      const newcomer = await attach({ region: `unix:${daemon.socket}`, relay: how })
      peers.push(newcomer)
      const channel = await newcomer.connect('victim', { wait: 5000 })
      channel.on('message', () => {})
      await expect.poll(() => channel.usePath('unix').then(() => channel.path, String), SETTLED).toBe('unix')
      expect(await answers(channel, 'over the relay')).toBe(true)
    }
    const killed = performance.now()
    victim.signal('SIGKILL')
    for (const channel of [old, later])
      expect(await channel.closed).toMatchObject({ code: 'ERR_VMRING_PEER_GONE' })
    expect(performance.now() - killed).toBeLessThan(10_000)
  },
)

it('memory that the application still looks at stays when its process is gone', async () => {
  const [one, two] = await join2()
  const server = await one.listen('sink')
  const kept = new Promise<Message>((resolve) => {
    server.on('channel', (channel: Channel) => {
      channel.once('message', (message) => resolve(message.retain()))
    })
  })
  const channel = await two.connect('sink', { wait: 5000 })
  await channel.send(Buffer.from('left behind'))
  const message = await kept
  await restart(one, two)
  await two.close()
  await expect.poll(() => one.peers(), SETTLED).toEqual([])
  await sleep(3500)
  expect(message.text()).toBe('left behind')
  message.release()
})
