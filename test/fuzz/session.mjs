// Sessions: a peer that listens and connects, and a wire on which the input says everything. And what a port receives.
import { PortTransfer } from '../../dist/channel/port-transfer.js'
import { FramePath } from '../../dist/path/pump.js'
import { Peer } from '../../dist/peer/peer.js'
import { SessionHub } from '../../dist/session/hub.js'
import { ackFrame, channelOf, dataFrame, expect, FIELDS, sessionFrames, total, uuid } from './common.mjs'

class FakeWire {
  name = 'unix'
  reliable = true
  events = null
  send() {
    return true
  }
  ring() {}
  close() {}
}
const nobody = { address: 'memory', section: -1, counters: () => null, hold() {}, drop() {}, close() {} }
const script = (list) =>
  Buffer.concat(list.map((frame) => Buffer.concat([Buffer.of(frame.length, frame.length >> 8), frame])))
const their = channelOf('t', 7, 1)
const [hello, services, , , open] = sessionFrames(their)
const ours = channelOf('o', 3, 1)
const turn = Buffer.alloc(0)

export const session = {
  files: [
    'hub.js',
    'session.js',
    'open.js',
    'move.js',
    'remote.js',
    'connect.js',
    'replies.js',
    'retired.js',
    'steward.js',
    'pump.js',
    'pump-end.js',
    'receiver.js',
    'outbound.js',
    'channel.js',
  ],
  seeds: [
    script([hello, services, open, turn, dataFrame(their, 0, 1, 0, Buffer.from('hello')), turn]),
    script([
      open,
      turn,
      dataFrame(their, 0, 4, 4, total(80)),
      dataFrame(their, 1, 5, 0, Buffer.alloc(40, 'y')),
      turn,
      dataFrame(their, 2, 6, 0, turn),
      turn,
    ]),
    script([
      services,
      turn,
      ...sessionFrames(ours).slice(5, 6),
      turn,
      dataFrame(ours, 0, 1, 0, Buffer.from('x')),
      ackFrame(ours, 0, 1, 1, 1),
      turn,
    ]),
    script([services, turn, ...sessionFrames(ours).slice(6), turn]),
    script([open, turn, ...sessionFrames(their).slice(7), turn]),
    script([open, turn, ackFrame(their, 2, 0, 0, 0), ackFrame(their, 1, 1, 1, 1), turn]),
  ],
  dictionary: [
    ...FIELDS,
    ...[...sessionFrames(their), ...sessionFrames(ours)].map((frame) => script([Buffer.from(frame)])),
    script([turn]),
  ],
  async run(bytes) {
    const hub = new SessionHub({ uuid: uuid('o'.charCodeAt(0)), incarnation: 3 })
    const me = new Peer(hub, nobody)
    const wire = new FakeWire()
    const path = new FramePath(
      wire,
      { uuid: uuid('t'.charCodeAt(0)), incarnation: 7, section: -1 },
      { capacity: 16384 },
    )
    let failure = null
    const ended = (error) => {
      if (error !== null && !/^(ERR_VMRING_|E[A-Z]+$)/.test(error?.code)) failure = error
    }
    const use = (channel) => {
      channel.on('message', (message) => {
        if (message.length <= 100) channel.trySend(message.copy())
      })
      channel.closed.then(ended)
    }
    const server = await me.listen('orders', { maxMessageSize: 100_000 })
    server.on('channel', use)
    hub.addPath(path)
    me.connect('their', { wait: 1000 }).then(use, ended)
    for (let at = 0; at + 2 <= bytes.length; ) {
      const length = bytes.readUInt16LE(at) & 0xfff
      const frame = bytes.subarray(at + 2, at + 2 + length)
      at += 2 + length
      if (length === 0) await new Promise(setImmediate)
      else if (frame.length > 0)
        wire.events?.onFrame(frame[1] === 16 || frame[1] === 17 ? frame : frame.slice())
    }
    await new Promise(setImmediate)
    await hub.close(0)
    path.close(new Error('the input is through'))
    await me.close()
    if (failure !== null) throw failure
  },
}

// ---- structured clones, with ports in them

const values = [
  { a: 1, b: [true, null, undefined, 2n ** 70n, -0.5], c: new Map([[1, new Set(['x', 'ü', '😀'])]]) },
  [new Date(0), /a+b/gi, new Error('e'), new Uint16Array([1, 2, 3]), new ArrayBuffer(5), Buffer.from('x')],
  ['x'.repeat(40), Object('y'), Object.assign([], { 1: 1, 3: 2 }), 2 ** 40, -1],
]
function encoded() {
  const transfer = new PortTransfer(() => {})
  const { port1, port2 } = new MessageChannel()
  const bytes = [
    ...values.map((value) => transfer.encode(value, new Set())),
    transfer.encode({ p: port1, q: 1 }, new Set([port1])),
  ]
  transfer.close()
  port2.close()
  return [
    ...bytes,
    Buffer.concat([Buffer.of(1, 1, 0, 0, 0), bytes[0]]),
    Buffer.of(2, 1, 0, 0, 0),
    Buffer.of(3, 0, 0, 0, 0),
  ]
}

export const clone = {
  files: ['dist/channel/port-transfer.js'],
  seeds: encoded().map((bytes) => Buffer.from(bytes)),
  dictionary: [...'oOaA;:@BVvRDZuwWTFIUN"c', '\\']
    .map((tag) => Buffer.from(tag))
    .concat([Buffer.of(0xff, 15), Buffer.of(0xff, 0xff, 0xff, 0xff, 0x0f)]),
  run(bytes) {
    const transfer = new PortTransfer(() => {})
    try {
      // whoever gets such bytes hears of them as 'messageerror', whatever the engine says about them
      const decoded = transfer.decode(Uint8Array.from(bytes))
      expect(decoded === undefined || Array.isArray(decoded.ports), 'no ports')
      for (const port of decoded?.ports ?? []) port.close()
    } catch (error) {
      expect(error instanceof Error, `thrown: ${error}`)
    } finally {
      transfer.close()
    }
  },
}
