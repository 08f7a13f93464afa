// Sends messages and goes on writing into their memory after they have been sent, over and over. Every word of eight bytes that
// it writes is one version of itself, in one of three forms of the same length; a clock beside them says which versions can be there.
//   node torn-writer.mjs REGION      hears { kind }

import { PortTransfer } from '../../dist/channel/port-transfer.js'
import { attach } from '../../dist/index.js'
import { FORMS, frameOf, LENGTHS, ROUND } from './torn-words.mjs'

const peer = await attach({ region: process.argv[2], relay: null })
const channel = await peer.connect('torn', { wait: 10_000, ringSize: 2 ** 18 })

/** Sends, and keeps what nobody should keep: the memory. */
function send(bytes) {
  const lease = channel.reserve(bytes.length)
  lease.data.set(bytes)
  lease.commit()
  return lease.data
}

const encode = (value) => new PortTransfer(() => {}).encode(value, new Set())
const places = {}
for (const kind of Object.keys(LENGTHS)) {
  const clock = send(new Uint8Array(16))
  const { bytes, from, count } = frameOf(kind, encode)
  const data = send(bytes)
  places[kind] = {
    clock: new Int32Array(clock.buffer, clock.byteOffset, 2),
    words: new Float64Array(data.buffer, data.byteOffset + from, count),
    form: new Float64Array(FORMS[kind].buffer),
  }
}

let kind = null
let version = 0
process.on('disconnect', () => process.exit(0))
process.on('message', (message) => {
  kind = message.kind
})
function turn() {
  if (kind !== null) {
    const { clock, words, form } = places[kind]
    for (let i = 0; i < 5000; i++) {
      version = (version + 1) % ROUND
      const word = form[version % form.length]
      Atomics.store(clock, 0, version)
      for (let at = 0; at < words.length; at++) words[at] = word
      Atomics.store(clock, 1, version)
    }
  }
  setImmediate(turn)
}
process.send({ ready: true })
turn()
