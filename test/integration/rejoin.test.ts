// The daemon dies and is started again: channels in its old region go on, processes join the new one by themselves.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { hostStatus } from '../../src/host/admin-client.js'
import { attach, type Channel, type Peer } from '../../src/index.js'
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
    expect(performance.now() - started).toBeLessThan(2000)
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
