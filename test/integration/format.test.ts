import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { scratch, vmring } from '../support/processes.js'
import { remote } from '../support/remote.js'

const MAGIC = 'VMRING1\n'
const magic = (file: string) => readFileSync(file).subarray(0, 8).toString('latin1')

interface State {
  peer: import('../../src/index.js').Peer
}

const join_ = async (file: string) => {
  const member = await remote<State>()
  await member.run(async ({ vmring, state }, region) => {
    state.peer = await vmring.attach({ region })
  }, `file:${file}`)
  return member
}

test('makes a region of the size asked for, and says how to join it', async () => {
  const file = join(scratch(), 'ring')
  const { code, text } = await vmring(['format', file, '--size', '2M', '--sections', '3'])
  expect(code).toBe(0)
  expect(text).toContain(`file:${file}`)
  expect(statSync(file).size).toBe(2 * 2 ** 20)
  expect(magic(file)).toBe(MAGIC)
  await join_(file)
})

test('prints JSON', async () => {
  const file = join(scratch(), 'ring')
  const { text } = await vmring(['format', file, '--size', '1M', '--sections', '2', '--json'])
  expect(JSON.parse(text)).toMatchObject({ file, size: 2 ** 20, sections: 2, region: `file:${file}` })
})

test('formats an empty file and one of zeros in place', async () => {
  const directory = scratch()
  const empty = join(directory, 'empty')
  const zeros = join(directory, 'zeros')
  writeFileSync(empty, '')
  writeFileSync(zeros, '')
  truncateSync(zeros, 4 * 2 ** 20)
  const inode = statSync(zeros).ino
  expect((await vmring(['format', empty, '--size', '1M', '--sections', '2'])).code).toBe(0)
  expect((await vmring(['format', zeros])).code).toBe(0)
  expect(statSync(zeros)).toMatchObject({ ino: inode, size: 4 * 2 ** 20 })
  expect([magic(empty), magic(zeros)]).toEqual([MAGIC, MAGIC])
})

test('leaves a region alone, and any other file, unless forced; those who have the old one keep it', async () => {
  const directory = scratch()
  const file = join(directory, 'ring')
  await vmring(['format', file, '--size', '1M', '--sections', '2'])
  const before = readFileSync(file)
  const refused = await vmring(['format', file])
  expect(refused.code).toBe(2)
  expect(refused.stderr).toContain('--force')
  expect(readFileSync(file).equals(before)).toBe(true)

  const letter = join(directory, 'letter')
  writeFileSync(letter, 'x'.repeat(2 ** 20))
  expect((await vmring(['format', letter])).code).toBe(2)
  expect(readFileSync(letter, 'latin1')).toBe('x'.repeat(2 ** 20))

  const old = openSync(file, 'r')
  expect((await vmring(['format', file, '--force', '--size', '2M', '--sections', '2'])).code).toBe(0)
  expect(statSync(file).size).toBe(2 * 2 ** 20)
  expect(readFileSync(old).equals(before)).toBe(true)
  closeSync(old)
  expect(readdirSync(directory).sort()).toEqual(['letter', 'ring'])
})

test.each([
  ['no power of two', ['--size', '3M'], 'ERR_VMRING_REGION_SIZE'],
  ['too small', ['--size', '4K'], 'ERR_VMRING_REGION_SIZE'],
  ['too many sections for the size', ['--size', '1M', '--sections', '256'], 'ERR_VMRING_REGION_SIZE'],
  ['one section', ['--sections', '1'], 'ERR_VMRING_ARGUMENT'],
])('%s: refused, and no file is left', async (_what, args, code) => {
  const directory = scratch()
  const output = await vmring(['format', join(directory, 'ring'), ...args])
  expect(output.code).toBeGreaterThan(0)
  expect(output.stderr).toContain(`(${code})`)
  expect(readdirSync(directory)).toEqual([])
})

test('a directory that does not exist: the system says so', async () => {
  const file = join(scratch(), 'missing/ring')
  const { code, stderr } = await vmring(['format', file])
  expect(code).toBe(1)
  expect(stderr).toContain('(ENOENT)')
  expect(existsSync(file)).toBe(false)
})

test('frees the entry of a killed process, but not that of a live one', async () => {
  const file = join(scratch(), 'ring')
  await vmring(['format', file, '--size', '4M', '--sections', '2'])
  const live = await join_(file)
  const dead = await join_(file)
  dead.signal('SIGKILL')
  await dead.ended

  const listed = JSON.parse((await vmring(['ls', '--file', file, '--json'])).text) as {
    peers: { section: number; pid: number; alive: boolean }[]
  }[]
  const { peers } = listed[0]!
  expect(peers).toMatchObject([{ alive: true }, { alive: false }])
  const of = (pid: number) => String(peers.find((peer) => peer.pid === pid)!.section)

  const refused = await vmring(['format', file, '--release', of(live.pid)])
  expect(refused.code).toBe(2)
  expect(refused.stderr).toContain('alive')
  const third = await vmring(['format', file, '--release', of(dead.pid)])
  expect(third.stderr).toBe('')
  expect(third.code).toBe(0)
  expect((await vmring(['format', file, '--release', of(dead.pid), '--json'])).text).toContain(
    '"released": false',
  )
  // the place can be taken again
  await join_(file)
  expect((await vmring(['format', file, '--release', '7'])).code).toBe(2)
})

test('a file that is no region has nothing to release', async () => {
  const file = join(scratch(), 'ring')
  const fd = openSync(file, 'w')
  writeSync(fd, Buffer.alloc(2 ** 20, 1))
  closeSync(fd)
  const { code, stderr } = await vmring(['format', file, '--release', '0'])
  expect(code).toBe(1)
  expect(stderr).toContain('(ERR_VMRING_REGION_MAGIC)')
})
