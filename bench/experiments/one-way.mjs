// Messages of 64 bytes one way, processors 0 and 1, `busy`: what each takes while nothing disturbs, and how often the receiver is
// too early. With a pause it comes back later after it has found nothing.
//   node bench/experiments/one-way.mjs [PAUSE IN NANOSECONDS] [ROOT OF ANOTHER BUILD]
import { resolve } from 'node:path'
import { summary } from './rounds.mjs'
import { accept, open, other } from './two.mjs'

const [pause = '0', root = resolve(import.meta.dirname, '../..')] = process.argv.slice(2)
const EACH = 256
const SECONDS = 4
const bytes = new Uint8Array(64)

if (other) {
  const channel = await accept(root, 'busy')
  const times = []
  const early = []
  const rest = Number(pause) / 1e6
  let count = 0
  let empty = 0
  let looks = 0
  let begin = performance.now()
  const end = begin + SECONDS * 1000
  while (begin < end) {
    const message = channel.receive()
    if (message === null) {
      empty++
      if (rest > 0) for (const until = performance.now() + rest; performance.now() < until; );
      if ((++looks & 0xffff) === 0) await new Promise(setImmediate)
      continue
    }
    bytes[0] = message.view[0]
    message.release()
    if (++count === EACH) {
      const now = performance.now()
      times.push(((now - begin) * 1e6) / EACH)
      early.push(empty / EACH)
      begin = now
      count = empty = 0
      if ((times.length & 0xff) === 0) await new Promise(setImmediate)
    }
  }
  times.splice(0, times.length / 4)
  console.log(`one way: ${summary(times)}`)
  console.log(
    `looks in vain for each message: ${summary(early.slice(early.length / 4))}`.replaceAll(' ns', ''),
  )
  process.send('over')
} else {
  const { channel, child, end } = await open(import.meta.filename, [pause, root], root, 'busy')
  let over = false
  child.once('message', () => {
    over = true
  })
  const times = []
  while (!over) {
    const begin = performance.now()
    let full = 0
    for (let i = 0; i < 4096 && full < 20_000; i++) {
      if (!channel.trySend(bytes)) {
        full++
        i--
      }
    }
    if (full === 0) times.push(((performance.now() - begin) * 1e6) / 4096)
    await new Promise(setImmediate)
  }
  console.log(
    `sending, 4,096 without once being without room: ${times.length > 0 ? summary(times) : 'never'}`,
  )
  await end()
}
