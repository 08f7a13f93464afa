/** Two peers in this process, joined by each kind of path that there is: what the conformance suite runs over. */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startHost } from '../../src/host/daemon.js'
import { native } from '../../src/native/binding.js'
import { ShmNetwork } from '../../src/path/shm.js'
import { attach } from '../../src/peer/attach.js'
import type { Peer, PeerBackend } from '../../src/peer/peer.js'
import { Peer as PublicPeer } from '../../src/peer/peer.js'
import { SessionHub } from '../../src/session/hub.js'
import { FaultPlan, fastTiming, type Link, memoryRig, type Rig, randomFaults, wireUp } from './memory-path.js'
import { streamFamily, streamRig } from './stream-path.js'

async function streamPair(): Promise<Pair> {
  const rig = streamRig({ capacity: 64 * 1024 })
  await rig.link()
  return { a: rig.a.peer, b: rig.b.peer, path: streamFamily, close: () => rig.close() }
}

export interface Pair {
  a: Peer
  b: Peer
  /** name of the path that joins them */
  path: string
  close(): Promise<void>
}

export interface PairKind {
  name: string
  /** both sides share the memory */
  shared: boolean
  open(): Promise<Pair>
}

function temporary(): string {
  return mkdtempSync(join(tmpdir(), 'vmring-test-'))
}

async function memoryPair(plan: FaultPlan, reliable: boolean): Promise<Pair> {
  const rig = memoryRig(plan, { capacity: 64 * 1024 })
  rig.link('memory', plan, reliable)
  return { a: rig.a.peer, b: rig.b.peer, path: 'memory', close: () => rig.close() }
}

async function joined(region: string, directory: string, end: () => Promise<void>): Promise<Pair> {
  const a = await attach({ region })
  const b = await attach({ region })
  return {
    a,
    b,
    path: 'shm',
    async close() {
      await Promise.all([a.close(), b.close()])
      await end()
      rmSync(directory, { recursive: true, force: true })
    },
  }
}

export const pairKinds: PairKind[] = [
  { name: 'memory, clean', shared: false, open: () => memoryPair(new FaultPlan(), true) },
  {
    name: 'memory, misbehaving',
    shared: false,
    open: () =>
      memoryPair(
        new FaultPlan(randomFaults(42, 20_000, 0.05, ['drop', 'delay', 'duplicate', 'reorder'])),
        false,
      ),
  },
  {
    name: `a stream, ${streamFamily === 'unix' ? 'Unix' : 'virtio'} socket`,
    shared: false,
    open: streamPair,
  },
  {
    name: 'shared memory, plain file',
    shared: true,
    async open() {
      const directory = temporary()
      const file = join(directory, 'region')
      writeFileSync(file, '')
      truncateSync(file, 8 * 1024 * 1024)
      return joined(`file:${file}`, directory, async () => {})
    },
  },
  {
    name: 'shared memory, through a daemon',
    shared: true,
    async open() {
      const directory = temporary()
      const socket = join(directory, 'host.sock')
      const host = await startHost({ socket, size: 16 * 1024 * 1024, sections: 4 })
      return joined(`unix:${socket}`, directory, () => host.close())
    },
  },
]

class SharedBackend implements PeerBackend {
  readonly address = 'test'
  readonly section: number
  readonly #network: ShmNetwork

  constructor(section: number, network: ShmNetwork) {
    this.section = section
    this.#network = network
  }

  counters(): ReturnType<PeerBackend['counters']> {
    return this.#network.peer.counters()
  }
  hold(): void {
    this.#network.peer.ref()
  }
  drop(): void {
    this.#network.peer.unref()
  }
  close(): void {
    this.#network.peer.close()
  }
}

/** Two peers that share memory and have wires besides: channels can move between both kinds of path. */
export function mixedRig(plan: FaultPlan, wires: string[]): Rig {
  const region = native.Region.create('vmring-test', 4 * 1024 * 1024)
  region.format({ sections: 2, daemonIncarnation: 0 })
  const side = (section: number) => {
    region.claimEntry(section, false)
    const uuid = new Uint8Array(randomBytes(16))
    const holder: { hub?: SessionHub } = {}
    const network = new ShmNetwork(
      region,
      { section, peerId: section, uuid, mode: 'adaptive', doorbell: -1, vector: 0 },
      {
        onPath: (path) => holder.hub!.addPath(path),
        onLost: () => {},
      },
    )
    const { incarnation } = network.peer
    const hub = new SessionHub({ uuid, incarnation }, fastTiming)
    holder.hub = hub
    const peer = new PublicPeer(hub, new SharedBackend(section, network))
    network.start()
    return { uuid, incarnation, section, hub, peer, network }
  }
  const a = side(0)
  const b = side(1)
  const links: Link[] = []
  const link = (name: string, linkPlan = plan, reliable = false): (() => void) => {
    const one = wireUp(name, linkPlan, reliable, a, b, { capacity: 16 * 1024, retryFirst: 4, retryMax: 40 })
    links.push(one)
    return one.cut
  }
  for (const name of wires) link(name)
  return {
    a,
    b,
    plan,
    link,
    kill() {},
    async close() {
      await Promise.all([a.peer.close(), b.peer.close()])
      for (const one of links) one.close()
      region.close()
    },
  }
}
