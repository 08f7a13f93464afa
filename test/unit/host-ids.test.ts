import { describe, expect, it } from 'vitest'
import { type IdLease, PeerIds } from '../../src/host/ids.js'
import { SectionTable } from '../../src/host/table.js'

describe('peer ids', () => {
  it('counts up first, then reuses the oldest, and only what nobody knows', () => {
    const ids = new PeerIds(4)
    const observer = ids.join()!
    expect(observer.id).toBe(0)
    for (const id of [1, 2, 3]) {
      const lease = ids.join()!
      expect(lease.id).toBe(id)
      ids.leave(lease)
    }
    // the observer was told of all of them
    expect(ids.available()).toBe(0)
    expect(ids.join()).toBeNull()
    ids.leave(observer)
    expect(ids.available()).toBe(4)
    expect([ids.join(), ids.join(), ids.join(), ids.join(), ids.join()].map((lease) => lease?.id)).toEqual([
      1,
      2,
      3,
      0,
      undefined,
    ])
  })

  it('gives back once', () => {
    const ids = new PeerIds(2)
    const lease = ids.join()!
    ids.leave(lease)
    ids.leave(lease)
    expect(ids.available()).toBe(2)
  })

  it('agrees with the rule spelled out, over 100,000 random joins and leaves', () => {
    // The oracle keeps for every connected client the set of ids that it was ever told of.
    const limit = 40
    const every = Array.from({ length: limit }, (_, id) => id)
    const ids = new PeerIds(limit)
    const clients = new Map<IdLease, Set<number>>()
    let seed = 12345
    const random = (n: number) => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0
      return (seed >>> 8) % n
    }
    let refused = 0
    let reused = 0
    const ever = new Set<number>()
    for (let step = 0; step < 100_000; step++) {
      const known = (id: number) => {
        for (const [lease, told] of clients) if (lease.id === id || told.has(id)) return true
        return false
      }
      if (random(100) < 50) {
        if (step % 50 === 0) {
          expect(ids.available()).toBe(every.filter((id) => !known(id)).length)
        }
        const lease = ids.join()
        if (lease === null) {
          refused++
          // nothing was there to give, or the rule was read too strictly
          expect(every.filter((id) => !known(id))).toEqual([])
          continue
        }
        expect(known(lease.id)).toBe(false)
        if (ever.has(lease.id)) reused++
        ever.add(lease.id)
        for (const told of clients.values()) told.add(lease.id)
        clients.set(lease, new Set([...clients.keys()].map((other) => other.id)))
      } else if (clients.size > 0) {
        // mostly young ones leave, so that old ones pin ids now and then
        const all = [...clients.keys()]
        const lease = all[random(20) === 0 ? 0 : all.length - 1 - random(Math.min(3, all.length))]!
        clients.delete(lease)
        ids.leave(lease)
      }
    }
    expect(refused).toBeGreaterThan(100)
    expect(reused).toBeGreaterThan(1000)
  })
})

describe('sections', () => {
  it('go to new owners in the order in which they became free, with a generation', () => {
    const table = new SectionTable(2)
    expect(table.take()).toEqual({ section: 0, generation: 1 })
    expect(table.take()).toEqual({ section: 1, generation: 1 })
    expect(table.take()).toBeNull()
    table.give(1)
    table.give(0)
    expect(table.free).toBe(2)
    expect(table.take()).toEqual({ section: 1, generation: 2 })
    expect(table.take()).toEqual({ section: 0, generation: 2 })
  })
})
