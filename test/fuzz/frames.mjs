// Session frames, what a process and the relay say to each other, and frames on a byte stream.
import { isDeepStrictEqual } from 'node:util'
import { decodeFrame } from '../../dist/path/frames.js'
import { decodeRelayFrame, encodeRelayFrame, FrameReader, RelayType } from '../../dist/path/relay-frames.js'
import { StreamWire } from '../../dist/path/stream.js'
import {
  ackFrame,
  channelOf,
  dataFrame,
  expect,
  FIELDS,
  led,
  pieces,
  sessionFrames,
  typed,
  uuid,
} from './common.mjs'

function checkFrame(frame, bytes) {
  const texts = [
    frame.service,
    frame.text,
    frame.path,
    frame.origin,
    ...(frame.services ?? []),
    ...(frame.grants ?? []),
  ]
  // each broken byte may have become three
  for (const text of texts)
    expect(
      text === undefined || (typeof text === 'string' && Buffer.byteLength(text) <= 3 * 255),
      'a text that is too long',
    )
  expect(
    frame.channel.length === 24 && frame.epoch >= 0 && frame.epoch <= 0xffffffff,
    'a head that cannot be',
  )
  expect(frame.offer === undefined || frame.offer.length < bytes.length, 'an offer beyond its frame')
  expect(frame.maxMessage === undefined || frame.maxMessage >= 0, 'a negative size')
}

export const frames = {
  files: ['dist/path/frames.js'],
  seeds: sessionFrames(channelOf('t', 7, 1)).map((frame) => Buffer.from(frame)),
  dictionary: FIELDS,
  run(bytes) {
    const frame = decodeFrame(bytes)
    if (frame !== null) checkFrame(frame, bytes)
  },
}

const peer = { uuid: uuid(1), incarnation: 7 }
const target = { uuid: uuid(2), incarnation: 9 }
const token = new Uint8Array(16).fill(5)
export const relay = {
  files: ['dist/path/relay-frames.js', 'dist/path/frames.js'],
  seeds: [
    { type: RelayType.HELLO, peer },
    { type: RelayType.WELCOME, origin: 'uid:1000' },
    { type: RelayType.LISTEN, service: 'orders' },
    { type: RelayType.DIAL, peer, service: 'orders', target },
    { type: RelayType.CALL, token, peer, origin: 'cid:3' },
    { type: RelayType.TAKE, token, peer },
    { type: RelayType.SPLICED, peer, origin: 'cid:3', grants: ['a*', 'b'], path: 'vsock' },
    { type: RelayType.REFUSE, reason: 17, text: 'later', service: 'orders' },
    { type: RelayType.REVOKE, restore: true },
    { type: RelayType.PING },
  ].map((frame) => led([encodeRelayFrame(frame), encodeRelayFrame({ type: RelayType.PONG })])),
  dictionary: FIELDS,
  run(bytes) {
    const read = (chunks) => {
      const reader = new FrameReader()
      const found = []
      const { error } = typed(['ERR_VMRING_PROTOCOL'], () => {
        for (const chunk of chunks) {
          reader.push(chunk)
          for (let frame = reader.next(); frame !== null; frame = reader.next()) found.push(frame)
          expect(reader.pending <= 2048 + chunk.length, 'a reader that keeps too much')
        }
      })
      return { found, error: error?.reason, rest: error === undefined ? reader.rest().length : 0 }
    }
    const whole = read([bytes.subarray(1)])
    const cut = read(pieces(bytes))
    expect(isDeepStrictEqual(whole, cut), 'frames that depend on how the bytes were cut')
    for (const one of whole.found) {
      const frame = decodeRelayFrame(one)
      if (typeof frame === 'string') continue
      const again = decodeRelayFrame(encodeRelayFrame(frame))
      expect(
        isDeepStrictEqual(again, frame),
        `a frame that changes when it is sent on: ${JSON.stringify(frame)}`,
      )
    }
  },
}

// ---- frames on a byte stream

class FakeStream {
  bytesRead = 0
  closed = false
  #handlers = null
  #target = null
  pause() {}
  resume() {}
  start(handlers) {
    this.#handlers = handlers
  }
  readInto(target) {
    this.#target = target
  }
  write() {
    return 0
  }
  close() {
    this.closed = true
  }
  feed(bytes) {
    for (let at = 0; at < bytes.length && !this.closed; ) {
      const part = bytes.subarray(at, at + this.#target.length)
      expect(part.length > 0, 'a wire that asks for no bytes')
      this.#target.set(part)
      this.bytesRead += part.length
      at += part.length
      this.#handlers.onRead(part.length)
    }
  }
}

export const stream = {
  files: ['dist/path/stream.js'],
  seeds: [
    led([...sessionFrames(channelOf('t', 7, 1)), Buffer.of(0, 0)], 40),
    led([dataFrame(channelOf('t', 7, 1), 0, 1, 0, Buffer.alloc(3000, 'y')), Buffer.of(0)], 9),
    led(
      [
        dataFrame(channelOf('t', 7, 1), 0, 1, 0, Buffer.alloc(100, 'y')),
        ackFrame(channelOf('t', 7, 1), 1, 1, 1, 1),
      ],
      3,
    ),
  ],
  dictionary: [Buffer.of(1, 16), Buffer.of(0, 16, 0, 0), Buffer.of(0xff, 0xff, 0xff, 0x07)],
  async run(bytes) {
    const read = async (chunks) => {
      const fake = new FakeStream()
      const wire = new StreamWire(fake, { name: 'unix' })
      const found = []
      let kept = null
      let error = null
      wire.events = {
        onFrame: (frame) => found.push(Buffer.from(frame).toString('latin1')),
        onPart: (frame, length) => {
          // somebody has a place for it if the channel is the one that is open
          if (frame[8] !== 't'.charCodeAt(0) || length > 2 ** 20) {
            found.push('dropped')
            return null
          }
          kept = Buffer.alloc(length)
          kept.set(frame)
          return kept.subarray(frame.length)
        },
        onWhole: () => {
          found.push(kept.toString('latin1'))
          kept = null
        },
        onWritable: () => {},
        onBell: () => found.push('bell'),
        onLost: (why) => {
          error = why
        },
      }
      await new Promise(setImmediate)
      for (const chunk of chunks) fake.feed(chunk)
      expect(
        error === null || error.code === 'ERR_VMRING_PROTOCOL',
        `an error that is not ours: ${error?.stack}`,
      )
      wire.close()
      return { found: found.filter((one) => one !== 'dropped'), error: error?.message }
    }
    const whole = await read([bytes.subarray(1)])
    const cut = await read(pieces(bytes))
    // a frame that nobody wants may have come whole the one time and not the other
    const wanted = ({ found, error }) => ({
      found: found.filter((one) => one[8] === 't' || one.length < 2048),
      error,
    })
    expect(isDeepStrictEqual(wanted(whole), wanted(cut)), 'frames that depend on how the bytes were cut')
  },
}
