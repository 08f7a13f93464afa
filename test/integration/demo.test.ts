import { createHash, randomBytes } from 'node:crypto'
import { readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { descendants, exists, SLACK, scratch, sleep, startCli, until, vmring } from '../support/processes.js'

/** What the demo leaves in the directory that it was given for temporary files. */
const left = (directory: string) => readdirSync(directory)

test('sends the Node binary, checks it, and prints both beside each other', async () => {
  const directory = scratch()
  const begin = Date.now()
  const { code, text, stderr } = await vmring(['demo'], { env: { TMPDIR: directory }, deadline: 60_000 })
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  expect(Date.now() - begin).toBeLessThan(60_000)
  expect(text).toContain('matches')
  for (const word of ['vmring', 'node:net', 'ratio', 'SHA-256 checked', 'adaptive', 'busy', 'µs'])
    expect(text).toContain(word)
  expect(left(directory)).toEqual([])
}, 90_000)

test('takes a file, prints JSON', async () => {
  const directory = scratch()
  const file = join(scratch(), 'file')
  const data = randomBytes(300_001)
  writeFileSync(file, data)
  const { code, text } = await vmring(['demo', file, '--json'], { env: { TMPDIR: directory } })
  expect(code).toBe(0)
  const sha256 = createHash('sha256').update(data).digest('hex')
  const result = JSON.parse(text)
  expect(result).toMatchObject({ file, size: data.length, sha256, ok: true })
  for (const side of [result.shm, result.net]) expect(side.receipt).toEqual({ bytes: data.length, sha256 })
  expect(result.shm.adaptive.median).toBeGreaterThan(0)
  expect(result.net.echo.count).toBeGreaterThanOrEqual(1000)
  expect(left(directory)).toEqual([])
})

test('an empty file is a file', async () => {
  const file = join(scratch(), 'empty')
  writeFileSync(file, '')
  const { code, stderr } = await vmring(['demo', file, '--json'])
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
})

test('a file that is not there, and a directory', async () => {
  const missing = await vmring(['demo', '/nowhere/file'])
  expect(missing.code).toBe(1)
  expect(missing.stderr).toMatch(/^vmring: .*\/nowhere\/file.*\(ENOENT\)/)
  const folder = await vmring(['demo', scratch()])
  expect(folder.code).toBe(2)
})

// From before anything has been started to after the round trips.
test.each([
  ['SIGINT', 80],
  ['SIGINT', 250],
  ['SIGINT', 500],
  ['SIGTERM', 900],
  ['SIGINT', 1400],
] as const)('%s after %d ms leaves nothing behind', async (name, after) => {
  const directory = scratch()
  const demo = startCli(['demo'], { env: { TMPDIR: directory } })
  // the moment counts from when it begins to do something
  await until(() => left(directory).length > 0 || !demo.alive, 10_000 * SLACK, 'the demo began')
  await sleep(after)
  const children = descendants(demo.pid)
  if (after <= 250) expect(children.length).toBeGreaterThan(0)
  demo.signal(name)
  demo.signal(name)
  const { code, stderr } = await demo.finish()
  // it may have finished in time
  expect([0, name === 'SIGINT' ? 130 : 143]).toContain(code)
  expect(stderr).toBe('')
  expect(children.filter(exists)).toEqual([])
  expect(left(directory)).toEqual([])
})

test('the processes of a demo that was killed end by themselves', async () => {
  const directory = scratch()
  const demo = startCli(['demo'], { env: { TMPDIR: directory } })
  await until(() => descendants(demo.pid).length >= 2 || !demo.alive, 10_000 * SLACK, 'it has children')
  const children = descendants(demo.pid)
  demo.signal('SIGKILL')
  await demo.finish()
  await until(() => !children.some(exists), 5000 * SLACK, 'the children ended')
  expect(statSync(directory).isDirectory()).toBe(true)
})
