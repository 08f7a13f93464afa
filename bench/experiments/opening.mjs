// What opening a channel costs both sides together, in one process, with ever more of them open.
//   node bench/experiments/opening.mjs
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { attach } from '../../dist/index.js'
import { native } from '../../dist/native/binding.js'
import { summary } from './rounds.mjs'

const directory = mkdtempSync(join(tmpdir(), 'vmring-opening-'))
const path = join(directory, 'region')
const region = native.Region.open(path, 256 * 1024 * 1024)
region.format({ sections: 2, daemonIncarnation: 0 })
region.close()
const [a, b] = [await attach({ region: `file:${path}` }), await attach({ region: `file:${path}` })]
const channels = []
const server = await b.listen('opening', { backlog: 4096 })
server.on('channel', (channel) => channels.push(channel))
for (let open = 0; open < 3000; open += 500) {
  const times = []
  for (let i = 0; i < 500; i++) {
    const begin = performance.now()
    channels.push(await a.connect('opening', { wait: 10_000, ringSize: 16384 }))
    times.push((performance.now() - begin) * 1e6)
  }
  console.log(`${open} open: ${summary(times)}`)
}
rmSync(directory, { recursive: true })
process.exit(0)
