/** A message for which there is neither section memory nor room for its first fragment waits, and its process goes on. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { expect, test } from 'vitest'

const package_ = resolve(import.meta.dirname, '../../dist/index.js')

// In a process of its own: if it goes wrong, that one never comes back.
const program = `
  import { attach } from ${JSON.stringify(package_)}
  const region = process.argv[1]
  const [a, b] = [await attach({ region }), await attach({ region })]
  const server = await b.listen('x')
  const accepted = new Promise((resolve) => server.once('channel', resolve))
  const channel = await a.connect('x', { wait: 5000, ringSize: 65536 })
  const other = await accepted
  const sent = []
  const send = (length) => {
    sent.push(length)
    return channel.send(new Uint8Array(length))
  }
  const tried = (length) => channel.trySend(new Uint8Array(length)) && sent.push(length)
  // nobody reads yet: section memory first, or the slots for it, until a message begins to go out in pieces …
  const large = channel.inlineLimit + 1
  const used = () => a.counters().freeBytes
  for (let before = Infinity; used() < before; ) {
    before = used()
    await send(large)
    if (used() === before) break
  }
  // … then the ring, but for what a descriptor needs
  for (let length = channel.inlineLimit; length >= 256; length >>= 1) while (tried(length));
  const last = send(large)
  let got = 0
  const all = new Promise((resolve) => {
    other.on('message', (message) => {
      if (message.length !== sent[got]) throw new Error('message ' + got + ' has ' + message.length + ' bytes')
      if (++got === sent.length) resolve()
    })
  })
  await Promise.all([all, last])
  console.log('all')
  process.exit(0)
`

test('neither memory nor room for a fragment', () => {
  const directory = mkdtempSync(join(tmpdir(), 'vmring-full-'))
  try {
    const region = join(directory, 'region')
    writeFileSync(region, '')
    truncateSync(region, 4 * 1024 * 1024)
    const { stdout, stderr, signal } = spawnSync(
      process.execPath,
      ['--input-type=module', '-e', program, `file:${region}`],
      { encoding: 'utf8', timeout: 60_000, killSignal: 'SIGKILL' },
    )
    expect({ stdout, stderr, signal }).toEqual({ stdout: 'all\n', stderr: '', signal: null })
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}, 90_000)
