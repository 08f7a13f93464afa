// Four guests and one host process in one region, all ten pairs talking at once.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { Bed, type Guest } from '../../src/vm/index.js'
import { Daemon, devices, MiB, setDriver } from './ring.js'

const app = join(import.meta.dirname, 'apps/mesh.mjs')
const GUESTS = 4

let bed: Bed
let daemon: Daemon
let guests: Guest[]

beforeAll(async () => {
  bed = await Bed.open()
  daemon = await Daemon.start(join(bed.folder, 'host'), '--size', '64M', '--sections', '8')
  guests = await bed.bootAll(
    Array.from({ length: GUESTS }, (_, index) => ({
      name: `g${index}`,
      devices: [{ kind: 'doorbell' as const, id: 'iv0', socket: daemon.socket }],
    })),
  )
}, 300_000)

afterAll(async () => {
  await bed?.close()
  await daemon?.[Symbol.asyncDispose]()
}, 30_000)

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
  const { address } = (await devices(guests[0]!))[0]!
  const shape = (index: number) => [String(index), String(GUESTS + 1), String(2 * MiB)]
  const results = await Promise.all([
    onHost([`unix:${daemon.socket}`, ...shape(GUESTS)]),
    ...guests.map(async (guest, index) => {
      await setDriver(guest, address, 'vfio-pci')
      const argv = [process.execPath, app, `pci:${address}`, ...shape(index)]
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
