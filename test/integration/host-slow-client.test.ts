import { describe, expect, it } from 'vitest'
import { hostStatus } from '../../src/host/admin-client.js'
import { startHost } from '../../src/host/daemon.js'
import { createLog } from '../../src/host/log.js'
import { openDescriptors, pythonPeer, startDaemon, temporaryDirectory, until } from '../support/host.js'

const JOINS = 2000

describe('a client that does not read', () => {
  it(`delays nobody during ${JOINS} joins and leaves, and then finds all of them, with their descriptors`, async () => {
    const daemon = await startDaemon('--vectors', '2')
    const slow = pythonPeer('talk', daemon.socket, '--paused')
    await until(async () => (await hostStatus(daemon.socket)).peers.length === 1, 'the slow client is in')
    const atRest = openDescriptors(daemon.pid)

    // The observers of the churn check completeness and order on their side, at full speed.
    const churn = pythonPeer('churn', daemon.socket, '--joins', JOINS, '--vectors', 2, '--observers', 2)
    const started = Date.now()
    const result = await churn.event('churned')
    expect(result).toMatchObject({ joins: JOINS, refused: 0, errors: [] })
    expect(Date.now() - started).toBeLessThan(20_000)

    await until(
      async () => (await hostStatus(daemon.socket)).peers.length === 1,
      'only the slow client is left',
    )
    const { peers, counters } = await hostStatus(daemon.socket)
    expect(counters.dropped).toBe(0)
    // three messages for each who came and went; a part of them stands in the socket
    expect(peers[0]!.queued).toBeGreaterThan(JOINS * 2)

    await slow.ask({ op: 'resume', quiet: true }, 'done')
    await until(
      async () => (await hostStatus(daemon.socket)).peers[0]!.queued === 0,
      'the queue is read',
      20_000,
    )
    let summary = await slow.ask({ op: 'summary' }, 'summary')
    await until(async () => {
      summary = await slow.ask({ op: 'summary' }, 'summary')
      return Object.keys(summary.peers as object).length === 0
    }, 'the last leave has been read')
    // Everybody who came after the slow client (id 0) left; each with both vectors, or the client would have said broken.
    const left = summary.left as number[]
    expect(left.length).toBe(counters.joins - 1)
    expect([...left].sort((a, b) => a - b)).toEqual(Array.from({ length: left.length }, (_, i) => i + 1))
    await until(() => openDescriptors(daemon.pid) <= atRest, 'the eventfds of those who left are closed')
  })

  it('is closed with a word in the log when its queue passes the bound; the others go on', async () => {
    const lines: string[] = []
    await using host = await startHost({
      socket: `${temporaryDirectory()}/host.sock`,
      size: 2 ** 20,
      vectors: 1,
      maxQueue: 500,
      log: createLog({ write: (line) => lines.push(line) }),
    })
    const slow = pythonPeer('talk', host.socket, '--paused')
    await until(() => host.status().peers.length === 1, 'the slow client is in')
    const before = openDescriptors(process.pid)
    const churn = pythonPeer('churn', host.socket, '--joins', 1500, '--observers', 2)
    expect(await churn.event('churned')).toMatchObject({ joins: 1500, refused: 0, errors: [] })
    expect(host.status().counters.dropped).toBe(1)
    expect(lines.join('')).toMatch(/client closed id=0 .*does not read/)
    await slow.ask({ op: 'resume', quiet: true }, 'closed')
    await churn.exit('SIGKILL')
    await until(() => openDescriptors(process.pid) <= before, 'its descriptors are closed')
  })
})
