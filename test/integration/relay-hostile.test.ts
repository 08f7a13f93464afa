import { describe, expect, it } from 'vitest'
import { hostStatus } from '../../src/host/admin-client.js'
import { type Daemon, openDescriptors, residentMemory, startDaemon, until } from '../support/host.js'
import { somebody, Talk } from '../support/relay.js'

// needs root, as CI has
const other = 54_321

async function relay() {
  const daemon = await startDaemon('--mode', '0666')
  const { chmodSync } = await import('node:fs')
  chmodSync(daemon.directory, 0o711)
  const talk = new Talk()
  const path = `${daemon.socket}.relay`
  const good = somebody()
  await talk.hello('good', path, good)
  await talk.listen('good', 'orders')
  /** the well-behaved one notices nothing */
  const undisturbed = async () => {
    talk.frame('good', 'PING')
    await talk.next('good', 'PONG')
  }
  return { daemon, talk, path, good, undisturbed }
}

const refused = async (daemon: Daemon) => (await hostStatus(daemon.socket)).relay!.counters.refused
const header = (version: number, type: number, length: number) => {
  const bytes = Buffer.alloc(40)
  bytes[0] = version
  bytes[1] = type
  bytes.writeUInt32LE(length, 32)
  return bytes.toString('hex')
}
const field = (type: number, hex: string) => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt16LE(type)
  bytes.writeUInt16LE(hex.length / 2, 2)
  return bytes.toString('hex') + hex
}

describe('a first frame', () => {
  const peer = field(10, `${'ab'.repeat(16)}01000000`)
  it.each([
    ['of another version', header(2, 32, 24) + peer, 20],
    ['that is HTTP', Buffer.from('GET / HTTP/1.1\r\n\r\n').toString('hex'), 20],
    ['that is longer than a frame may be', header(1, 32, 2009), 21],
    ['that claims 4 GiB', header(1, 32, 0xffff_ffff), 21],
    ['without the peer', header(1, 32, 0), 21],
    ['with a peer that is too short', header(1, 32, 8) + field(10, '00000000'), 21],
    ['with incarnation 0', header(1, 32, 24) + field(10, '00'.repeat(20)), 21],
    ['with a field beyond the end', header(1, 32, 4) + field(10, ''.padEnd(40, '0')).slice(0, 8), 21],
    ['with a field that must be understood', header(1, 32, 28) + peer + field(0x8000 + 77, ''), 21],
    ['of a session', header(1, 5, 0), 21],
    ['of an unknown type', header(1, 99, 0), 21],
    ['that has its place later', header(1, 34, 12) + field(1, '6f72646572733131'), 21],
    ['that only the relay sends', header(1, 33, 12) + field(13, '6369643a33333333'), 21],
    ['that dials nobody', header(1, 36, 24) + peer, 21],
    ['that takes without a token', header(1, 38, 24) + peer, 21],
    ['that takes what is not there', header(1, 38, 44) + peer + field(12, '77'.repeat(16)), 18],
    ['that dials as nobody', header(1, 36, 32) + peer + field(1, '61626364'), 19],
  ])('%s gets its reason, and the connection ends', async (_what, hex, reason) => {
    const { daemon, talk, path, undisturbed } = await relay()
    await talk.connect('bad', path)
    talk.do('send', 'bad', { hex })
    expect(await talk.next('bad', 'REFUSE')).toMatchObject({ reason })
    await talk.over('bad')
    await until(() => daemon.process.errors.includes('relay: refused'), 'a line in the log')
    await undisturbed()
  })

  it('that never comes, comes byte by byte, or stops in the middle: five seconds, then it is over', async () => {
    const { daemon, talk, path, undisturbed } = await relay()
    const started = Date.now()
    await talk.connect('silent', path)
    await talk.connect('half', path)
    talk.do('send', 'half', { hex: header(1, 32, 24) })
    await talk.connect('drip', path)
    const drip = setInterval(() => talk.do('send', 'drip', { hex: '01' }), 300)
    await talk.connect('cut', path)
    talk.do('send', 'cut', { hex: '0120' })
    talk.do('shutdown', 'cut')
    expect(await talk.next('cut', 'REFUSE')).toMatchObject({
      reason: 21,
      text: expect.stringContaining('in the middle'),
    })
    await undisturbed()
    for (const id of ['silent', 'half', 'drip'])
      expect(await talk.next(id, 'REFUSE')).toMatchObject({
        reason: 21,
        text: expect.stringContaining('within 5 s'),
      })
    clearInterval(drip)
    expect(Date.now() - started).toBeGreaterThan(4500)
    expect(Date.now() - started).toBeLessThan(25_000)
    await until(
      async () => (await hostStatus(daemon.socket)).relay!.connections === 1,
      'only the good one is left',
    )
  })
})

describe('somebody else', () => {
  it('cannot be a peer that is here, nor one that has just gone; cannot dial or take as one', async () => {
    const { daemon, talk, path, good, undisturbed } = await relay()
    const [uuid] = good.split(':')
    // the same UUID with another incarnation would make others believe in a restart
    for (const claim of [good, `${uuid}:77`]) {
      await talk.connect(`thief ${claim}`, path, other)
      talk.frame(`thief ${claim}`, 'HELLO', { peer: claim })
      expect(await talk.next(`thief ${claim}`, 'REFUSE')).toMatchObject({ reason: 19 })
    }
    const thief = somebody()
    await talk.hello('thief', path, thief, other)
    await talk.dial('d1', path, { peer: good, target: thief }, other)
    expect(await talk.next('d1', 'REFUSE')).toMatchObject({ reason: 19 })

    const caller = somebody()
    await talk.hello('caller', path, caller)
    await talk.dial('d2', path, { peer: caller, service: 'orders' })
    const { token } = await talk.next('good', 'CALL')
    await talk.take('t1', path, { peer: good, token }, other)
    expect(await talk.next('t1', 'REFUSE')).toMatchObject({ reason: 19 })
    await talk.take('t2', path, { peer: thief, token }, other)
    expect(await talk.next('t2', 'REFUSE')).toMatchObject({ reason: 19 })
    await talk.take('t3', path, { peer: caller, token })
    expect(await talk.next('t3', 'REFUSE')).toMatchObject({ reason: 19 })
    // nor decline a call to another
    talk.frame('thief', 'REFUSE', { token, reason: 2 })
    talk.frame('thief', 'PING')
    await talk.next('thief', 'PONG')
    // the call has survived all that, once
    await talk.take('t4', path, { peer: good, token })
    await talk.next('t4', 'SPLICED')
    await talk.next('d2', 'SPLICED')
    await talk.take('t5', path, { peer: good, token })
    expect(await talk.next('t5', 'REFUSE')).toMatchObject({ reason: 18 })
    await undisturbed()

    for (const id of ['good', 't4', 'd2']) talk.do('close', id)
    await until(
      async () => (await hostStatus(daemon.socket)).relay!.peers.every((peer) => peer.uuid !== uuid),
      'it has gone',
    )
    await talk.connect('late thief', path, other)
    talk.frame('late thief', 'HELLO', { peer: good })
    expect(await talk.next('late thief', 'REFUSE')).toMatchObject({ reason: 19 })
    await talk.hello('good again', path, good)
  })
})

describe('a call', () => {
  it('that nobody takes ends after ten seconds; so does one whose target leaves, at once', async () => {
    const { talk, path, good, undisturbed } = await relay()
    const caller = somebody()
    await talk.hello('caller', path, caller)
    await talk.dial('d1', path, { peer: caller, service: 'orders' })
    await talk.next('good', 'CALL')
    expect(await talk.next('d1', 'REFUSE')).toMatchObject({
      reason: 18,
      text: expect.stringContaining('within 10 s'),
    })
    await undisturbed()
    await talk.dial('d2', path, { peer: caller, target: good })
    await talk.next('good', 'CALL')
    talk.do('close', 'good')
    expect(await talk.next('d2', 'REFUSE')).toMatchObject({
      reason: 18,
      text: expect.stringContaining('has left'),
    })
    await talk.dial('d3', path, { peer: caller, target: good })
    expect(await talk.next('d3', 'REFUSE')).toMatchObject({
      reason: 18,
      text: expect.stringContaining('not here'),
    })
    await talk.dial('d4', path, { peer: caller, target: caller })
    expect(await talk.next('d4', 'REFUSE')).toMatchObject({ reason: 18 })
    // a caller that has gone leaves no call behind
    await talk.hello('good', path, good)
    await talk.listen('good', 'orders')
    await talk.dial('gone', path, { peer: caller, service: 'orders' })
    talk.do('send', 'gone', { hex: '00'.repeat(100) })
    const { token } = await talk.next('good', 'CALL')
    talk.do('close', 'gone')
    await talk.dial('d5', path, { peer: caller, service: 'orders' })
    const second = await talk.next('good', 'CALL')
    await talk.take('t1', path, { peer: good, token })
    expect(await talk.next('t1', 'REFUSE')).toMatchObject({ reason: 18 })
    await talk.take('t2', path, { peer: good, token: second.token })
    await talk.next('d5', 'SPLICED')
  })
})

describe('too much', () => {
  it('of silent connections: 64 of one user, and others come in all the same', async () => {
    const { daemon, talk, path, undisturbed } = await relay()
    for (let i = 0; i < 64; i++) await talk.connect(`s${i}`, path, other)
    await talk.connect('one more', path, other)
    expect(await talk.next('one more', 'REFUSE')).toMatchObject({ reason: 17 })
    await talk.over('one more')
    await undisturbed()
    await talk.hello('another', path, somebody())
    for (let i = 0; i < 64; i++) talk.do('close', `s${i}`)
    await until(async () => (await hostStatus(daemon.socket)).relay!.connections === 2, 'they have gone')
    await talk.hello('back', path, somebody(), other)
  })

  it('of peers and of services: the limit, typed, and the rest works on', async () => {
    const { daemon, talk, path, undisturbed } = await relay()
    for (let i = 0; i < 128; i++) await talk.hello(`p${i}`, path, somebody(), other)
    await talk.connect('one more', path, other)
    talk.frame('one more', 'HELLO', { peer: somebody() })
    expect(await talk.next('one more', 'REFUSE')).toMatchObject({ reason: 17 })
    for (let i = 0; i < 1024; i++) talk.frame(`p${i % 2}`, 'LISTEN', { service: `s${i}` })
    for (let i = 0; i < 1024; i++) await talk.next(`p${i % 2}`, 'OK')
    talk.frame('p0', 'LISTEN', { service: 'one more' })
    expect(await talk.next('p0', 'REFUSE')).toMatchObject({ reason: 17, service: 'one more' })
    talk.frame('p0', 'UNLISTEN', { service: 's0' })
    await talk.listen('p0', 'one more')
    await undisturbed()
    expect(await refused(daemon)).toEqual({ BUSY: 2 })
  })

  it('in a flood of frames: it is read slowly, and nobody waits for it', async () => {
    const { daemon, talk, path, undisturbed } = await relay()
    await talk.hello('flood', path, somebody(), other)
    await talk.hello('deaf', path, somebody(), other)
    talk.do('pause', 'deaf')
    const before = residentMemory(daemon.pid)
    // 250,000 unknown frames; PINGs whose answers nobody reads
    talk.frame('flood', 77, { times: 250_000 })
    talk.frame('deaf', 'PING', { times: 50_000 })
    for (let i = 0; i < 20; i++) {
      const started = Date.now()
      await undisturbed()
      expect(Date.now() - started).toBeLessThan(2500)
    }
    await new Promise((resolve) => setTimeout(resolve, 3000))
    talk.do('waiting', 'flood')
    expect((await talk.next('flood', 'waiting')).bytes).toBeGreaterThan(40 * 225_000)
    expect(residentMemory(daemon.pid) - before).toBeLessThan(16)
  })

  it('of garbage on a control connection ends that one alone, also in a log that stays short', async () => {
    const { daemon, talk, path, undisturbed } = await relay()
    const files = openDescriptors(daemon.pid)
    for (let i = 0; i < 300; i++) {
      await talk.hello(`g${i}`, path, somebody(), other)
      talk.do('send', `g${i}`, { hex: i % 2 === 0 ? 'ff' : header(1, 34, 0) })
      expect(await talk.next(`g${i}`, 'REFUSE')).toMatchObject({ reason: i % 2 === 0 ? 20 : 21 })
      talk.do('close', `g${i}`)
    }
    await undisturbed()
    await until(() => openDescriptors(daemon.pid) <= files, 'every descriptor is back')
    expect(await refused(daemon)).toEqual({ VERSION: 150, HANDSHAKE: 150 })
    await until(() => daemon.process.errors.includes('refused'), 'lines in the log')
    const lines = daemon.process.errors.split('\n').filter((line) => line.includes('relay: refused'))
    expect(lines.length).toBeGreaterThan(5)
    expect(lines.length).toBeLessThan(100)
  })
})
