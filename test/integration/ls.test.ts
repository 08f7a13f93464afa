import { join } from 'node:path'
import { expect, test } from 'vitest'
import { askHost, type HostStatus } from '../../src/host/admin-client.js'
import { scratch, startDaemon, until, vmring } from '../support/processes.js'
import { remote } from '../support/remote.js'

interface State {
  peer: import('../../src/index.js').Peer
  channel: import('../../src/index.js').Channel
}

const list = async (...args: string[]) =>
  JSON.parse((await vmring(['ls', '--json', ...args])).text) as HostStatus[]

test('lists the processes of several daemons, and joins nothing', async () => {
  const [a, b] = await Promise.all([
    startDaemon(['--size', '4M', '--sections', '4']),
    startDaemon(['--size', '2M']),
  ])
  const member = await remote<State>()
  await member.run(async ({ vmring, state }, region) => {
    state.peer = await vmring.attach({ region })
  }, a.region)

  const regions = await list('--socket', a.socket, '--socket', b.socket)
  expect(regions).toMatchObject([
    { socket: a.socket, pid: a.process.pid, region: { size: 4 * 2 ** 20, sections: 4, freeSections: 3 } },
    {
      socket: b.socket,
      pid: b.process.pid,
      region: { size: 2 * 2 ** 20, sections: 16, freeSections: 16 },
      peers: [],
    },
  ])
  expect(regions[0]!.peers).toMatchObject([{ pid: member.pid, uid: process.getuid!() }])
  // asking took no id
  expect(regions[0]!.counters.joins).toBe(1)

  const { code, text } = await vmring(['ls', '--socket', a.socket])
  expect(code).toBe(0)
  expect(text).toContain(`unix:${a.socket}`)
  expect(text).toContain(String(member.pid))

  await member.run(({ state }) => state.peer.close())
  await until(async () => (await list('--socket', a.socket))[0]!.peers.length === 0)
  expect((await vmring(['ls', '--socket', a.socket])).text).toContain('nobody has joined')
})

test('VMRING_SOCKET names the usual daemon', async () => {
  const daemon = await startDaemon()
  const { code, text } = await vmring(['ls'], { env: { VMRING_SOCKET: daemon.socket } })
  expect(code).toBe(0)
  expect(text).toContain(daemon.socket)
})

test('no daemon: says which command starts one, and shows those that are there all the same', async () => {
  const daemon = await startDaemon()
  const missing = join(scratch(), 'none.sock')
  const { code, text, stderr } = await vmring(['ls', '--socket', missing, '--socket', daemon.socket])
  expect(code).toBe(1)
  expect(text).toContain(daemon.socket)
  expect(stderr).toContain(`vmring host --socket ${missing}`)
  expect(stderr).toContain('(ENOENT)')
})

test('shows services and channels, as the processes tell them', async () => {
  const daemon = await startDaemon()
  const [server, client] = await Promise.all([remote<State>(), remote<State>()])
  await server.run(async ({ vmring, state }, region) => {
    state.peer = await vmring.attach({ region })
    await state.peer.listen('orders')
    await state.peer.listen('prices')
  }, daemon.region)
  await client.run(async ({ vmring, state }, region) => {
    state.peer = await vmring.attach({ region })
    state.channel = await state.peer.connect('orders', { wait: 10_000 })
  }, daemon.region)
  const reports = async () => {
    const [status] = await list('--socket', daemon.socket)
    const of = (pid: number) => status!.peers.find((peer) => peer.pid === pid)
    return { server: of(server.pid), client: of(client.pid) }
  }
  await until(
    async () => (await reports()).client?.report?.channels.length === 1,
    20_000,
    'the channel is listed',
  )
  const { server: left, client: right } = await reports()
  expect(left!.report).toMatchObject({
    services: ['orders', 'prices'],
    channels: [{ service: 'orders', section: right!.section, path: 'shm', initiator: false }],
  })
  expect(right!.report).toMatchObject({
    services: [],
    channels: [{ service: 'orders', section: left!.section, path: 'shm', initiator: true }],
  })
  expect(right!.report!.channels[0]!.id).toBe(left!.report!.channels[0]!.id)

  const { text } = await vmring(['ls', '--socket', daemon.socket])
  expect(text).toMatch(new RegExp(`service prices +process ${server.pid}`))
  expect(text).toMatch(new RegExp(`channel to orders +process ${client.pid} +→ process ${server.pid} +shm`))
  expect(text.match(/channel to/g)).toHaveLength(1)

  await client.run(({ state }) => state.channel.close())
  await until(
    async () => (await reports()).server?.report?.channels.length === 0,
    20_000,
    'the channel is gone',
  )
})

test('a report about somebody else, or of the wrong form, is declined', async () => {
  const daemon = await startDaemon()
  const member = await remote<State>()
  const uuid = await member.run(async ({ vmring, state }, region) => {
    state.peer = await vmring.attach({ region })
    return state.peer.uuid
  }, daemon.region)
  const report = {
    op: 'report',
    section: 0,
    uuid,
    services: [],
    channels: [],
    serviceCount: 0,
    channelCount: 0,
    limits: { channels: 0, ringBytes: 0, waiting: 0, muted: 0 },
  }
  const ask = (extra: object) =>
    askHost(daemon.socket, { ...report, ...extra }).then(
      () => 'taken',
      (error: { code: string }) => error.code,
    )
  expect(await ask({})).toBe('taken')
  expect(await ask({ uuid: '00'.repeat(16) })).toBe('ERR_REPORT')
  expect(await ask({ section: 1 })).toBe('ERR_REPORT')
  expect(await ask({ section: -1 })).toBe('ERR_REPORT')
  expect(await ask({ services: [7] })).toBe('ERR_REPORT')
  expect(await ask({ services: Array(1000).fill('x') })).toBe('ERR_REPORT')
  expect(await ask({ channels: [{ id: 'x' }] })).toBe('ERR_REPORT')
  expect(await ask({ limits: undefined })).toBe('ERR_REPORT')
  expect((await list('--socket', daemon.socket))[0]!.peers[0]!.report).toMatchObject({ services: [] })
})
