import { execFileSync } from 'node:child_process'
import { readdirSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { type Process, scratch, startDaemon, vmring } from '../support/processes.js'
import { remote } from '../support/remote.js'

interface State {
  peer: import('../../src/index.js').Peer
  message: import('../../src/index.js').Message
  copy: Uint8Array
}

/** A third process that knows nothing of vmring: finds the text in the file, and overwrites it. */
const patcher = `
const { openSync, fstatSync, readSync, writeSync } = require('node:fs')
const [path, find, put] = process.argv.slice(1)
const fd = openSync(path, 'r+')
const memory = Buffer.alloc(fstatSync(fd).size)
readSync(fd, memory, 0, memory.length, 0)
let found = 0
for (let at = memory.indexOf(find); at >= 0; at = memory.indexOf(find, at + 1)) {
  writeSync(fd, put, at)
  found++
}
console.log(found)
`

const patch = (path: string, find: string, put: string) =>
  Number(execFileSync(process.execPath, ['-e', patcher, path, find, put], { encoding: 'utf8' }))

/** The region's memory among the descriptors of the daemon. */
function memfd({ pid }: Process): string {
  const directory = `/proc/${pid}/fd`
  for (const fd of readdirSync(directory)) {
    if (readlinkSync(join(directory, fd)).startsWith('/memfd:vmring')) return join(directory, fd)
  }
  throw new Error('the daemon has no memfd')
}

async function look(region: string, path: string): Promise<void> {
  const [reader, writer] = await Promise.all([remote<State>(), remote<State>()])
  await reader.run(async ({ vmring, state, tell }, address) => {
    state.peer = await vmring.attach({ region: address })
    const server = await state.peer.listen('view')
    server.on('channel', (channel) => {
      channel.on('message', (message) => {
        state.message = message.retain()
        state.copy = message.copy()
        tell('held')
      })
    })
  }, region)
  // never in one piece in the writer's own memory image of the region, but for the message
  const find = `to be found ${process.pid} ${Math.random()}`
  await writer.run(
    async ({ vmring, state }, address, text) => {
      state.peer = await vmring.attach({ region: address })
      const channel = await state.peer.connect('view', { wait: 10_000 })
      channel.trySend(Buffer.from(`${text}, and more`))
    },
    region,
    find,
  )
  await reader.next()
  expect(patch(path, find, 'TO BE')).toBe(1)
  const seen = await reader.run(({ state }) => ({
    view: Buffer.from(state.message.view).toString(),
    copy: Buffer.from(state.copy).toString(),
  }))
  expect(seen.view).toBe(`TO BE${find.slice(5)}, and more`)
  expect(seen.copy).toBe(`${find}, and more`)
  await reader.run(({ state }) => state.message.release())
}

test('msg.view shows the region itself: a byte patched by a third process appears in it (memory of a daemon)', async () => {
  const daemon = await startDaemon(['--size', '4M'])
  await look(daemon.region, memfd(daemon.process))
})

test('msg.view shows the region itself: a byte patched by a third process appears in it (plain file)', async () => {
  const file = join(scratch(), 'ring')
  await vmring(['format', file, '--size', '4M', '--sections', '4'])
  await look(`file:${file}`, file)
})
