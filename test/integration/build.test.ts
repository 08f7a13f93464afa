// scripts/build.mjs, in a small repository of its own: it builds what is missing or older than its sources, and no more.
import { copyFileSync, existsSync, mkdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { root, SLACK, scratch, startNode } from '../support/processes.js'

test(
  'a file of dist that was deleted is made again',
  async () => {
    const home = scratch()
    for (const folder of ['scripts', 'src/cli']) mkdirSync(join(home, folder), { recursive: true })
    for (const file of ['build', 'fresh', 'lib'].map((name) => `scripts/${name}.mjs`))
      copyFileSync(join(root, file), join(home, file))
    for (const file of ['package.json', 'tsconfig.json', 'tsconfig.build.json'])
      copyFileSync(join(root, file), join(home, file))
    symlinkSync(join(root, 'node_modules'), join(home, 'node_modules'))
    for (const [name, text] of Object.entries({
      index: 'export const a = 1',
      'cli/main': 'export const b = 2',
    }))
      writeFileSync(join(home, `src/${name}.ts`), `${text}\n`)

    const build = async () => {
      const output = await startNode([join(home, 'scripts/build.mjs'), '--ts']).finish(20_000 * SLACK)
      expect(output).toMatchObject({ code: 0 })
      return output.stderr.includes('compiling TypeScript')
    }
    const [index, main] = ['index.js', 'cli/main.js'].map((name) => join(home, 'dist', name)) as [
      string,
      string,
    ]

    expect(await build()).toBe(true)
    const { mtimeMs } = statSync(index)
    expect(await build()).toBe(false)
    rmSync(main)
    expect(await build()).toBe(true)
    expect(existsSync(main)).toBe(true)
    // programs that run from what was there are not disturbed
    expect(statSync(index).mtimeMs).toBe(mtimeMs)
    rmSync(join(home, 'src/cli/main.ts'))
    expect(await build()).toBe(true)
    expect(existsSync(main)).toBe(false)
    expect(await build()).toBe(false)
  },
  120_000 * SLACK,
)
