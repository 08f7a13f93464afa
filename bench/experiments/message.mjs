// What a message of 64 bytes costs within one process, without anybody else's cache lines.
//   node bench/experiments/message.mjs
import { native } from '../../dist/native/binding.js'
import { channelPair } from '../pair.mjs'
import { rounds } from './rounds.mjs'

const { near, far, close } = await channelPair()
const bytes = new Uint8Array(64)
const wait = { timeout: 10 }
const pair = native.createPair(1 << 16, 0, 0)
let sum = 0
rounds('trySend, receiveSync, view, release', (i) => {
  bytes[0] = i
  near.trySend(bytes)
  const message = far.receiveSync(wait)
  sum += message.view[0]
  message.release()
})
rounds('reserve, commit, receive, release', () => {
  near.reserve(64).commit()
  far.receive().release()
})
rounds('receive, nothing there', () => far.receive())
rounds('the addon alone, functions with arguments: send, receive, release', () => {
  native.endSend(pair.near, bytes, 1, 0)
  native.endReceive(pair.far)
  native.endRelease(pair.far, native.scratch[2])
})
rounds('new Uint8Array(buffer, offset, length)', (i) => {
  sum += new Uint8Array(pair.buffer, i & 0xff8, 64)[0]
})
rounds('performance.now()', () => {
  sum += performance.now()
})
await close()
if (Number.isNaN(sum)) console.log(sum)
process.exit(0)
