/** attach(), addresses and errors: what goes wrong has a code, a sentence, and no consequences. */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { attach, type Channel, errorTable, VmringError } from '../../src/index.js'
import { parseRegion } from '../../src/peer/address.js'

let directory: string
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vmring-api-'))
})
afterEach(() => rmSync(directory, { recursive: true, force: true }))

function file(size: number, name = 'region'): string {
  const path = join(directory, name)
  writeFileSync(path, '')
  truncateSync(path, size)
  return path
}

test('region addresses', () => {
  expect(parseRegion('unix:/run/x.sock')).toEqual({ kind: 'unix', path: '/run/x.sock' })
  expect(parseRegion('file:relative/y')).toEqual({ kind: 'file', path: 'relative/y' })
  expect(parseRegion('pci:0000:00:02.0')).toEqual({ kind: 'pci', device: '0000:00:02.0' })
  expect(parseRegion('pci:00:1F.0')).toEqual({ kind: 'pci', device: '0000:00:1f.0' })
  expect(parseRegion(null)).toEqual({ kind: 'none' })
  for (const wrong of ['', 'unix:', 'x', '/dev/shm/x', 'pci:2.0', 'tcp:1', 'file:a\0b']) {
    expect(() => parseRegion(wrong)).toThrow(expect.objectContaining({ code: 'ERR_VMRING_REGION_ADDRESS' }))
  }
})

test('every code has its cause and its cure', () => {
  for (const [code, { raised, cure }] of Object.entries(errorTable)) {
    expect(code).toMatch(/^(ERR_VMRING_[A-Z_]+|ERR_(SERVER|SOCKET)_[A-Z_]+|E[A-Z]+)$/)
    expect(raised.length).toBeGreaterThan(10)
    expect(cure.length).toBeGreaterThan(10)
  }
  const cause = new Error('below')
  const error = new VmringError('ERR_VMRING_TIMEOUT', 'late', { cause, errno: -1, details: { pid: 7 } })
  expect(error).toMatchObject({ name: 'VmringError', code: 'ERR_VMRING_TIMEOUT', errno: -1, pid: 7, cause })
  expect(Object.keys(error)).not.toContain('syscall')
})

test.each([
  ['no such file', () => 'file:/nonexistent/region', 'ENOENT'],
  ['a file of zero bytes', () => `file:${file(0)}`, 'ERR_VMRING_REGION_EMPTY'],
  ['no power of two', () => `file:${file(3 * 1024 * 1024)}`, 'ERR_VMRING_REGION_SIZE'],
  ['too small', () => `file:${file(65536)}`, 'ERR_VMRING_REGION_SIZE'],
  ['nobody at the socket', () => `unix:${join(directory, 'none.sock')}`, 'ENOENT'],
  ['a device', () => 'pci:0000:fe:1f.7', 'ERR_VMRING_DEVICE_ABSENT'],
  ['no region', () => null, 'ERR_VMRING_NO_REGION'],
])('attach to %s', async (_name, region, code) => {
  await expect(attach({ region: region() })).rejects.toMatchObject({ code })
})

test('a file that is something else', async () => {
  const path = file(1024 * 1024)
  const fd = openSync(path, 'r+')
  writeFileSync(fd, 'something else')
  ftruncateSync(fd, 1024 * 1024)
  closeSync(fd)
  await expect(attach({ region: `file:${path}` })).rejects.toMatchObject({ code: 'ERR_VMRING_REGION_MAGIC' })
})

test('without a region the error lists what was tried', async () => {
  const { VMRING_REGION, VMRING_SOCKET } = process.env
  delete process.env.VMRING_REGION
  process.env.VMRING_SOCKET = join(directory, 'none.sock')
  try {
    const error = await attach().catch((thrown) => thrown)
    expect(error).toMatchObject({ code: 'ERR_VMRING_NO_REGION' })
    expect(error.attempts).toHaveLength(3)
    process.env.VMRING_REGION = `file:${file(1024 * 1024)}`
    const peer = await attach()
    expect(peer.region).toBe(process.env.VMRING_REGION)
    await peer.close()
  } finally {
    for (const [name, value] of Object.entries({ VMRING_REGION, VMRING_SOCKET })) {
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    }
  }
})

test('too many peers, and a place that is free again', async () => {
  const region = `file:${file(2 * 1024 * 1024)}`
  const one = await attach({ region })
  const two = await attach({ region })
  await expect(attach({ region })).rejects.toMatchObject({ code: 'ERR_VMRING_TOO_MANY_PEERS' })
  await two.close()
  const three = await attach({ region })
  expect(three.section).toBe(two.section)
  await Promise.all([one.close(), three.close()])
})

test('a full section says so, and takes channels again when some are closed', async () => {
  const region = `file:${file(2 * 1024 * 1024)}`
  const [a, b] = [await attach({ region }), await attach({ region })]
  await b.listen('x')
  const channels = []
  let error: unknown = null
  while (error === null && channels.length < 64) {
    try {
      channels.push(await a.connect('x', { wait: 200, ringSize: 256 * 1024 }))
    } catch (thrown) {
      error = thrown
    }
  }
  expect(error).toMatchObject({ code: 'ERR_VMRING_SECTION_FULL' })
  expect(channels.length).toBeGreaterThan(0)
  for (const channel of channels) await channel.close()
  const again = await a.connect('x', { wait: 2000, ringSize: 256 * 1024 })
  await again.close()
  await Promise.all([a.close(), b.close()])
})

test('the file is cut off under open channels: typed errors, nothing crashes', async () => {
  const path = file(2 * 1024 * 1024)
  const region = `file:${path}`
  const [a, b] = [await attach({ region }), await attach({ region })]
  const lost: Error[] = []
  a.on('lost', (error) => lost.push(error))
  const server = await b.listen('x')
  const accepted: Channel[] = []
  server.on('channel', (channel) => accepted.push(channel))
  const channel = await a.connect('x', { wait: 2000 })
  await channel.send(new Uint8Array(100).fill(9))
  const message = accepted[0]!.receive()!
  const { view } = message
  truncateSync(path, 0)
  expect(view[0]).toBe(0)
  expect(await channel.closed).toMatchObject({ code: 'ERR_VMRING_PATH_LOST' })
  expect(await accepted[0]!.closed).toMatchObject({ code: 'ERR_VMRING_PATH_LOST' })
  await expect(channel.send(new Uint8Array(1))).rejects.toMatchObject({ code: 'ERR_VMRING_CLOSED' })
  expect(lost[0]).toMatchObject({ code: 'ERR_VMRING_REGION_LOST' })
  message.release()
  await Promise.all([a.close(), b.close()])
})

test('arguments out of range', async () => {
  const region = `file:${file(1024 * 1024)}`
  await expect(attach({ region, mode: 'fast' as 'busy' })).rejects.toMatchObject({
    code: 'ERR_VMRING_ARGUMENT',
  })
  await expect(attach({ region, signal: AbortSignal.abort(new Error('no')) })).rejects.toThrow('no')
  const peer = await attach({ region })
  const code = 'ERR_VMRING_ARGUMENT'
  await expect(peer.connect('x', { ringSize: 5000 })).rejects.toMatchObject({ code })
  await expect(peer.connect('x', { wait: -1 })).rejects.toMatchObject({ code })
  await expect(peer.listen('x', { maxMessageSize: 1.5 })).rejects.toMatchObject({ code })
  await expect(peer.listen('x'.repeat(256))).rejects.toMatchObject({ code })
  await peer.close()
  await peer.close()
})
