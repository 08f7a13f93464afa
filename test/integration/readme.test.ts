/** The README's example, as written, in two processes that join a daemon. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterAll, expect, test } from 'vitest'
import { startHost } from '../../src/host/daemon.js'

const root = join(import.meta.dirname, '../..')
const directory = mkdtempSync(join(tmpdir(), 'vmring-readme-'))
afterAll(() => rmSync(directory, { recursive: true, force: true }))

test('runs as written', async () => {
  const socket = join(directory, 'host.sock')
  const host = await startHost({ socket })
  mkdirSync(join(directory, 'node_modules'))
  symlinkSync(root, join(directory, 'node_modules/vmring'))
  const blocks = [
    ...readFileSync(join(root, 'README.md'), 'utf8').matchAll(/```js\n\/\/ (\w+\.mjs)[^\n]*\n([\s\S]*?)```/g),
  ]
  expect(blocks.map(([, name]) => name)).toEqual(['kitchen.mjs', 'table.mjs'])
  for (const [, name, code] of blocks) writeFileSync(join(directory, name!), code!)
  const start = (name: string) =>
    spawn(process.execPath, [join(directory, name)], {
      env: { ...process.env, VMRING_REGION: `unix:${socket}` },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
  const kitchen = start('kitchen.mjs')
  try {
    const table = start('table.mjs')
    const [said, [code]] = await Promise.all([text(table.stdout!), once(table, 'exit')])
    expect(said).toBe('two coffees: on the way\n')
    expect(code).toBe(0)
  } finally {
    kitchen.kill()
    await once(kitchen, 'exit')
    await host.close()
  }
})
