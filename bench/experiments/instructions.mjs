// What a message costs in instructions, which do not depend on what else the machine does: the same work twice, once with N and once
// with 2 N messages, under callgrind; the difference over N is one message: trySend, receiveSync, view, release (64 bytes, two peers
// of one process). The compiled code of the engine counts too.
//
//   for n in 100000 200000; do valgrind --tool=callgrind --callgrind-out-file=/dev/null --smc-check=all-non-file \
//     node --single-threaded bench/experiments/instructions.mjs $n; done      the line "Collected"
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { attach } from '../../dist/index.js'
import { native } from '../../dist/native/binding.js'

const count = Number(process.argv[2])
const directory = mkdtempSync(join(tmpdir(), 'vmring-instructions-'))
const path = join(directory, 'region')
const region = native.Region.open(path, 16 * 1024 * 1024)
region.format({ sections: 4, daemonIncarnation: 0 })
region.close()
const [a, b] = [await attach({ region: `file:${path}` }), await attach({ region: `file:${path}` })]
const server = await b.listen('bench')
const accepted = new Promise((resolve) => server.once('channel', resolve))
const near = await a.connect('bench', { wait: 60_000 })
const far = await accepted
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
rmSync(directory, { recursive: true, force: true })
process.exit(0)
