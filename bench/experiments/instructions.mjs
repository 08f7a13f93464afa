// What a message costs in instructions, which do not depend on what else the machine does: the same work twice, once with N and once
// with 2 N messages, under callgrind; the difference over N is one message: trySend, receiveSync, view, release (64 bytes, two peers
// of one process). The compiled code of the engine counts too.
//
//   for n in 100000 200000; do valgrind --tool=callgrind --callgrind-out-file=/dev/null --smc-check=all-non-file \
//     node --single-threaded bench/experiments/instructions.mjs $n; done      the line "Collected"
import { channelPair } from '../pair.mjs'

const count = Number(process.argv[2])
const { near, far, close } = await channelPair()
const bytes = new Uint8Array(64)
const wait = { timeout: 10 }
let sum = 0
for (let i = 0; i < count; i++) {
  bytes[0] = i
  if (!near.trySend(bytes)) throw new Error('no room')
  const message = far.receiveSync(wait)
  sum += message.view[0]
  message.release()
}
console.log(count, sum)
await close()
