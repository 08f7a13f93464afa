import { describe, expect, it } from 'vitest'
import { encodeFrame, Flag, HEADER_BYTES } from '../../src/path/frames.js'
import {
  decodeRelayFrame,
  encodeRelayFrame,
  FrameReader,
  matches,
  type RelayFrame,
  RelayReason,
  RelayType,
  refusalError,
} from '../../src/path/relay-frames.js'

const uuid = (fill: number) => new Uint8Array(16).fill(fill)
const a = { uuid: uuid(1), incarnation: 7 }
const b = { uuid: uuid(2), incarnation: 0xffff_fff0 }
const token = new Uint8Array(16).fill(9)

const frames: RelayFrame[] = [
  { type: RelayType.HELLO, peer: a },
  { type: RelayType.WELCOME, origin: 'cid:3' },
  { type: RelayType.LISTEN, service: 'orders' },
  { type: RelayType.UNLISTEN, service: 'ж'.repeat(127) },
  { type: RelayType.OK, service: 'x' },
  { type: RelayType.DIAL, peer: a, service: 'orders' },
  { type: RelayType.DIAL, peer: a, target: b },
  { type: RelayType.DIAL, peer: a, service: 'orders', target: b },
  { type: RelayType.CALL, token, peer: a, origin: 'uid:1000' },
  { type: RelayType.TAKE, token, peer: b },
  { type: RelayType.SPLICED, peer: b, origin: 'uid:0', grants: ['*'], path: 'unix' },
  { type: RelayType.SPLICED, peer: b, origin: 'cid:9', grants: [], path: 'vsock' },
  { type: RelayType.SPLICED, peer: b, origin: 'cid:9', grants: ['a', 'b-*', 'c'], path: 'vsock' },
  { type: RelayType.REFUSE, reason: RelayReason.POLICY, text: 'no' },
  { type: RelayType.REFUSE, reason: 1, text: '', service: 'orders' },
  { type: RelayType.REFUSE, reason: 2, text: 'full', token },
  { type: RelayType.REVOKE, restore: false },
  { type: RelayType.REVOKE, restore: true },
  { type: RelayType.PING },
  { type: RelayType.PONG },
]

describe('relay frames', () => {
  it.each(frames)('come back as they went ($type)', (frame) => {
    expect(decodeRelayFrame(encodeRelayFrame(frame))).toEqual(frame)
  })

  it('stand on the wire as docs/protocol.md says', () => {
    const bytes = encodeRelayFrame({ type: RelayType.DIAL, peer: a, service: 'orders' })
    const head = `0124${'00'.repeat(30)}28000000${'00'.repeat(4)}`.replace('28000000', '24000000')
    const service = `01000600${Buffer.from('orders').toString('hex')}0000`
    const peer = `0a001400${'01'.repeat(16)}07000000`
    expect(Buffer.from(bytes).toString('hex')).toBe(head + service + peer)
    expect(encodeRelayFrame({ type: RelayType.REVOKE, restore: true })[2]).toBe(Flag.DONE)
  })

  it('lack a field: malformed', () => {
    for (const type of Object.values(RelayType)) {
      const bare = [RelayType.REVOKE, RelayType.PING, RelayType.PONG] as number[]
      const decoded = decodeRelayFrame(encodeFrame({ type }))
      if (bare.includes(type)) expect(decoded).toMatchObject({ type })
      else expect(decoded).toBe('malformed')
    }
    expect(decodeRelayFrame(encodeFrame({ type: RelayType.DIAL, service: 'x' }))).toBe('malformed')
    expect(decodeRelayFrame(encodeFrame({ type: RelayType.DIAL, peer: a }))).toBe('malformed')
    expect(decodeRelayFrame(encodeFrame({ type: RelayType.LISTEN, service: '' }))).toBe('malformed')
    expect(
      decodeRelayFrame(encodeFrame({ type: RelayType.SPLICED, peer: a, origin: 'x', path: 'pigeon' })),
    ).toBe('malformed')
  })

  it('check every length, the incarnation and the text', () => {
    const hello = encodeRelayFrame({ type: RelayType.HELLO, peer: a })
    for (let length = 0; length < hello.length; length++)
      expect(decodeRelayFrame(hello.subarray(0, length))).toBe('malformed')
    for (const wrong of [0, 19, 21, 255, 65535]) {
      const bytes = hello.slice()
      new DataView(bytes.buffer).setUint16(HEADER_BYTES + 2, wrong, true)
      expect(decodeRelayFrame(bytes)).toBe('malformed')
    }
    expect(
      decodeRelayFrame(encodeRelayFrame({ type: RelayType.HELLO, peer: { ...a, incarnation: 0 } })),
    ).toBe('malformed')
    for (const length of [15, 17]) {
      const frame = { type: RelayType.TAKE, token: new Uint8Array(length), peer: a }
      expect(decodeRelayFrame(encodeRelayFrame(frame))).toBe('malformed')
    }
    const listen = encodeRelayFrame({ type: RelayType.LISTEN, service: 'abcd' })
    listen[HEADER_BYTES + 5] = 0xff
    expect(decodeRelayFrame(listen)).toBe('malformed')
  })

  it('of an unknown type are unknown; a field that must be understood and is not makes them malformed', () => {
    expect(decodeRelayFrame(encodeFrame({ type: 45 }))).toBe('unknown')
    expect(decodeRelayFrame(encodeFrame({ type: 1 }))).toBe('unknown')
    const bytes = encodeRelayFrame({ type: RelayType.LISTEN, service: 'abcd' })
    const more = new Uint8Array(bytes.length + 4)
    more.set(bytes)
    const view = new DataView(more.buffer)
    view.setUint32(32, bytes.length - HEADER_BYTES + 4, true)
    view.setUint16(bytes.length, 99, true)
    expect(decodeRelayFrame(more)).toMatchObject({ service: 'abcd' })
    view.setUint16(bytes.length, 99 | 0x8000, true)
    expect(decodeRelayFrame(more)).toBe('malformed')
  })

  it('survive any bytes', () => {
    let seed = 1
    const random = () => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
      return seed >>> 24
    }
    for (let round = 0; round < 20_000; round++) {
      const bytes = encodeRelayFrame(frames[round % frames.length]!)
      for (let n = random() % 4; n >= 0; n--)
        bytes[((random() << 8) % bytes.length) | (random() % bytes.length)] = random()
      decodeRelayFrame(bytes)
    }
  })
})

describe('FrameReader', () => {
  const stream = Buffer.concat([...frames.map(encodeRelayFrame), Buffer.from('the rest')])

  it.each([1, 2, 3, 7, 40, 41, 100, 10_000])('cuts a stream that comes in pieces of %i bytes', (size) => {
    const reader = new FrameReader()
    const found: unknown[] = []
    const tail: Uint8Array[] = []
    for (let at = 0; at < stream.length; at += size) {
      // the memory of a piece is used again
      const piece = Uint8Array.from(stream.subarray(at, at + size))
      if (found.length === frames.length) {
        tail.push(piece)
        continue
      }
      reader.push(piece)
      piece.fill(0xee)
      while (found.length < frames.length) {
        const frame = reader.next()
        if (frame === null) break
        found.push(decodeRelayFrame(frame))
      }
      if (found.length === frames.length) tail.push(reader.rest())
    }
    expect(found).toEqual(frames)
    expect(Buffer.concat(tail).toString()).toBe('the rest')
    expect(reader.pending).toBe(0)
  })

  it('refuses another version at its first byte, and a length above the limit as soon as it is known', () => {
    const reader = new FrameReader()
    reader.push(Buffer.from([2]))
    expect(() => reader.next()).toThrow(expect.objectContaining({ reason: RelayReason.VERSION }))
    const long = new FrameReader(64)
    const header = new Uint8Array(HEADER_BYTES)
    header[0] = 1
    new DataView(header.buffer).setUint32(32, 25, true)
    long.push(header.subarray(0, 39))
    expect(long.next()).toBeNull()
    long.push(header.subarray(39))
    expect(() => long.next()).toThrow(
      expect.objectContaining({ code: 'ERR_VMRING_PROTOCOL', reason: RelayReason.HANDSHAKE }),
    )
    new DataView(header.buffer).setUint32(32, 0xffff_ffff, true)
    const longest = new FrameReader()
    longest.push(header)
    expect(() => longest.next()).toThrow(expect.objectContaining({ reason: RelayReason.HANDSHAKE }))
  })
})

describe('patterns', () => {
  it.each([
    ['*', 'anything', true],
    ['*', '', true],
    ['orders', 'orders', true],
    ['orders', 'orders2', false],
    ['orders2', 'orders', false],
    ['app-*', 'app-', true],
    ['app-*', 'app-x', true],
    ['app-*', 'ap-x', false],
    ['*-app', 'my-app', true],
    ['*-app', 'my-apps', false],
    ['a*b*c', 'a-b-b-c', true],
    ['a*b*c', 'a-c-b', false],
    ['**', 'x', true],
    ['a.c', 'abc', false],
    ['[a]', 'a', false],
    ['', '', true],
    ['', 'x', false],
    ['a', '*', false],
  ])('%s and %s: %s', (pattern, service, expected) => {
    expect(matches(pattern, service)).toBe(expected)
  })

  it('take no more than a moment for the worst of them', () => {
    const started = performance.now()
    expect(matches(`${'*a'.repeat(127)}b`, 'a'.repeat(255))).toBe(false)
    expect(performance.now() - started).toBeLessThan(100)
  })
})

describe('refusals are typed errors', () => {
  it.each([
    [1, 'ECONNREFUSED'],
    [2, 'ERR_VMRING_RELAY_BUSY'],
    [16, 'ERR_VMRING_POLICY'],
    [17, 'ERR_VMRING_RELAY_BUSY'],
    [18, 'ERR_VMRING_UNKNOWN_PEER'],
    [19, 'ERR_VMRING_IDENTITY'],
    [20, 'ERR_VMRING_RELAY_VERSION'],
    [21, 'ERR_VMRING_RELAY_PROTOCOL'],
    [22, 'ERR_VMRING_UNKNOWN_PEER'],
    [99, 'ERR_VMRING_REFUSED'],
  ])('reason %i is %s', (reason, code) => {
    const error = refusalError({ reason, text: 'because', service: 'orders' })
    expect(error.code).toBe(code)
    expect(error.message).toContain('because')
    expect(error.message).toContain('orders')
  })
})
