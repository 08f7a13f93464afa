// Four guests and one host process in one region, all ten pairs talking at once.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { Group } from './group.js'
import { MiB } from './ring.js'

const app = join(import.meta.dirname, 'apps/mesh.mjs')
const GUESTS = 4

let group: Group

beforeAll(async () => {
  const guests = Array.from({ length: GUESTS }, (_, index) => `g${index}`)
  group = await Group.boot({ guests, host: ['--size', '64M', '--sections', '8'] })
}, 300_000)

afterAll(() => group?.[Symbol.asyncDispose](), 30_000)

async function onHost(args: string[]): Promise<string> {
  const child = spawn(process.execPath, [app, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  child.stdout.on('data', (chunk: Buffer) => {
    text += chunk
  })
  const [code] = await once(child, 'exit')
  expect(code).toBe(0)
  return text
}

it('every pair, both ways, checksums right', async () => {
  const { daemon, guests, regions } = group
  const shape = (index: number) => [String(index), String(GUESTS + 1), String(2 * MiB)]
  const results = await Promise.all([
    onHost([`unix:${daemon.socket}`, ...shape(GUESTS)]),
    ...guests.map(async (guest, index) => {
      const argv = [process.execPath, app, regions[0]!, ...shape(index)]
      return (await guest.run(argv, { timeout: 240_000 })).stdout
    }),
  ])
  const said = results.map((text) =>
    text
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line)),
  )
  for (const [index, lines] of said.entries()) {
    const me = (index + GUESTS) % (GUESTS + 1) // the host is the first result and has the highest number
    const others = Array.from({ length: GUESTS + 1 }, (_, i) => i).filter((i) => i !== me)
    const pairs = lines.filter((line) => line.said === 'pair')
    expect(pairs.map((pair) => pair.other).sort()).toEqual(others)
    expect(pairs.every((pair) => pair.right)).toBe(true)
    expect(lines.at(-1).said).toBe('done')
  }
  console.log(said.map((lines) => lines.at(-1)))
}, 300_000)
