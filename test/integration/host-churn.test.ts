import { describe, expect, it } from 'vitest'
import { hostStatus } from '../../src/host/admin-client.js'
import { openDescriptors, pythonPeer, residentMemory, startDaemon, until } from '../support/host.js'

const JOINS = 70_000
/** MiB by which resident memory may differ between 10,000 and 70,000 joins */
const GROWTH = 32

describe('a long life', () => {
  it(`${JOINS} joins and leaves under changing observers: no id comes back to who knew it, nothing leaks`, async () => {
    const daemon = await startDaemon('--vectors', '1')
    // The veteran knows every id from the first on, so that one that comes back too early is seen.
    const options = `--joins ${JOINS} --veteran --observers 4 --observer-life 2000 --parallel 4 --report-at 10000`
    const churn = pythonPeer('churn', daemon.socket, ...options.split(' '))
    await churn.event('warm')
    const warm = residentMemory(daemon.pid)
    churn.say('')
    const result = await churn.event('churned')
    expect(result).toMatchObject({ joins: JOINS, errors: [], errorCount: 0 })
    // turned away while the veteran was there, let in when it had gone
    expect(result.refused as number).toBeGreaterThan(0)
    expect(daemon.process.errors).toContain('every peer id is in use or known')
    // all 65,536 ids were used, and some of them twice, or nothing has been shown
    expect(result.distinct as number).toBeGreaterThan(65_000)
    expect(result.reused as number).toBeGreaterThan(4000)
    expect(result.observed as number).toBeGreaterThan(JOINS * 3)
    await churn.exit('SIGKILL')
    await until(async () => (await hostStatus(daemon.socket)).peers.length === 0, 'all are gone')
    expect(residentMemory(daemon.pid) - warm).toBeLessThan(GROWTH)

    const idle = await startDaemon('--vectors', '1')
    await hostStatus(idle.socket)
    await until(
      () => openDescriptors(daemon.pid) === openDescriptors(idle.pid),
      'as many descriptors as a new daemon',
    )
    const { counters, region } = await hostStatus(daemon.socket)
    expect(counters.leaves).toBe(counters.joins)
    expect(counters).toMatchObject({ dropped: 0, refused: result.refused })
    expect(region.freeSections).toBe(16)
  }, 180_000)
})
