import { chmodSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { hostStatus } from '../../src/host/admin-client.js'
import {
  type Daemon,
  openDescriptors,
  pythonPeer,
  residentMemory,
  startDaemon,
  until,
} from '../support/host.js'
import { vmring } from '../support/processes.js'
import { pythonRelay, somebody, Talk } from '../support/relay.js'

const self = process.getuid!()
const me = `uid:${self}`
const path = (daemon: Daemon) => `${daemon.socket}.relay`
const relayOf = async (daemon: Daemon) => (await hostStatus(daemon.socket)).relay!

/** Two peers, `a` calling and `b` listening under 'orders', and the splice of `x` and `y`. */
async function joined(daemon: Daemon) {
  const talk = new Talk()
  const [a, b] = [somebody(), somebody()]
  expect((await talk.hello('a', path(daemon), a)).origin).toBe(me)
  await talk.hello('b', path(daemon), b)
  await talk.listen('b', 'orders')
  await talk.dial('x', path(daemon), { peer: a, service: 'orders' })
  const call = await talk.next('b', 'CALL')
  expect(call).toMatchObject({ peer: a, origin: me })
  await talk.take('y', path(daemon), { peer: b, token: call.token })
  expect(await talk.next('x', 'SPLICED')).toMatchObject({ peer: b, origin: me, grants: ['*'], path: 'unix' })
  expect(await talk.next('y', 'SPLICED')).toMatchObject({ peer: a, origin: me, grants: ['*'], path: 'unix' })
  return { talk, a, b }
}

describe('two peers on the relay', () => {
  it('find each other by a name, talk both ways, and end one direction after the other', async () => {
    const daemon = await startDaemon()
    const { talk, a, b } = await joined(daemon)
    await talk.carry('x', 'y', 'there')
    await talk.carry('y', 'x', 'and back')
    const { peers, splices, connections } = await relayOf(daemon)
    expect({ splices, connections }).toEqual({ splices: 1, connections: 4 })
    expect(peers).toMatchObject([
      {
        uuid: a.split(':')[0],
        origin: me,
        services: [],
        connections: 1,
        sent: 5,
        received: 8,
        present: true,
      },
      { uuid: b.split(':')[0], origin: me, services: ['orders'], connections: 1, sent: 8, received: 5 },
    ])
    talk.do('shutdown', 'x')
    await talk.next('y', 'end')
    await talk.carry('y', 'x', 'still here')
    talk.do('shutdown', 'y')
    await talk.next('x', 'end')
    await until(async () => (await relayOf(daemon)).splices === 0, 'the splice is over')
  })

  it('carries what was sent behind DIAL and behind TAKE, before anybody was joined', async () => {
    const daemon = await startDaemon()
    const talk = new Talk()
    const [a, b] = [somebody(), somebody()]
    await talk.hello('a', path(daemon), a)
    await talk.hello('b', path(daemon), b)
    // by name of the process: no service needed where everything is allowed
    await talk.dial('x', path(daemon), { peer: a, target: b })
    talk.do('send', 'x', { hex: '11' })
    talk.do('send', 'x', { hex: '22', times: 100_000 })
    const { token } = await talk.next('b', 'CALL')
    await talk.take('y', path(daemon), { peer: b, token })
    talk.do('send', 'y', { hex: '33' })
    await talk.next('x', 'SPLICED')
    await talk.next('y', 'SPLICED')
    expect(await talk.next('x', 'data')).toMatchObject({ hex: '33' })
    let last = await talk.next('y', 'data')
    while (last.received !== 100_001) last = await talk.next('y', 'data')
  })

  it('moves 16 MiB each way at once, whole; and holds little for one who does not read', async () => {
    const daemon = await startDaemon()
    const echo = pythonRelay('echo', path(daemon), '--size', 16 * 2 ** 20)
    expect(await echo.event('echoed')).toMatchObject({ bytes: 16 * 2 ** 20 })
    const before = residentMemory(daemon.pid)
    const slow = pythonRelay('echo', path(daemon), '--slow')
    const { bytes } = await slow.event('stuck')
    // the 64 KiB of the relay, and what the kernel keeps for two sockets
    expect(bytes).toBeLessThan(2 * 2 ** 20)
    expect(residentMemory(daemon.pid) - before).toBeLessThan(16)
    expect((await slow.ask('', 'drained')).bytes).toBe(bytes)
  })

  it('a side that dies ends the other; the pair may be joined again', async () => {
    const daemon = await startDaemon()
    const { talk, a, b } = await joined(daemon)
    talk.do('close', 'y')
    await talk.over('x')
    talk.do('close', 'x')
    await until(async () => (await relayOf(daemon)).splices === 0, 'the splice is over')
    await talk.dial('x2', path(daemon), { peer: b, target: a })
    const { token } = await talk.next('a', 'CALL')
    await talk.take('y2', path(daemon), { peer: a, token })
    await talk.next('x2', 'SPLICED')
    await talk.next('y2', 'SPLICED')
    await talk.carry('y2', 'x2', 'again')
  })

  it('are joined once at a time: while called and while joined, another DIAL of either is BUSY', async () => {
    const daemon = await startDaemon()
    const { talk, a, b } = await joined(daemon)
    await talk.listen('a', 'mine')
    for (const [id, fields] of Object.entries({
      d1: { peer: a, service: 'orders' },
      d2: { peer: b, service: 'mine' },
      d3: { peer: b, target: a },
    })) {
      await talk.dial(id, path(daemon), fields)
      expect(await talk.next(id, 'REFUSE')).toMatchObject({ reason: 17, text: 'already connected' })
      await talk.over(id)
    }
    const c = somebody()
    await talk.hello('c', path(daemon), c)
    await talk.dial('d4', path(daemon), { peer: c, service: 'mine' })
    const { token } = await talk.next('a', 'CALL')
    await talk.dial('d5', path(daemon), { peer: a, target: c })
    expect(await talk.next('d5', 'REFUSE')).toMatchObject({ reason: 17, text: 'already being connected' })
    // declined, and so free again
    talk.frame('a', 'REFUSE', { token, reason: 2, text: 'full' })
    expect(await talk.next('d4', 'REFUSE')).toMatchObject({ reason: 2, text: 'declined by the peer: full' })
    await talk.dial('d6', path(daemon), { peer: a, target: c })
    await talk.next('c', 'CALL')
  })

  it('those who listen under one name take turns', async () => {
    const daemon = await startDaemon()
    const talk = new Talk()
    const names = ['l0', 'l1', 'l2']
    for (const name of names) {
      await talk.hello(name, path(daemon), somebody())
      await talk.listen(name, 'work')
    }
    for (let i = 0; i < 6; i++) {
      const caller = somebody()
      await talk.hello(`c${i}`, path(daemon), caller)
      await talk.dial(`d${i}`, path(daemon), { peer: caller, service: 'work' })
      await talk.next(names[i % 3]!, 'CALL')
    }
  })
})

describe('a daemon', () => {
  it('shows its relay in `vmring ls`, harmless whatever peers call themselves', async () => {
    const daemon = await startDaemon()
    const { talk, a } = await joined(daemon)
    await talk.listen('b', '\u001b[31mred\u202e')
    const { text } = await vmring(['ls', '--socket', daemon.socket])
    expect(text).toContain(`relay ${daemon.socket}.relay`)
    expect(text).toContain(a.split(':')[0])
    expect(text).toContain('orders ?[31mred?')
    for (const harm of ['\u001b', '\u202e']) expect(text).not.toContain(harm)
    const json = JSON.parse((await vmring(['ls', '--socket', daemon.socket, '--json'])).text)
    expect(json[0].relay).toMatchObject({
      unix: `${daemon.socket}.relay`,
      vsock: null,
      policy: null,
      splices: 1,
    })
  })

  it('serves its relay where it is told to, with the mode of its other sockets, or not at all', async () => {
    const daemon = await startDaemon('--mode', '0600')
    expect(statSync(path(daemon)).mode & 0o777).toBe(0o600)
    const elsewhere = join(daemon.directory, 'elsewhere')
    const other = await startDaemon('--relay-unix', elsewhere)
    await new Talk().hello('a', elsewhere, somebody())
    expect(await other.process.exit('SIGTERM')).toBe(0)
    expect(() => statSync(elsewhere)).toThrow(/ENOENT/)
    const none = await startDaemon('--no-relay')
    expect((await hostStatus(none.socket)).relay).toBeNull()
    const { code, stderr } = await vmring(['revoke', 'f'.repeat(32), '--socket', none.socket])
    expect(code).toBe(1)
    expect(stderr).toMatch(/runs without a relay.*\(ERR_VMRING_UNKNOWN_PEER\)\n {2}cure: /)
  })

  it.each([
    [['--no-relay', '--relay-vsock', '5790'], 2, 'ERR_VMRING_ARGUMENT'],
    [['--relay-vsock', '0'], 2, 'a port is a number'],
    [['--policy', '/nowhere/policy.json'], 1, 'ERR_VMRING_POLICY_FILE'],
    [['--relay-unix', '/nowhere/relay.sock'], 1, 'ENOENT'],
  ])('with %j does not start, and leaves nothing behind', async (args, exit, text) => {
    const daemon = await startDaemon()
    const socket = join(daemon.directory, 'wrong.sock')
    const { code, stderr } = await vmring(['host', '--socket', socket, ...args])
    expect({ code, text: stderr }).toEqual({ code: exit, text: expect.stringContaining(text) })
    for (const file of [socket, `${socket}.admin`, `${socket}.relay`])
      expect(() => statSync(file)).toThrow(/ENOENT/)
  })

  it('keeps two relays apart', async () => {
    const [one, two] = [await startDaemon(), await startDaemon()]
    const talk = new Talk()
    const [a, b] = [somebody(), somebody()]
    await talk.hello('a1', path(one), a)
    await talk.hello('b2', path(two), b)
    await talk.listen('b2', 'orders')
    await talk.dial('x', path(one), { peer: a, service: 'orders' })
    expect(await talk.next('x', 'REFUSE')).toMatchObject({ reason: 1, service: 'orders' })
    await talk.dial('y', path(two), { peer: a, service: 'orders' })
    expect(await talk.next('y', 'REFUSE')).toMatchObject({ reason: 19 })
  })

  it('has nothing left of 2000 peers and their splices', { timeout: 180_000 }, async () => {
    const daemon = await startDaemon()
    const churn = (rounds: number) => pythonRelay('churn', path(daemon), '--rounds', rounds).event('churned')
    await churn(500)
    const quiet = () => until(async () => (await relayOf(daemon)).connections === 0, 'all are gone', 30_000)
    await quiet()
    const [files, memory] = [openDescriptors(daemon.pid), residentMemory(daemon.pid)]
    await churn(1500)
    await quiet()
    const { peers, splices } = await relayOf(daemon)
    expect({ peers, splices }).toEqual({ peers: [], splices: 0 })
    // the daemon closes its side of the questions above in its own time
    await expect.poll(() => openDescriptors(daemon.pid), { timeout: 5000 }).toBeLessThanOrEqual(files)
    // 128 KiB of buffers for each would be 250 MiB
    expect(residentMemory(daemon.pid) - memory).toBeLessThan(40)
  })
})

describe('vmring revoke', () => {
  it('reaches the processes with that UUID, and them again when they come back; --restore undoes it', async () => {
    const daemon = await startDaemon()
    const { talk, a } = await joined(daemon)
    const uuid = a.split(':')[0]!
    const revoke = (...args: string[]) => vmring(['revoke', ...args, '--socket', daemon.socket])
    const done = await revoke(uuid)
    expect(done).toMatchObject({ code: 0, text: expect.stringContaining('told to leave shared memory') })
    expect(await talk.next('a', 'REVOKE')).not.toHaveProperty('flags')
    expect((await relayOf(daemon)).peers.map(({ revoked }) => revoked)).toEqual([true, false])
    await talk.hello('a again', path(daemon), a)
    await talk.over('a')
    expect(await talk.next('a again', 'REVOKE')).not.toHaveProperty('flags')
    const dashed = uuid.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
    expect(JSON.parse((await revoke(dashed, '--restore', '--json')).text)).toEqual({
      uuid,
      told: 1,
      restore: true,
    })
    expect(await talk.next('a again', 'REVOKE')).toMatchObject({ flags: 8 })
    // b heard of none of it
    talk.frame('b', 'PING')
    await talk.next('b', 'PONG')
  })

  it('knows a peer id by the identity in its section, and says what is missing', async () => {
    const daemon = await startDaemon()
    const member = pythonPeer('talk', daemon.socket)
    await member.event('message')
    const revoke = (peer: string) => vmring(['revoke', peer, '--socket', daemon.socket])
    const cure = /\(ERR_VMRING_UNKNOWN_PEER\)\n {2}cure: /
    expect((await revoke('0')).stderr).toMatch(/peer 0 has not said who it is/)
    expect((await revoke('77')).stderr).toMatch(/no peer has the id 77/)
    expect((await revoke('77')).stderr).toMatch(cure)
    expect((await revoke('f'.repeat(32))).stderr).toMatch(/no connection to the relay/)
    expect(await revoke('nonsense')).toMatchObject({ code: 2 })
    expect((await vmring(['revoke', '0', '--socket', join(daemon.directory, 'none')])).stderr).toMatch(
      /no daemon/,
    )
  })
})

describe('the policy file', () => {
  async function governed(rules: unknown[]) {
    const directory = (await startDaemon()).directory
    const file = join(directory, 'policy.json')
    const write = (to: unknown) =>
      writeFileSync(file, typeof to === 'string' ? to : JSON.stringify({ rules: to }))
    write(rules)
    const daemon = await startDaemon('--policy', file, '--mode', '0666')
    chmodSync(daemon.directory, 0o711)
    return { daemon, file, write, talk: new Talk() }
  }

  // needs root, as CI has: another user is somebody whom the test becomes
  const guest = 54_321

  it('says who may listen and connect, by the user that the kernel sees', async () => {
    const { daemon, talk } = await governed([
      { who: me, listen: ['orders', 'app-*'] },
      { who: `uid:${guest}`, connect: ['app-*', 'time'] },
    ])
    const [a, b] = [somebody(), somebody()]
    await talk.hello('a', path(daemon), a)
    expect((await talk.hello('b', path(daemon), b, guest)).origin).toBe(`uid:${guest}`)
    for (const service of ['orders', 'app-1']) await talk.listen('a', service)
    talk.frame('a', 'LISTEN', { service: 'other' })
    expect(await talk.next('a', 'REFUSE')).toMatchObject({ reason: 16, service: 'other' })
    talk.frame('b', 'LISTEN', { service: 'orders' })
    expect(await talk.next('b', 'REFUSE')).toMatchObject({ reason: 16, service: 'orders' })
    await talk.dial('d1', path(daemon), { peer: b, service: 'orders' }, guest)
    expect(await talk.next('d1', 'REFUSE')).toMatchObject({ reason: 16, service: 'orders' })
    await talk.dial('d2', path(daemon), { peer: a, service: 'app-1' })
    expect(await talk.next('d2', 'REFUSE')).toMatchObject({ reason: 16 })
    // a may connect to nothing, but b to a service of a: so a may dial b on behalf of a channel
    await talk.dial('d3', path(daemon), { peer: a, target: b })
    const { token } = await talk.next('b', 'CALL')
    await talk.take('d4', path(daemon), { peer: b, token }, guest)
    expect(await talk.next('d3', 'SPLICED')).toMatchObject({
      origin: `uid:${guest}`,
      grants: ['app-*', 'time'],
    })
    expect(await talk.next('d4', 'SPLICED')).not.toHaveProperty('grants')
    await until(
      () => daemon.process.errors.includes(`"origin":"uid:${guest}","reason":"POLICY"`),
      'a line in the log',
    )
    expect((await relayOf(daemon)).counters.refused).toEqual({ POLICY: 4 })
  })

  it('without anything between two peers keeps them apart', async () => {
    const { daemon, talk } = await governed([{ who: me, listen: ['orders'] }])
    const [a, b] = [somebody(), somebody()]
    await talk.hello('a', path(daemon), a)
    await talk.hello('b', path(daemon), b, guest)
    await talk.listen('a', 'orders')
    await talk.dial('d', path(daemon), { peer: b, target: a }, guest)
    expect(await talk.next('d', 'REFUSE')).toMatchObject({ reason: 16 })
  })

  it('is read again at SIGHUP: what it no longer allows ends; one with an error changes nothing', async () => {
    const everything = { who: '*', listen: ['*'], connect: ['*'] }
    const { daemon, talk, write } = await governed([everything])
    const [a, b] = [somebody(), somebody()]
    await talk.hello('a', path(daemon), a)
    await talk.hello('b', path(daemon), b, guest)
    await talk.listen('a', 'orders')
    await talk.listen('a', 'time')
    await talk.dial('x', path(daemon), { peer: b, service: 'orders' }, guest)
    const { token } = await talk.next('a', 'CALL')
    await talk.take('y', path(daemon), { peer: a, token })
    await talk.next('x', 'SPLICED')
    await talk.next('y', 'SPLICED')

    write('{"rules": [')
    daemon.process.child.kill('SIGHUP')
    await until(() => daemon.process.errors.includes('the old policy stays'), 'the error is reported')
    expect(daemon.process.errors).toContain('ERR_VMRING_POLICY_FILE')
    await talk.carry('x', 'y', 'as before')

    write([{ who: me, listen: ['time'], connect: ['*'] }])
    daemon.process.child.kill('SIGHUP')
    expect(await talk.next('a', 'REFUSE')).toMatchObject({ reason: 16, service: 'orders' })
    await talk.over('x')
    await talk.over('y')
    expect((await relayOf(daemon)).policy).toMatchObject({ rules: 1 })
    await talk.dial('z', path(daemon), { peer: b, service: 'time' }, guest)
    expect(await talk.next('z', 'REFUSE')).toMatchObject({ reason: 16 })
  })
})
