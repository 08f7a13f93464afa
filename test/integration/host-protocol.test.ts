import { readFileSync } from 'node:fs'
import { connect } from 'node:net'
import { describe, expect, it } from 'vitest'
import { hostStatus } from '../../src/host/admin-client.js'
import { type Daemon, type Lines, pythonPeer, startDaemon, until } from '../support/host.js'

/** A Python client that has read its handshake; with the messages of it. */
async function joined(daemon: Daemon, others: number, vectors: number) {
  const peer = pythonPeer('talk', daemon.socket)
  const messages: [number, boolean][] = []
  while (messages.length < 3 + (others + 1) * vectors) {
    const { value, fd } = await peer.event('message')
    messages.push([value as number, fd as boolean])
  }
  return { peer, messages, id: messages[1]![0] }
}

async function nextMessage(peer: Lines): Promise<[unknown, unknown]> {
  const { value, fd } = await peer.event('message')
  return [value, fd]
}

describe('the ivshmem-server protocol, against an independent client', () => {
  it('sends the handshake in the order of the specification, and joins and leaves to everybody else', async () => {
    const daemon = await startDaemon('--vectors', '2')
    const first = await joined(daemon, 0, 2)
    expect(first.messages).toEqual([
      [0, false],
      [0, false],
      [-1, true],
      [0, true],
      [0, true],
    ])
    const second = await joined(daemon, 1, 2)
    expect(second.messages).toEqual([
      [0, false],
      [1, false],
      [-1, true],
      [0, true],
      [0, true],
      [1, true],
      [1, true],
    ])
    expect(await nextMessage(first.peer)).toEqual([1, true])
    expect(await nextMessage(first.peer)).toEqual([1, true])
    await second.peer.exit('SIGKILL')
    expect(await nextMessage(first.peer)).toEqual([1, false])
  })

  it('carries doorbells between two clients, each vector its own', async () => {
    const daemon = await startDaemon('--vectors', '3')
    const a = await joined(daemon, 0, 3)
    const b = await joined(daemon, 1, 3)
    for (let i = 0; i < 3; i++) await nextMessage(a.peer)
    // each was told of the other, which rings vector 0 of everybody
    for (const { peer } of [a, b])
      while ((await peer.ask({ op: 'wait', vector: 0, timeout: 0.3 }, 'rung')).count !== 0);
    for (const vector of [0, 1, 2]) {
      await a.peer.ask({ op: 'ring', peer: b.id, vector }, 'done')
      expect((await b.peer.ask({ op: 'wait', vector, timeout: 5 }, 'rung')).count).toBe(1)
      expect((await b.peer.ask({ op: 'wait', vector: (vector + 1) % 3, timeout: 0 }, 'rung')).count).toBe(0)
      await b.peer.ask({ op: 'ring', peer: a.id, vector }, 'done')
      expect((await a.peer.ask({ op: 'wait', vector, timeout: 5 }, 'rung')).count).toBe(1)
    }
  })

  it('rings vector 0 of everybody when membership changes', async () => {
    const daemon = await startDaemon()
    const a = await joined(daemon, 0, 2)
    while ((await a.peer.ask({ op: 'wait', vector: 0, timeout: 0.3 }, 'rung')).count !== 0);
    const b = await joined(daemon, 1, 2)
    expect((await a.peer.ask({ op: 'wait', vector: 0, timeout: 5 }, 'rung')).count).toBeGreaterThan(0)
    while ((await a.peer.ask({ op: 'wait', vector: 0, timeout: 0.3 }, 'rung')).count !== 0);
    await b.peer.exit('SIGKILL')
    expect((await a.peer.ask({ op: 'wait', vector: 0, timeout: 5 }, 'rung')).count).toBeGreaterThan(0)
  })

  it('keeps the peer table: an entry stands before its owner has its handshake, and is free after it left', async () => {
    const daemon = await startDaemon('--sections', '4', '--vectors', '1')
    const a = await joined(daemon, 0, 1)
    const table = async () => {
      // docs/protocol.md: offset and count of the table in the header, entries of 128 bytes {lock, state, peer id, vectors, generation}
      const { hex, size } = await a.peer.ask({ op: 'memory', offset: 0, length: 8192 }, 'memory')
      expect(size).toBe(4 * 2 ** 20)
      const bytes = Buffer.from(hex as string, 'hex')
      expect(bytes.toString('latin1', 0, 8)).toBe('VMRING1\n')
      const offset = Number(bytes.readBigUInt64LE(56))
      expect(bytes.readUInt32LE(64)).toBe(4)
      return Array.from({ length: 4 }, (_, i) => {
        const at = offset + i * 128
        expect(bytes.readUInt32LE(at) % 2).toBe(0)
        return [4, 8, 12, 16].map((field) => bytes.readUInt32LE(at + field))
      })
    }
    const empty = [0, 0]
    expect((await table()).map((entry) => entry.slice(0, 2))).toEqual([[1, 0], empty, empty, empty])
    const b = await joined(daemon, 1, 1)
    expect((await table())[1]).toEqual([1, 1, 1, 1])
    await b.peer.exit('SIGKILL')
    await until(async () => (await table())[1]![0] === 0, 'the entry is free')
    // a section that was never used goes first, so the freed one stays quiet as long as possible
    const c = await joined(daemon, 1, 1)
    expect(c.id).toBe(2)
    expect((await table())[2]).toEqual([1, 2, 1, 1])
  })

  it('gives a client its handshake when no section is free, but no entry', async () => {
    const daemon = await startDaemon('--sections', '1')
    await joined(daemon, 0, 2)
    const b = await joined(daemon, 1, 2)
    const status = await hostStatus(daemon.socket)
    expect(status.peers.map(({ id, section }) => ({ id, section }))).toEqual([
      { id: 0, section: 0 },
      { id: b.id, section: null },
    ])
    expect(daemon.process.errors).toContain('no free section')
  })

  it('closes a client that sends a byte, and nobody else', async () => {
    const daemon = await startDaemon()
    const a = await joined(daemon, 0, 2)
    const b = await joined(daemon, 1, 2)
    for (let i = 0; i < 2; i++) await nextMessage(a.peer)
    await b.peer.ask({ op: 'send', hex: '00' }, 'closed')
    expect(await nextMessage(a.peer)).toEqual([b.id, false])
    expect(daemon.process.errors).toContain('the client sent data')
    const c = await joined(daemon, 1, 2)
    expect(c.id).toBe(2)
  })

  it('survives clients that vanish at once, in the middle of the handshake, or with data unread', async () => {
    const daemon = await startDaemon()
    const observer = await joined(daemon, 0, 2)
    for (let i = 0; i < 200; i++) {
      await new Promise<void>((resolve, reject) => {
        const socket = connect(daemon.socket, () => {
          if (i % 2 === 0) socket.destroy()
          else socket.once('data', () => socket.destroy())
        })
        socket.on('close', () => resolve()).on('error', reject)
      })
    }
    await until(async () => (await hostStatus(daemon.socket)).peers.length === 1, 'only the observer is left')
    await observer.peer.ask({ op: 'summary' }, 'summary').then((summary) => expect(summary.peers).toEqual({}))
  })

  it('serves 64 peers at once: every one told of every other, every doorbell of every pair rung', async () => {
    const daemon = await startDaemon('--size', '64M', '--sections', '64', '--vectors', '2')
    const crowd = pythonPeer('crowd', daemon.socket, '--clients', 64, '--vectors', 2)
    const { ids, rung } = await crowd.event('crowd')
    expect(ids).toEqual(Array.from({ length: 64 }, (_, i) => i))
    expect(rung).toBe(64 * 63 * 2)
    const status = await hostStatus(daemon.socket)
    expect(status.peers.map((peer) => peer.section).sort((a, b) => a! - b!)).toEqual(ids)
    expect(status.region.freeSections).toBe(0)
    await crowd.ask('', 'halved')
    expect((await hostStatus(daemon.socket)).region.freeSections).toBe(32)
  })

  it('costs an idle daemon nothing: at most 10 voluntary context switches a second, 2 clock ticks in 5 s', async () => {
    const daemon = await startDaemon()
    await joined(daemon, 0, 2)
    await new Promise((resolve) => setTimeout(resolve, 1000))
    const usage = () => {
      const stat = readFileSync(`/proc/${daemon.pid}/stat`, 'utf8').split(') ')[1]!.split(' ')
      const switches = /^voluntary_ctxt_switches:\s+(\d+)/m.exec(
        readFileSync(`/proc/${daemon.pid}/status`, 'utf8'),
      )!
      return { ticks: Number(stat[11]) + Number(stat[12]), switches: Number(switches[1]) }
    }
    const before = usage()
    await new Promise((resolve) => setTimeout(resolve, 5000))
    const after = usage()
    expect(after.switches - before.switches).toBeLessThanOrEqual(50)
    expect(after.ticks - before.ticks).toBeLessThanOrEqual(2)
  })
})
