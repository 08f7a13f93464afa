/** A whole process that attaches, talks, and ends by itself: on every Node line, since how buffers go at exit differs. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, expect, test } from 'vitest'

const index = pathToFileURL(join(import.meta.dirname, '../../dist/index.js')).href
let directory: string

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'vmring-exit-'))
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))

const talk = `
import { writeFileSync } from 'node:fs'
import { attach } from ${JSON.stringify(index)}
writeFileSync(process.argv[1], Buffer.alloc(2 ** 21))
const region = 'file:' + process.argv[1]
const [a, b] = [await attach({ region }), await attach({ region })]
const server = await a.listen('x')
server.once('channel', (channel) => channel.on('message', (message) => channel.trySend(message.view)))
const channel = await b.connect('x', { wait: 5000 })
await channel.send(Buffer.from('hello'))
let answer
for await (const message of channel) {
  answer = message.text()
  TRANSFER
  break
}
CLOSE
console.log(answer)
`
const close = 'await channel.close(); await b.close(); await a.close()'
// the buffer of a view is ring memory
const transfer = 'try { structuredClone(message.view.buffer, { transfer: [message.view.buffer] }) } catch {}'

test.each([
  ['after closing everything', '', close],
  [
    'by process.exit with everything open',
    '',
    'process.on("exit", () => console.log(answer)); process.exit()',
  ],
  ['after giving ring memory away', transfer, 'console.log(answer); process.exit()'],
])('ends in good order %s', (what, instead, end) => {
  const program = talk.replace('TRANSFER', instead).replace('CLOSE', end)
  const file = join(directory, what.replaceAll(' ', '-'))
  const result = spawnSync(process.execPath, ['--input-type=module', '-e', program, file], {
    encoding: 'utf8',
    timeout: 50_000,
  })
  expect(result.stderr).toBe('')
  expect(result.signal).toBeNull()
  expect(result.status).toBe(0)
  expect(result.stdout).toContain('hello')
})
