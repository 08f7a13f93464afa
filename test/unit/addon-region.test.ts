import { mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { native } from '../../src/native/binding.js'
import { EntryState } from '../../src/native/types.js'
import { runProgram } from '../support/addon.js'

const folder = mkdtempSync(join(tmpdir(), 'vmring-region-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
let files = 0
const newPath = () => join(folder, `region-${files++}`)
const MiB = 1 << 20

function formatted(): { path: string; view: DataView; region: ReturnType<typeof native.Region.open> } {
  const path = newPath()
  const region = native.Region.open(path, MiB)
  region.format({ sections: 2, daemonIncarnation: 0 })
  return { path, region, view: new DataView(region.buffer) }
}

describe('a region', () => {
  it('is formatted once and read back by others', () => {
    const { path, region } = formatted()
    expect(statSync(path).size).toBe(MiB)
    const other = native.Region.open(path)
    const geometry = other.geometry()
    expect(geometry).toMatchObject({ major: 1, plain: true, size: MiB, sections: 2, daemonIncarnation: 0 })
    expect(geometry.uuid).toEqual(region.geometry().uuid)
    expect(other.buffer).toBe(other.buffer)
    expect(other.buffer.byteLength).toBe(MiB)
    other.close()
    region.close()
  })

  it('has entries that are claimed once, and given back', () => {
    const { region } = formatted()
    expect(region.claimEntry(-1, false)).toBe(0)
    expect(region.claimEntry(-1, false)).toBe(1)
    expect(region.claimEntry(-1, false)).toBe(-1)
    expect(region.claimEntry(-1, true)).toBe(-1) // taking over needs a name
    expect(region.readEntry(1)).toEqual({ state: EntryState.JOINED, peerId: 1, vectors: 1, generation: 1 })
    expect(region.claimEntry(1, false)).toBe(-1)
    expect(region.claimEntry(1, true)).toBe(1)
    expect(region.readEntry(1)).toMatchObject({ generation: 2 })
    region.releaseEntry(1)
    expect(region.readEntry(1)).toMatchObject({ state: EntryState.FREE })
    expect(region.claimEntry(-1, false)).toBe(1)
    expect(region.readIdentity(0)).toBeNull()
    expect(() => region.readEntry(2)).toThrow(RangeError)
    region.close()
  })

  it.each([
    ['the magic', (view: DataView) => view.setUint8(0, 0), 'ERR_VMRING_REGION_MAGIC'],
    ['the byte order', (view: DataView) => view.setUint32(8, 0x01020304, false), 'ERR_VMRING_REGION_MAGIC'],
    ['the version', (view: DataView) => view.setUint16(12, 2, true), 'ERR_VMRING_REGION_VERSION'],
    ['a feature', (view: DataView) => view.setUint32(28, 1 << 31, true), 'ERR_VMRING_REGION_FEATURE'],
    ['the number of sections', (view: DataView) => view.setUint32(64, 3, true), 'ERR_VMRING_REGION_GEOMETRY'],
    [
      'the number of sections',
      (view: DataView) => view.setUint32(64, 0xffffffff, true),
      'ERR_VMRING_REGION_GEOMETRY',
    ],
    ['the section size', (view: DataView) => view.setUint32(80, 64, true), 'ERR_VMRING_REGION_GEOMETRY'],
    ['the size', (view: DataView) => view.setUint32(48, 2 * MiB, true), 'ERR_VMRING_REGION_TRUNCATED'],
    ['a smaller size', (view: DataView) => view.setUint32(48, MiB / 2, true), 'ERR_VMRING_REGION_SIZE'],
  ])('with a wrong header (%s) is refused', (_, spoil, code) => {
    const { path, region, view } = formatted()
    spoil(view)
    const other = native.Region.open(path)
    expect(() => other.geometry()).toThrow(expect.objectContaining({ code }))
    expect(() => other.readEntry(0)).toThrow(expect.objectContaining({ code }))
    other.close()
    region.close()
  })

  it('of a wrong size is refused', () => {
    const empty = newPath()
    writeFileSync(empty, '')
    const size = expect.objectContaining({ code: 'ERR_VMRING_REGION_SIZE' })
    const none = expect.objectContaining({ code: 'ERR_VMRING_REGION_EMPTY' })
    expect(() => native.Region.open(empty)).toThrow(none)
    expect(() => native.Region.open(empty, MiB)).toThrow(none)
    expect(() => native.Region.open(newPath(), MiB + 4096)).toThrow(size)
    expect(() => native.Region.open(newPath(), 65536)).toThrow(size)
    expect(() => native.Region.create('x', 3 * MiB)).toThrow(size)
    const { path, region } = formatted()
    region.close()
    truncateSync(path, MiB / 2)
    const cut = expect.objectContaining({ code: 'ERR_VMRING_REGION_TRUNCATED' })
    expect(() => native.Region.open(path).geometry()).toThrow(cut)
    truncateSync(path, 100)
    expect(() => native.Region.open(path).geometry()).toThrow(size)
    const blank = native.Region.create('x', MiB)
    expect(() => blank.geometry()).toThrow(expect.objectContaining({ code: 'ERR_VMRING_REGION_MAGIC' }))
    expect(() => blank.format({ sections: 256, daemonIncarnation: 1 })).toThrow(size)
    expect(() => blank.format({ sections: 257, daemonIncarnation: 1 })).toThrow(RangeError)
  })

  it('that is not there has the shape of a system error', () => {
    const path = newPath()
    expect(() => native.Region.open(path)).toThrow(
      expect.objectContaining({ code: 'ENOENT', errno: -2, syscall: 'open', path }),
    )
    expect(() => native.Region.open(folder)).toThrow(expect.objectContaining({ code: 'EISDIR' }))
    expect(() => native.Region.fromFd(1_000_000)).toThrow(expect.objectContaining({ code: 'EBADF' }))
    expect(() => new (native.Region as unknown as new () => unknown)()).toThrow(TypeError)
    expect(() => native.Region.open('a\0b')).toThrow(TypeError)
  })

  it('stays readable after close: zeros', () => {
    const { region } = formatted()
    const view = new Uint8Array(region.buffer)
    expect(view[0]).not.toBe(0)
    region.close()
    region.close()
    expect([region.lost, region.fd, view[0]]).toEqual([true, -1, 0])
    expect(() => region.geometry()).toThrow(expect.objectContaining({ code: 'ERR_VMRING_REGION_LOST' }))
  })

  it('whose file is truncated while JavaScript reads it reads zeros and is lost', () => {
    const result = runProgram(
      `const fs = require('fs'); const path = process.argv[1]
       const region = native.Region.open(path, 1 << 20); region.format({ sections: 2, daemonIncarnation: 0 })
       const view = new Uint8Array(region.buffer); view[500000] = 7
       if (view[500000] !== 7 || region.lost) process.exit(2)
       const peer = new native.Peer(region, { section: region.claimEntry(-1, false), peerId: 0, uuid: new Uint8Array(16), mode: 'event',
         doorbell: native.eventfd(), vector: 0, onReady() {}, onControl() {}, onPeer(event) {
           console.log('event', event, 'lost', region.lost, 'zeros', view.every((byte) => byte === 0)); peer.close() } })
       fs.truncateSync(path, 0)
       console.log('reads', view[500000])`,
      [newPath()],
    )
    expect(result.stderr).toBe('')
    expect(result.stdout).toBe('reads 0\nevent 5 lost true zeros true\n')
    expect([result.status, result.signal]).toEqual([0, null])
  })

  it('leaves SIGBUS that is not its own alone', () => {
    const result = runProgram(
      `native.Region.create('x', 1 << 20); process.kill(process.pid, 'SIGBUS'); setTimeout(() => {}, 5000)`,
    )
    expect(result.signal).toBe('SIGBUS')
  })
})
