// `vmring demo --vm`: two guests booted for it, and nothing left of them afterwards.
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { descendants, exists, startCli, until, vmring } from '../support/processes.js'

let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vd-'))
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

it('carries a file and round trips between two guests', async () => {
  const data = randomBytes(3_000_001)
  const file = join(directory, 'file')
  writeFileSync(file, data)
  const { code, text, stderr } = await vmring(['demo', '--vm', '--json', file], {
    env: { TMPDIR: directory },
    deadline: 300_000,
  })
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  const sha256 = createHash('sha256').update(data).digest('hex')
  const result = JSON.parse(text)
  expect(result).toMatchObject({ file, size: data.length, sha256, ok: true })
  for (const side of [result.shm, result.net]) expect(side.receipt).toEqual({ bytes: data.length, sha256 })
  expect(result.guests.boot).toHaveLength(2)
  const { adaptive } = result.shm
  console.log(
    `64 bytes and back between guests: vmring ${adaptive.median} ns, TCP ${result.net.echo.median} ns`,
  )
  expect(adaptive.median).toBeGreaterThan(0)
  expect(readdirSync(directory)).toEqual(['file'])
}, 320_000)

it('Ctrl-C while the guests boot leaves nothing behind', async () => {
  const demo = startCli(['demo', '--vm'], { env: { TMPDIR: directory } })
  // the daemon and both guests
  await until(() => descendants(demo.pid).length >= 3 || !demo.alive, 60_000, 'it has started QEMU twice')
  const children = descendants(demo.pid)
  demo.signal('SIGINT')
  const { code, stderr } = await demo.finish()
  expect({ code, stderr }).toEqual({ code: 130, stderr: '' })
  expect(children.filter(exists)).toEqual([])
  expect(readdirSync(directory)).toEqual([])
}, 120_000)

it('refuses a file that guests do not see', async () => {
  const { code, stderr } = await vmring(['demo', '--vm', '/proc/version'], { env: { TMPDIR: directory } })
  expect(code).toBe(2)
  expect(stderr).toContain('ERR_VMRING_ARGUMENT')
  expect(readdirSync(directory)).toEqual([])
})
