/** Frames over byte streams: whole, cut anywhere, hostile, and more of them than anybody reads. */
import { afterEach, describe, expect, test } from 'vitest'
import { native } from '../../src/native/binding.js'
import type { NativeStream } from '../../src/native/socket-types.js'
import {
  DATA_BODY,
  encodeFrame,
  Flag,
  FrameType,
  HEADER_BYTES,
  readHeader,
  writeHeader,
} from '../../src/path/frames.js'
import { FramePath, type WireEvents } from '../../src/path/pump.js'
import { StreamWire } from '../../src/path/stream.js'
import { until } from '../support/addon.js'
import { streamPair } from '../support/stream-path.js'

const open: NativeStream[] = []
afterEach(() => {
  for (const stream of open.splice(0)) stream.close()
})

async function pair(buffer = 0): Promise<[NativeStream, NativeStream]> {
  const streams = await streamPair(buffer)
  open.push(...streams)
  return streams
}

const CHANNEL = Uint8Array.from({ length: 24 }, (_, n) => n + 1)

/** A DATA frame, with what its sender claims to have had. */
function data(sequence: number, payload: Uint8Array, kind = 1, flags = 0): Uint8Array {
  const frame = new Uint8Array(HEADER_BYTES + DATA_BODY + payload.length)
  const view = writeHeader(frame, FrameType.DATA, flags, 1, CHANNEL, DATA_BODY + payload.length)
  view.setUint32(40, sequence, true)
  frame[56] = kind
  frame.set(payload, HEADER_BYTES + DATA_BODY)
  return frame
}

const filled = (sequence: number, length: number): Uint8Array => {
  const bytes = new Uint8Array(length)
  for (let i = 0; i < length; i++) bytes[i] = (sequence * 31 + i * 7) & 255
  return bytes
}

/** Keeps what a wire tells; takes the rest of payloads into memory of its own. */
class Listener implements WireEvents {
  frames: Uint8Array[] = []
  bells = 0
  writable = 0
  direct = 0
  error: Error | null = null
  wanted = true
  #whole: Uint8Array | null = null
  onFrame(frame: Uint8Array): void {
    this.frames.push(frame.slice())
  }
  onPart(frame: Uint8Array, length: number): Uint8Array | null {
    if (!this.wanted) return null
    this.#whole = new Uint8Array(length)
    this.#whole.set(frame)
    this.direct += length - frame.length
    return this.#whole.subarray(frame.length)
  }
  onWhole(): void {
    this.frames.push(this.#whole!)
  }
  onWritable(): void {
    this.writable++
  }
  onBell(): void {
    this.bells++
  }
  onLost(error: Error): void {
    this.error = error
  }
}

async function wireAndPeer(buffer = 0): Promise<[StreamWire, Listener, NativeStream]> {
  const [near, far] = await pair(buffer)
  const wire = new StreamWire(near, { name: 'unix' })
  const listener = new Listener()
  wire.events = listener
  return [wire, listener, far]
}

describe('reading', () => {
  test('frames are the same wherever the stream is cut', async () => {
    const sizes = [0, 1, 100, 5000, 70_000, 3, 200_000, 65_536 - 60, 4096 + 1024, 17]
    const frames = sizes.map((size, n) => data(n, filled(n, size)))
    frames.splice(3, 0, encodeFrame({ type: FrameType.HELLO }))
    const whole = Buffer.concat(
      frames.flatMap((frame, n) => (n % 2 === 0 ? [frame, Uint8Array.of(0)] : [frame])),
    )
    for (const step of [1, 7, 59, 61, 1023, 1024, 4097, 65_535, 65_536, 200_001, whole.length]) {
      const [, listener, far] = await wireAndPeer()
      // one byte at a time only where it may matter
      const cuts = step === 1 ? Array.from({ length: 6000 }, (_, n) => n + 1) : []
      if (step > 1) for (let at = step; at < whole.length; at += step) cuts.push(at)
      let from = 0
      for (const [n, to] of [...cuts, whole.length].entries()) {
        far.write([whole.subarray(from, to)])
        from = to
        if (step < 1024 ? n % 64 === 0 : true) await new Promise(setImmediate)
      }
      await until(() => listener.frames.length === frames.length, `all frames in steps of ${step}`)
      for (const [n, frame] of frames.entries()) expect(Buffer.compare(listener.frames[n]!, frame)).toBe(0)
      expect([listener.bells, listener.error]).toEqual([6, null])
      expect(listener.direct).toBeGreaterThan(190_000)
      for (const stream of open.splice(0)) stream.close()
    }
  })

  test('bytes read behind the handshake come first', async () => {
    const [near, far] = await pair()
    const frames = [data(0, filled(0, 10)), data(1, filled(1, 300_000)), data(2, filled(2, 20))]
    const whole = Buffer.concat(frames)
    const wire = new StreamWire(near, { name: 'unix', buffered: whole.subarray(0, 150_000) })
    far.write([whole.subarray(150_000)])
    await new Promise((resolve) => setTimeout(resolve, 20))
    const listener = new Listener()
    wire.events = listener
    await until(() => listener.frames.length === 3, 'three frames')
    for (const [n, frame] of frames.entries()) expect(Buffer.compare(listener.frames[n]!, frame)).toBe(0)
  })

  test('payloads that nobody wants are passed over', async () => {
    const [, listener, far] = await wireAndPeer()
    listener.wanted = false
    far.write([data(0, filled(0, 500_000)), data(1, filled(1, 5))])
    await until(() => listener.frames.length === 1, 'the small one')
    expect(Buffer.compare(listener.frames[0]!, data(1, filled(1, 5)))).toBe(0)
  })

  const withLength = (type: number, length: number): Uint8Array => {
    const frame = new Uint8Array(100)
    writeHeader(frame, type, 0, 0, CHANNEL, length)
    return frame
  }
  test.each([
    ['text', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
    ['another version', Uint8Array.of(2, 1, 0, 0)],
    ['a session frame above the limit', withLength(FrameType.OPEN, 2048 - HEADER_BYTES + 1)],
    ['a session frame of 4 GiB', withLength(FrameType.ACK, 0xffffffff)],
    ['DATA that fits no ring', withLength(FrameType.DATA, 2 ** 27 + 28)],
    ['DATA of 4 GiB', withLength(FrameType.DATA, 0xffffffff)],
    ['garbage behind a frame', Buffer.concat([data(0, filled(0, 9)), Buffer.alloc(5000, 0xee)])],
  ])('%s ends the wire', async (_, bytes) => {
    const [wire, listener, far] = await wireAndPeer()
    far.write([bytes])
    await until(() => listener.error !== null, 'the end of the wire')
    expect(listener.error).toMatchObject({ code: 'ERR_VMRING_PROTOCOL' })
    expect(wire.send(encodeFrame({ type: FrameType.HELLO }), null)).toBe(true)
  })

  test('half a frame, then the end', async () => {
    for (const cut of [1, 39, 40, 59, 60, 100, 5000, 90_000]) {
      const [, listener, far] = await wireAndPeer()
      far.write([data(0, filled(0, 100_000)).subarray(0, cut)])
      far.end()
      await until(() => listener.error !== null, 'the end of the wire')
      expect(listener.error).toMatchObject({ code: 'ERR_VMRING_CLOSED' })
      expect(listener.frames).toEqual([])
    }
  })

  test('random bytes end the wire or are frames; nothing throws', async () => {
    let state = 12345
    const random = (): number => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0
      return state >>> 8
    }
    for (let round = 0; round < 60; round++) {
      const [near, far] = await pair()
      const path = new FramePath(new StreamWire(near, { name: 'unix' }), {
        uuid: CHANNEL,
        incarnation: 1,
        section: -1,
      })
      const end = path.createEnd({ channel: CHANNEL, epoch: 1, capacity: 16_384 })
      end.attach(new Uint8Array(0))
      let faults = 0
      end.events = { onReadable() {}, onWritable() {}, onFault: () => faults++ }
      // frames that are nearly right: one byte of the header or body is another one
      for (let n = 0; n < 20 && !path.lost; n++) {
        const frame = data(n, filled(n, random() % 6000), 1 + (random() % 6), random() % 5)
        frame[random() % 68] = random() & 255
        far.write([frame])
      }
      far.end()
      await until(() => path.lost, 'the end of the wire')
      end.destroy()
      near.close()
      far.close()
    }
  })
})

describe('writing', () => {
  test('the frames of one turn go out together, in order; a full socket is waited for', async () => {
    const [wire, listener, far] = await wireAndPeer()
    const received: Uint8Array[] = []
    const target = new Uint8Array(1 << 16)
    far.start({ onRead: (n) => received.push(target.slice(0, n)), onEnd() {}, onDrain() {}, onClose() {} })
    const sent: Uint8Array[] = []
    let full = false
    for (let n = 0; n < 200; n++) {
      const head = data(n, new Uint8Array(0))
      const payload = n % 3 === 0 ? null : filled(n, n % 3 === 1 ? 500 : 20_000)
      full = !wire.send(head, payload) || full
      sent.push(head, payload ?? new Uint8Array(0))
      if (full) break
      if (n % 50 === 10) wire.ring()
      if (n % 50 === 10) sent.push(Uint8Array.of(0))
    }
    expect(full).toBe(true)
    expect(listener.writable).toBe(0)
    const hello = encodeFrame({ type: FrameType.HELLO })
    expect(wire.send(hello, null)).toBe(false)
    sent.push(hello)
    far.readInto(target)
    await until(() => listener.writable > 0, 'room')
    expect(wire.send(hello, null)).toBe(true)
    sent.push(hello)
    const wanted = Buffer.concat(sent)
    await until(() => received.reduce((sum, { length }) => sum + length, 0) === wanted.length, 'all bytes')
    expect(Buffer.compare(Buffer.concat(received), wanted)).toBe(0)
  })

  test('a side that does not read costs a bounded queue, and may come back', async () => {
    const [wire, listener, far] = await wireAndPeer()
    const frame = encodeFrame({ type: FrameType.ANNOUNCE, service: 'x'.repeat(200) })
    for (let n = 0; n < 20_000; n++) {
      wire.send(frame, null)
      if (n % 100 === 0) await new Promise(setImmediate)
    }
    expect(listener.error).toBe(null)
    let received = 0
    const target = new Uint8Array(1 << 16)
    far.start({
      onRead(n) {
        received += n
      },
      onEnd() {},
      onDrain() {},
      onClose() {},
    })
    far.readInto(target)
    await until(() => listener.writable > 0 && received % frame.length === 0, 'room, and whole frames')
    // what the socket held, what was gathered, what waited
    expect(received).toBeLessThan(2 << 20)
  })

  test('a side that asks and never reads the answers loses the wire', async () => {
    const [wire, listener, far] = await wireAndPeer()
    const answer = encodeFrame({ type: FrameType.ANNOUNCE, service: 'x'.repeat(200) })
    listener.onFrame = () => {
      for (let n = 0; n < 4; n++) wire.send(answer, null)
    }
    const ask = Buffer.concat(Array.from({ length: 1000 }, () => encodeFrame({ type: FrameType.HELLO })))
    let closed = false
    far.start({
      onRead() {},
      onEnd() {},
      onDrain() {
        far.write([ask])
      },
      onClose() {
        closed = true
      },
    })
    const pump = (): void => {
      if (listener.error !== null || closed) return
      if (far.queued === 0) far.write([ask])
      setImmediate(pump)
    }
    pump()
    await until(() => listener.error !== null, 'the end of the wire')
    expect(listener.error).toMatchObject({ code: 'ERR_VMRING_PROTOCOL' })
  })
})

test('an inbox without room: what is turned away is asked for again, nothing is lost or doubled', async () => {
  for (const size of [900, 3900]) {
    const [near, far] = await pair()
    const path = new FramePath(new StreamWire(near, { name: 'unix' }), {
      uuid: CHANNEL,
      incarnation: 1,
      section: -1,
    })
    const end = path.createEnd({ channel: CHANNEL, epoch: 1, capacity: 16_384 })
    const count = 60
    let next = 0
    let reading = false
    let fault: Error | null = null
    const drain = (): void => {
      while (reading && native.endReceive(end.id) > 0) {
        const [offset, length, sequence] = native.scratch as unknown as [number, number, number]
        expect(sequence).toBe(next)
        expect(Buffer.compare(new Uint8Array(end.buffer, offset, length), filled(next, size))).toBe(0)
        next++
        native.endRelease(end.id, sequence)
        end.onRelease?.()
      }
    }
    end.events = {
      onReadable: drain,
      onWritable() {},
      onFault(error) {
        fault = error
      },
    }
    end.attach(new Uint8Array(0))
    // Records of its own, right behind: they carry the counters in place of an ACK, but never the question.
    const soon = path.acknowledgeSoon.bind(path)
    path.acknowledgeSoon = (one) => {
      soon(one)
      native.endSend(end.id, filled(0, 8), 1, 0)
      one.pumpOut()
    }
    // the other side: sends everything at once, whatever the ring holds, and again from where it is asked to
    const target = new Uint8Array(1 << 16)
    let have = Buffer.alloc(0)
    let gaps = 0
    const send = (from: number): void => {
      for (let n = from; n < count; n++) far.write([data(n, filled(n, size))])
    }
    far.start({
      onRead(length) {
        have = Buffer.concat([have, target.subarray(0, length)])
        for (let header = readHeader(have); header !== null; header = readHeader(have)) {
          if (header.type === FrameType.ACK && (header.flags & Flag.GAP) !== 0) {
            gaps++
            send(header.view.getUint32(40, true))
          }
          have = have.subarray(header.end)
        }
      },
      onEnd() {},
      onDrain() {},
      onClose() {},
    })
    far.readInto(target)
    send(0)
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect([next, gaps, fault]).toEqual([0, 0, null])
    reading = true
    drain()
    await until(() => next === count || fault !== null, 'all records')
    expect(fault).toBe(null)
    expect(gaps).toBeGreaterThan(0)
    end.destroy()
    near.close()
    far.close()
  }
})
