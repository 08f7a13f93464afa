/** Two members of one region in this process, and programs that use the addon in a process or worker of their own. */
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { openSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { native } from '../../src/native/binding.js'
import type {
  Mode,
  NativePeer,
  NativeRegion,
  PeerOptions,
  RemotePeer,
  RingOffer,
} from '../../src/native/types.js'

export const addonPath =
  process.env.VMRING_ADDON ?? fileURLToPath(new URL('../../build/Release/vmring.node', import.meta.url))

export interface TestMember {
  peer: NativePeer
  region: NativeRegion
  doorbell: number
  onReady: (id: number, bits: number) => void
  onControl: (section: number, incarnation: number, message: Uint8Array) => void
  onPeer: (event: number, peer: RemotePeer) => void
}

export function joinRegion(region: NativeRegion, section: number, mode: Mode, interrupts = true): TestMember {
  const member: TestMember = {
    region,
    doorbell: interrupts ? native.eventfd() : -1,
    onReady: () => {},
    onControl: () => {},
    onPeer: () => {},
    peer: undefined as unknown as NativePeer,
  }
  const options: PeerOptions = {
    section,
    peerId: section,
    uuid: randomBytes(16),
    mode,
    doorbell: member.doorbell,
    vector: 0,
    onReady(count) {
      const pairs = member.peer.ready.slice(0, 2 * count)
      for (let i = 0; i < pairs.length; i += 2) member.onReady(pairs[i]!, pairs[i + 1]!)
    },
    onControl: (...of) => member.onControl(...of),
    onPeer: (...of) => member.onPeer(...of),
  }
  member.peer = new native.Peer(region, options)
  return member
}

/** A plain region in a memfd, and `count` members that know each other. */
export function members(count: number, mode: Mode, interrupts = true): TestMember[] {
  const first = native.Region.create('vmring-test', 1 << 22)
  first.format({ sections: 4, daemonIncarnation: 0 })
  const made: TestMember[] = []
  for (let i = 0; i < count; i++) {
    const region = i === 0 ? first : sameMemory(first)
    region.claimEntry(i, false)
    made.push(joinRegion(region, i, mode, interrupts))
  }
  if (interrupts) {
    for (const a of made) {
      for (const b of made) if (a !== b) a.peer.setDoorbell(b.peer.section, 0, b.doorbell)
    }
  }
  return made
}

/** Another mapping of the same memory. */
export function sameMemory(region: NativeRegion): NativeRegion {
  return native.Region.fromFd(openSync(`/proc/self/fd/${region.fd}`, 'r+'))
}

/** A channel end on each side, joined. */
export function joinEnds(a: TestMember, b: TestMember, capacity = 65536): [number, number] {
  const near = a.peer.createEnd(b.peer.section, capacity, 0, 0)
  const far = b.peer.createEnd(a.peer.section, capacity, 0, 0)
  a.peer.attachEnd(near.id, far.offer as RingOffer)
  b.peer.attachEnd(far.id, near.offer as RingOffer)
  return [near.id, far.id]
}

export async function until(condition: () => boolean, what: string, milliseconds = 10_000): Promise<void> {
  const end = Date.now() + milliseconds
  while (!condition()) {
    if (Date.now() > end) throw new Error(`${what}: not within ${milliseconds} ms`)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

/** Runs a CommonJS program in which `native` is the addon. */
export function runProgram(code: string, args: string[] = []) {
  const program = `const native = require(${JSON.stringify(addonPath)}); ${code}`
  return spawnSync(process.execPath, ['--expose-gc', '-e', program, ...args], {
    encoding: 'utf8',
    timeout: 50_000,
  })
}
