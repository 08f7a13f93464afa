// What the targets have in common.
import { encodeFrame, FrameType } from '../../dist/path/frames.js'

export function expect(condition, what) {
  if (!condition) throw new Error(what)
}

/** The value, or the error, which must have one of the codes. */
export function typed(codes, work) {
  try {
    return { value: work() }
  } catch (error) {
    expect(codes.includes(error?.code), `an error that is not ours: ${error?.stack ?? error}`)
    return { error }
  }
}

/** Cuts bytes at places that follow from the bytes themselves; the first byte says how. */
export function* pieces(bytes) {
  const most = bytes.length === 0 ? 1 : 1 + (bytes[0] % 64)
  for (let at = 1, i = 0; at < bytes.length; i++) {
    const length = 1 + ((bytes[i % bytes.length] * 7 + i) % most)
    yield bytes.subarray(at, at + length)
    at += length
  }
}

export const uuid = (n) => new Uint8Array(16).fill(n)
export const channelOf = (who, incarnation, counter) => {
  const id = Buffer.alloc(24, who, 'latin1').fill(who, 0, 16)
  id.writeUInt32LE(incarnation, 16)
  id.writeUInt32LE(counter, 20)
  return id
}
export const led = (frames, first = 0) =>
  Buffer.concat([Buffer.of(first), ...frames.map((frame) => Buffer.from(frame))])
export const FIELDS = Array.from({ length: 15 }, (_, type) =>
  Buffer.of(type, type % 3 === 2 ? 0x80 : 0, 4, 0, 1, 0, 0, 0),
)

export const sessionFrames = (channel) => [
  encodeFrame({ type: FrameType.HELLO }),
  encodeFrame({
    type: FrameType.HELLO_ACK,
    part: { serial: 1, index: 0, count: 1 },
    services: ['their', 'other'],
  }),
  encodeFrame({ type: FrameType.ANNOUNCE, service: 'third' }),
  encodeFrame({ type: FrameType.WITHDRAW, service: 'third' }),
  encodeFrame({
    type: FrameType.OPEN,
    channel,
    service: 'orders',
    offer: new Uint8Array(0),
    capacity: 16384,
    maxMessage: 100000,
  }),
  encodeFrame({ type: FrameType.ACCEPT, channel, offer: new Uint8Array(0), maxMessage: 5000 }),
  encodeFrame({ type: FrameType.REFUSE, channel, reason: 2, text: 'no', capacity: 4096 }),
  encodeFrame({ type: FrameType.ASK_MOVE, channel, flags: 32, path: 'unix' }),
  encodeFrame({ type: FrameType.MOVE, channel, epoch: 1, next: 0, offer: new Uint8Array(0) }),
  encodeFrame({ type: FrameType.MOVED, channel, epoch: 1, next: 0, offer: new Uint8Array(0) }),
  encodeFrame({ type: FrameType.MOVED, channel, epoch: 1, flags: 16 }),
  encodeFrame({ type: FrameType.RETIRE, channel, flags: 8 }),
  encodeFrame({ type: FrameType.CLOSE, channel, next: 1 }),
  encodeFrame({ type: FrameType.CLOSED, channel }),
  encodeFrame({ type: FrameType.RESET, channel, reason: 5, text: 'gone' }),
  encodeFrame({ type: FrameType.RESET_ACK, channel }),
  encodeFrame({ type: FrameType.BELLS }),
]

export function dataFrame(channel, number, kind, flags, payload) {
  const frame = Buffer.alloc(60 + payload.length)
  frame[0] = 1
  frame[1] = FrameType.DATA
  frame.writeUInt16LE(flags, 2)
  frame.set(channel, 8)
  frame.writeUInt32LE(20 + payload.length, 32)
  frame.writeUInt32LE(number, 40)
  frame[56] = kind
  frame.set(payload, 60)
  return frame
}
export function ackFrame(channel, flags, ...counts) {
  const frame = Buffer.alloc(52)
  frame[0] = 1
  frame[1] = FrameType.ACK
  frame.writeUInt16LE(flags, 2)
  frame.set(channel, 8)
  frame.writeUInt32LE(12, 32)
  for (const [i, count] of counts.entries()) frame.writeUInt32LE(count, 40 + 4 * i)
  return frame
}
export const total = (bytes) =>
  Buffer.concat([Buffer.of(bytes, bytes >> 8, 0, 0, 0, 0, 0, 0), Buffer.alloc(40, 'x')])
