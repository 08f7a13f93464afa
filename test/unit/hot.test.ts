/** The calls of every message have no arguments: what stands in their words is checked like arguments. */
import { afterEach, expect, test } from 'vitest'
import { native } from '../../src/native/binding.js'
import { Kind, Ready, Status } from '../../src/native/types.js'
import { giveBack, receiveRecord, receiveRecordWait, sendData } from '../../src/ring/hot.js'
import { joinEnds, members, type TestMember, until } from '../support/addon.js'

const { hot, releases, scratch, staging } = native
const CAPACITY = 65536
const open: TestMember[] = []
const ends: number[] = []

function pair(): { near: number; far: number; buffer: ArrayBuffer } {
  const made = native.createPair(CAPACITY, 0, 0)
  ends.push(made.near, made.far)
  return made
}

/** As channels hold it. */
const handle = (id: number) => ({
  id,
  buffer: new ArrayBuffer(0),
  capacity: CAPACITY,
  retained: 0,
  onRelease: null as (() => void) | null,
})

afterEach(() => {
  for (const id of ends.splice(0)) native.endDestroy(id)
  for (const member of open.splice(0)) {
    member.peer.close()
    member.region.close()
  }
  releases[0] = 0
})

test('messages below, at and above the size of the staging memory arrive as they were', () => {
  const { near, far, buffer } = pair()
  for (const size of [0, 1, 64, staging.length, staging.length + 1, CAPACITY / 4]) {
    const bytes = new Uint8Array(size).map((_, i) => i * 7 + size)
    expect(sendData(near, bytes)).toBe(1)
    expect(receiveRecord(far)).toBe(Kind.DATA)
    const [offset, length, sequence] = scratch
    expect(Buffer.compare(new Uint8Array(buffer, offset!, length!), bytes)).toBe(0)
    giveBack(handle(far), length!, sequence!)
  }
  expect(sendData(near, new Uint8Array(CAPACITY / 4 + 1))).toBe(Status.TOO_LARGE)
  expect(receiveRecord(far)).toBe(0)
  expect(receiveRecordWait(far, 1000)).toBe(0) // nobody else is on this thread: it does not wait
})

test('an array that lies about its length sends that many bytes of the staging memory, and no others', () => {
  class Liar extends Uint8Array {
    override get length(): number {
      return 32
    }
  }
  const { near, far } = pair()
  staging.fill(0)
  expect(sendData(near, new Liar(8))).toBe(1)
  expect(receiveRecord(far)).toBe(Kind.DATA)
  expect(scratch[1]).toBe(32)
})

test('no words lead to another end, or beyond the staging memory', () => {
  const { near, far } = pair()
  for (const id of [-1, 0x7fffffff, near + (1 << 16), 0xffff]) {
    expect(sendData(id, new Uint8Array(8))).toBe(Status.CLOSED)
    expect(receiveRecord(id)).toBe(Status.CLOSED)
    expect(receiveRecordWait(id, 1000)).toBe(Status.CLOSED)
  }
  for (const length of [-1, staging.length + 1, 0x7fffffff, -0x80000000]) {
    hot[0] = near
    hot[1] = length
    native.hotSend()
    expect(hot[2]).toBe(Status.TOO_LARGE)
  }
  for (const timeout of [Number.NaN, -1, Number.NEGATIVE_INFINITY, 0]) {
    expect(receiveRecordWait(far, timeout)).toBe(0)
  }
})

test('releases are noted, and done by the next call with any end that does not receive; notes about ends that are gone mean nothing', () => {
  const { near, far } = pair()
  const other = pair()
  for (let i = 0; i < 3; i++) {
    sendData(near, new Uint8Array(64))
    expect(receiveRecord(far)).toBe(Kind.DATA)
    giveBack(handle(far), scratch[1]!, scratch[2]!)
    expect(releases[0]).toBe(1)
    expect(native.endIdle(far)).toBe(true)
    expect(releases[0]).toBe(0)
  }
  sendData(near, new Uint8Array(64))
  expect(receiveRecord(far)).toBe(Kind.DATA)
  giveBack(handle(far), scratch[1]!, scratch[2]!)
  giveBack(handle(far), 64, 77) // never lent
  giveBack(handle(far + (1 << 16)), 64, 0) // never there
  expect(native.endIdle(other.far)).toBe(true)
  expect(releases[0]).toBe(0)
  expect(native.endIdle(far)).toBe(true)
  // more than there can be
  releases.fill(0xffffffff)
  expect(native.endIdle(far)).toBe(true)
  expect(releases[0]).toBe(0)
})

test('who receives one after the other reads the notes when some have come together, and when nothing is there', () => {
  const { near, far } = pair()
  const counts = Array.from({ length: 20 }, () => {
    sendData(near, new Uint8Array(64))
    expect(receiveRecord(far)).toBe(Kind.DATA)
    giveBack(handle(far), scratch[1]!, scratch[2]!)
    return releases[0]
  })
  const round = [1, 2, 3, 4, 5, 6, 7, 8]
  expect(counts).toEqual([...round, ...round, 1, 2, 3, 4])
  expect(receiveRecord(far)).toBe(0)
  expect(releases[0]).toBe(0)
  expect(native.endIdle(far)).toBe(true)
})

test('notes of several ends in one list lead to the ends that they name', () => {
  const ends = [pair(), pair()]
  for (let i = 0; i < 6; i++) {
    const { near, far } = ends[i % 2]!
    sendData(near, new Uint8Array(64))
    expect(receiveRecord(far)).toBe(Kind.DATA)
    giveBack(handle(far), scratch[1]!, scratch[2]!)
  }
  expect(releases[0]).toBe(6)
  for (const { far } of ends) expect(native.endIdle(far)).toBe(true)
})

test('who waits for another end lets a sender hear of what was released before', async () => {
  const [a, b] = members(2, 'event') as [TestMember, TestMember]
  open.push(a, b)
  await until(() => a.peer.remotes().length === 1 && b.peer.remotes().length === 1, 'both to be there')
  const [near, far] = joinEnds(a, b)
  const [, silent] = joinEnds(a, b)
  native.endWantReadable(far, false)
  while (sendData(near, new Uint8Array(64)) > 0);
  for (let i = 0; i < 4; i++) {
    expect(receiveRecord(far)).toBe(Kind.DATA)
    giveBack(handle(far), scratch[1]!, scratch[2]!)
  }
  expect(receiveRecordWait(silent, 5)).toBe(0)
  // in the same turn of the loop
  expect(sendData(near, new Uint8Array(64))).toBe(1)
})

test('what is large, what somebody waits for, and what finds the list full is given back at once', () => {
  const { near, far } = pair()
  const take = (size: number, end = handle(far)) => {
    expect(sendData(near, new Uint8Array(size))).toBe(1)
    expect(receiveRecord(far)).toBe(Kind.DATA)
    giveBack(end, scratch[1]!, scratch[2]!)
    return releases[0]
  }
  expect(take(CAPACITY / 64)).toBe(1)
  expect(take(CAPACITY / 64 + 1)).toBe(0)
  let told = 0
  expect(take(64, { ...handle(far), onRelease: () => told++ })).toBe(0)
  expect(told).toBe(1)
  const most = (releases.length - 1) / 2
  const sequences = Array.from({ length: most + 1 }, () => {
    sendData(near, new Uint8Array(64))
    expect(receiveRecord(far)).toBe(Kind.DATA)
    return scratch[2]!
  })
  for (const [i, sequence] of sequences.entries()) {
    giveBack(handle(far), 64, sequence)
    expect(releases[0]).toBe(i < most ? i + 1 : 0)
  }
  expect(native.endIdle(far)).toBe(true)
})

test('a sender that waits hears of noted releases before the loop of the receiver sleeps', async () => {
  const [a, b] = members(2, 'event') as [TestMember, TestMember]
  open.push(a, b)
  await until(() => a.peer.remotes().length === 1 && b.peer.remotes().length === 1, 'both to be there')
  const [near, far] = joinEnds(a, b)
  let room = 0
  a.onReady = (_id, bits) => {
    if ((bits & Ready.WRITABLE) !== 0) room++
  }
  native.endWantReadable(far, false)
  while (sendData(near, new Uint8Array(64)) > 0);
  expect(native.endWantSpace(near, 64)).toBe(false)
  // four records: far from the quarter of the ring at which the sender is told at once
  for (let i = 0; i < 4; i++) {
    expect(receiveRecord(far)).toBe(Kind.DATA)
    giveBack(handle(far), scratch[1]!, scratch[2]!)
  }
  expect(releases[0]).toBe(4) // too few for the calls in between
  await until(() => room > 0, 'room for the sender')
})
