import { afterEach, describe, expect, it } from 'vitest'
import { native } from '../../src/native/binding.js'
import { Kind, type Mode, PeerEvent, Ready, Status } from '../../src/native/types.js'
import { joinEnds, joinRegion, members, sameMemory, type TestMember, until } from '../support/addon.js'

const open: TestMember[] = []
function pair(mode: Mode, interrupts = true): [TestMember, TestMember] {
  const [a, b] = members(2, mode, interrupts) as [TestMember, TestMember]
  open.push(a, b)
  return [a, b]
}
afterEach(() => {
  for (const member of open.splice(0)) {
    member.peer.close()
    member.region.close()
  }
})

function bytes(length: number, value: number): Uint8Array {
  return new Uint8Array(length).fill(value)
}

describe('ends in private memory', () => {
  it('carry records both ways, in order, and say when there is room again', async () => {
    const { near, far, buffer } = native.createPair(4096, 10, 20)
    const total = 5000
    let sent = 0
    let got = 0
    const pump = () => {
      while (sent < total) {
        const status = native.endSend(near, bytes(100, sent & 255), Kind.DATA, 0)
        if (status === 1) sent++
        else {
          expect(status).toBe(Status.WOULD_BLOCK)
          if (!native.endWantSpace(near, 100)) return
        }
      }
    }
    native.onPairReady((count) => {
      for (let i = 0; i < count; i++) {
        const id = native.pairReady[2 * i]
        const bits = native.pairReady[2 * i + 1]!
        if (id === near && (bits & Ready.WRITABLE) !== 0) pump()
        if (id !== far || (bits & Ready.READABLE) === 0) continue
        while (native.endReceive(far) === Kind.DATA) {
          const [offset, length, sequence] = native.scratch
          expect(sequence).toBe(10 + got)
          expect(Buffer.compare(new Uint8Array(buffer, offset, length), bytes(100, got & 255))).toBe(0)
          expect(native.endRelease(far, sequence!)).toBe(1)
          expect(native.endRelease(far, sequence!)).toBe(0)
          got++
        }
      }
    })
    pump()
    await until(() => got === total, 'all records')
    expect(native.endCounters(near)).toMatchObject({
      sent: 10 + total,
      remoteNext: 10 + total,
      sentBytes: total * 100,
    })
    expect(native.endIdle(far)).toBe(true)
    native.endDestroy(near)
    native.endDestroy(far)
    expect(native.endSend(near, bytes(1, 0), Kind.DATA, 0)).toBe(Status.CLOSED)
    const again = native.createPair(4096, 0, 0)
    expect(again.near).not.toBe(near) // an id that outlived its end is never taken for another
    native.endDestroy(again.near)
    native.endDestroy(again.far)
  })

  it('can be read again from the oldest record not released', () => {
    const { near, far } = native.createPair(4096, 0, 0)
    for (let i = 0; i < 3; i++) native.endSend(near, bytes(8, i), Kind.DATA, 0)
    for (let i = 0; i < 3; i++) expect(native.endReceive(far)).toBe(Kind.DATA)
    native.endRelease(far, 0)
    native.endRewind(far)
    expect(native.endReceive(far)).toBe(Kind.DATA)
    expect(native.scratch[2]).toBe(1)
    expect(native.endPending(near, 2).map((record) => [...record.bytes])).toEqual([[2, 2, 2, 2, 2, 2, 2, 2]])
    native.endDestroy(near)
    native.endDestroy(far)
  })

  it('keep the rules of leases, limits and closing', () => {
    const { near, far, buffer } = native.createPair(4096, 0, 0)
    expect(native.endSend(near, bytes(1025, 0), Kind.DATA, 0)).toBe(Status.TOO_LARGE)
    expect(native.endReserve(near, 1025)).toBe(Status.TOO_LARGE)
    expect(native.endCommit(near, 1)).toBe(Status.LEASE)
    const offset = native.endReserve(near, 64)
    expect(native.endReserve(near, 1)).toBe(Status.LEASE)
    expect(native.endSend(near, bytes(1, 0), Kind.DATA, 0)).toBe(Status.LEASE)
    expect(() => native.endCommit(near, 65)).toThrow(RangeError)
    new Uint8Array(buffer, offset, 64).fill(5)
    expect(native.endCommit(near, 16)).toBe(1)
    expect(native.endReceive(far)).toBe(Kind.DATA)
    expect(native.scratch[1]).toBe(16)
    native.endReserve(near, 8)
    expect(native.endAbort(near)).toBe(1)
    expect(native.endAbort(near)).toBe(Status.LEASE)
    expect(native.endSend(near, bytes(10, 1), Kind.FRAG, 20)).toBe(1)
    expect(native.endReceive(far)).toBe(Kind.FRAG)
    expect([native.scratch[1], native.scratch[3]]).toEqual([10, 20])
    expect(native.endSend(near, new Uint8Array(0), Kind.FIN, 0)).toBe(1)
    expect(native.endSend(near, bytes(1, 0), Kind.DATA, 0)).toBe(Status.CLOSED)
    expect(native.endReceiveWait(far, 1000)).toBe(Kind.FIN)
    expect(native.endReceiveWait(far, 1000)).toBe(0) // nobody else is on this thread: it does not wait
    native.endDestroy(near)
    native.endDestroy(far)
  })

  it('refuse arguments of the wrong type or range', () => {
    const { near, far } = native.createPair(4096, 0, 0)
    const wrong = native as unknown as Record<string, (...of: unknown[]) => unknown>
    expect(() => wrong.endSend!('x', bytes(1, 0), 1, 0)).toThrow(TypeError)
    expect(() => wrong.endSend!(near, 'text', 1, 0)).toThrow(TypeError)
    expect(() => wrong.endSend!(near, new Float64Array(1), 1, 0)).toThrow(TypeError)
    expect(() => wrong.endSend!(near, bytes(1, 0), 2, 0)).toThrow(RangeError)
    expect(() => wrong.endSend!(near)).toThrow(TypeError)
    expect(() => wrong.endReserve!(near, -1)).toThrow(RangeError)
    expect(() => wrong.endReserve!(near, 1.5)).toThrow(RangeError)
    expect(() => wrong.createPair!(5000, 0, 0)).toThrow(RangeError)
    expect(() => wrong.createPair!(4096, -1, 0)).toThrow(RangeError)
    expect(() => wrong.onPairReady!(1)).toThrow(TypeError)
    expect(wrong.endReceive!(2 ** 32 - 1)).toBe(Status.CLOSED)
    expect(wrong.endDestroy!(2 ** 32 - 1)).toBeUndefined()
    expect(() => wrong.endCounters!(2 ** 32 - 1)).toThrow(
      expect.objectContaining({ code: 'ERR_VMRING_CLOSED' }),
    )
    native.endDestroy(near)
    native.endDestroy(far)
  })
})

describe.each<[Mode, boolean]>([
  ['event', true],
  ['adaptive', true],
  ['busy', true],
  ['adaptive', false],
])('two members of a region, %s, interrupts: %s', (mode, interrupts) => {
  it('meet, pass control messages and records, wake each other, and part', async () => {
    const [a, b] = pair(mode, interrupts)
    const events: string[] = []
    a.onPeer = (event, peer) => events.push(`a${event}:${peer.section}`)
    b.onPeer = (event, peer) => events.push(`b${event}:${peer.section}`)
    await until(() => events.length === 2, 'joining')
    expect(events.sort()).toEqual([`a${PeerEvent.JOINED}:1`, `b${PeerEvent.JOINED}:0`])
    expect(a.peer.remotes()).toMatchObject([
      { section: 1, incarnation: b.peer.incarnation, pid: process.pid },
    ])

    const control: string[] = []
    b.onControl = (section, incarnation, message) => {
      expect([section, incarnation]).toEqual([0, a.peer.incarnation])
      control.push(Buffer.from(message).toString())
    }
    expect(a.peer.sendControl(1, Buffer.from('x'.repeat(1000)))).toBe(true)
    expect(a.peer.sendControl(1, Buffer.from('short'))).toBe(true)
    expect(a.peer.sendControl(3, Buffer.from('nobody'))).toBe(false)
    await until(() => control.length === 2, 'control messages')
    expect(control).toEqual(['x'.repeat(1000), 'short'])

    const [near, far] = joinEnds(a, b)
    let got = 0
    let echoes = 0
    b.onReady = (id, bits) => {
      expect([id, bits & Ready.FAULT]).toEqual([far, 0])
      while (native.endReceive(far) > 0) {
        const [offset, length, sequence] = native.scratch
        native.endSend(far, new Uint8Array(b.region.buffer, offset, length), Kind.DATA, 0)
        native.endRelease(far, sequence!)
        got++
      }
    }
    a.onReady = () => {
      while (native.endReceive(near) > 0) {
        native.endRelease(near, native.scratch[2]!)
        echoes++
      }
    }
    for (let i = 0; i < 200; i++) {
      expect(native.endSend(near, bytes(64, i), Kind.DATA, 0)).toBe(1)
      if (i % 10 === 0) await until(() => echoes === i + 1, 'the echo')
    }
    await until(() => echoes === 200, 'all echoes')
    // asleep by now; the first message after that wakes
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect(native.endSend(near, bytes(64, 0), Kind.DATA, 0)).toBe(1)
    await until(() => echoes === 201, 'the echo after sleep')
    expect(got).toBe(201)

    events.length = 0
    b.peer.close()
    await until(() => events.length === 1, 'leaving')
    expect(events).toEqual([`a${PeerEvent.LEFT}:1`])
    expect(a.peer.remotes()).toEqual([])
    expect(native.endSend(far, bytes(1, 0), Kind.DATA, 0)).toBe(Status.CLOSED)
    expect(() => a.peer.createEnd(1, 4096, 0, 0)).toThrow(
      expect.objectContaining({ code: 'ERR_VMRING_PEER_GONE' }),
    )
  })
})

describe('members', () => {
  it('see somebody who comes back as a new incarnation: left, then joined', async () => {
    const [a, b] = pair('adaptive', false)
    await until(() => a.peer.remotes().length === 1, 'joining')
    const events: number[] = []
    a.onPeer = (event) => events.push(event)
    const again = joinRegion(sameMemory(a.region), 1, 'adaptive', false)
    open.push(again)
    await until(() => events.includes(PeerEvent.JOINED), 'the new incarnation')
    expect(events).toEqual([PeerEvent.LEFT, PeerEvent.JOINED])
    expect(a.peer.remotes()[0]!.incarnation).toBe(again.peer.incarnation)
    expect(again.peer.incarnation).not.toBe(b.peer.incarnation)
  })

  it('lend section memory for large messages and take it back one by one', async () => {
    const [a, b] = pair('event')
    await until(() => a.peer.remotes().length === 1 && b.peer.remotes().length === 1, 'joining')
    const [near, far] = joinEnds(a, b)
    const before = a.peer.counters().freeBytes
    const offset = a.peer.allocLarge(near, 300_000)
    new Uint8Array(a.region.buffer, offset, 300_000).fill(9)
    expect(a.peer.commitLarge(near, offset + 8, 1)).toBe(Status.LEASE)
    expect(() => a.peer.commitLarge(near, offset, 300_001)).toThrow(RangeError)
    expect(a.peer.commitLarge(near, offset, 300_000)).toBe(1)
    expect(a.peer.allocLarge(near, 900_000)).toBe(-1)
    const waited = native.endReceiveWait(far, 1000)
    expect(waited).toBe(Kind.LARGE)
    const [at, length, sequence] = native.scratch
    expect(new Uint8Array(b.region.buffer, at, length).every((byte) => byte === 9)).toBe(true)
    expect(native.endPending(near, 0)).toMatchObject([{ kind: Kind.LARGE, total: 0 }])
    expect(native.endIdle(far)).toBe(false)
    expect(native.endRelease(far, sequence!)).toBe(1)
    expect(native.endIdle(far)).toBe(true)
    const second = a.peer.allocLarge(near, 900_000)
    expect(second).toBeGreaterThan(0)
    a.peer.freeLarge(near, second)
    expect(a.peer.counters().freeBytes).toBe(before)
    expect(() => a.peer.createEnd(1, 1 << 20, 0, 0)).toThrow(
      expect.objectContaining({ code: 'ERR_VMRING_SECTION_FULL' }),
    )
    native.endDestroy(near)
    expect(a.peer.counters().freeBytes).toBe(a.peer.counters().sectionBytes)
  })

  it('refuse an offer outside the other section, and a record that breaks the rules', async () => {
    const [a, b] = pair('event')
    await until(() => a.peer.remotes().length === 1 && b.peer.remotes().length === 1, 'joining')
    // its first record stands at its start, also where rings begin 32 KiB before 2^32 (CMakeLists.txt)
    const near = a.peer.createEnd(1, 16384, 0, 0)
    const far = b.peer.createEnd(0, 16384, 0, 0)
    for (const change of [
      { ringOffset: 0 },
      { ringOffset: 2 ** 40 },
      { ringOffset: far.offer.ringOffset + 1 },
      { readerOffset: 128 },
      { capacity: 32768 },
      { tag: 0 },
    ]) {
      expect(() => a.peer.attachEnd(near.id, { ...far.offer, ...change })).toThrow(
        expect.objectContaining({ code: 'ERR_VMRING_PROTOCOL' }),
      )
    }
    a.peer.attachEnd(near.id, far.offer)
    b.peer.attachEnd(far.id, near.offer)
    const bits: number[] = []
    a.onReady = (_, reported) => bits.push(reported)
    // what stands at the start of the other side's ring: kind 15 is none of ours
    const { sectionOffset, sectionSize } = b.region.geometry()
    new DataView(b.region.buffer).setUint32(
      sectionOffset + sectionSize + far.offer.ringOffset + 128,
      0xf0000000,
      true,
    )
    await until(() => bits.length > 0, 'the report')
    expect(native.endReceive(near.id)).toBe(Status.FAULT)
    expect(native.endFault(near.id)).toContain('unknown kind')
    expect(native.endSend(near.id, bytes(1, 0), Kind.DATA, 0)).toBe(Status.FAULT)
    await until(() => bits.includes(Ready.FAULT), 'the fault')
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(bits.filter((value) => (value & Ready.FAULT) !== 0)).toHaveLength(1)
  })

  it('wait for a record on this thread, up to the timeout', async () => {
    const [a, b] = pair('adaptive')
    await until(() => a.peer.remotes().length === 1 && b.peer.remotes().length === 1, 'joining')
    const [near, far] = joinEnds(a, b)
    for (const mode of ['event', 'adaptive', 'busy'] as const) {
      b.peer.setMode(mode)
      const start = performance.now()
      expect(native.endReceiveWait(far, 30)).toBe(0)
      const took = performance.now() - start
      expect(took).toBeGreaterThan(29)
      expect(took).toBeLessThan(1000)
      native.endSend(near, bytes(3, 1), Kind.DATA, 0)
      expect(native.endReceiveWait(far, 30)).toBe(Kind.DATA)
    }
  })
})
