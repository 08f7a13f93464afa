/**
 * A wire in memory that misbehaves on purpose: it drops, delays, duplicates, reorders and cuts, at exactly the frames that
 * a plan names. Frames of all wires of one plan are numbered in the order in which they are sent.
 */
import { randomBytes } from 'node:crypto'
import { FramePath, type FramePathOptions, type Wire, type WireEvents } from '../../src/path/pump.js'
import { Peer, type PeerBackend } from '../../src/peer/peer.js'
import { SessionHub } from '../../src/session/hub.js'
import type { Timing } from '../../src/session/repeat.js'
import { SLOW } from './slow.js'

export const faultKinds = ['drop', 'delay', 'duplicate', 'reorder', 'cut'] as const
export type FaultKind = (typeof faultKinds)[number]

export interface Fault {
  /** number of the frame */
  at: number
  kind: FaultKind
}

export class FaultPlan {
  frames = 0
  readonly #faults: Map<number, FaultKind>

  constructor(faults: Fault[] = []) {
    this.#faults = new Map(faults.map(({ at, kind }) => [at, kind]))
  }

  take(): FaultKind | null {
    return this.#faults.get(this.frames++) ?? null
  }
}

/** A random plan that repeats itself for its seed. */
export function randomFaults(
  seed: number,
  frames: number,
  rate: number,
  kinds: readonly FaultKind[],
): Fault[] {
  let state = (seed * 2654435761) >>> 0 || 1
  const random = (): number => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return state / 2 ** 32
  }
  const faults: Fault[] = []
  for (let at = 0; at < frames; at++) {
    if (random() < rate) faults.push({ at, kind: kinds[Math.floor(random() * kinds.length)]! })
  }
  return faults
}

/** Leaves out faults as long as the rest still fails; returns a plan from which nothing can be left out. */
export async function shrink(
  faults: Fault[],
  fails: (faults: Fault[]) => Promise<boolean>,
): Promise<Fault[]> {
  let rest = faults
  for (let size = Math.ceil(rest.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let at = 0; at < rest.length; ) {
      const fewer = [...rest.slice(0, at), ...rest.slice(at + size)]
      if (await fails(fewer)) rest = fewer
      else at += size
    }
  }
  return rest
}

const DELAY_MS = 6
const HOLD_MS = 3
const CONGESTED_AT = 32

class MemoryWire implements Wire {
  readonly name: string
  readonly reliable: boolean
  events: WireEvents | null = null
  peer: MemoryWire | null = null
  cut = false
  readonly #plan: FaultPlan
  #queue: Uint8Array[] = []
  #turn: NodeJS.Immediate | null = null
  #held: Uint8Array | null = null
  #congested = false

  constructor(name: string, plan: FaultPlan, reliable: boolean) {
    this.name = name
    this.#plan = plan
    this.reliable = reliable
  }

  send(head: Uint8Array, payload: Uint8Array | null): boolean {
    if (this.cut) return true
    const frame = new Uint8Array(head.length + (payload?.length ?? 0))
    frame.set(head)
    if (payload !== null) frame.set(payload, head.length)
    switch (this.#plan.take()) {
      case 'drop':
        break
      case 'delay':
        setTimeout(() => this.#push(frame), DELAY_MS)
        break
      case 'duplicate':
        this.#push(frame)
        this.#push(frame.slice())
        setTimeout(() => this.#push(frame.slice()), DELAY_MS)
        break
      case 'reorder':
        this.#held = frame
        setTimeout(() => this.#letGo(), HOLD_MS)
        break
      case 'cut':
        this.lose()
        break
      default:
        this.#push(frame)
        this.#letGo()
    }
    this.#congested ||= this.#queue.length >= CONGESTED_AT
    return !this.#congested
  }

  /** Both sides lose the wire, and all that is on it. */
  lose(): void {
    const other = this.peer!
    if (this.cut) return
    this.cut = true
    other.cut = true
    const error = new Error(`wire ${this.name} was cut`)
    setImmediate(() => this.events?.onLost(error))
    setImmediate(() => other.events?.onLost(error))
  }

  close(): void {
    this.lose()
  }

  #letGo(): void {
    const held = this.#held
    this.#held = null
    if (held !== null) this.#push(held)
  }

  #push(frame: Uint8Array): void {
    if (this.cut) return
    this.#queue.push(frame)
    this.#turn ??= setImmediate(() => {
      this.#turn = null
      const frames = this.#queue
      this.#queue = []
      for (const one of frames) if (!this.cut) this.peer!.events?.onFrame(one)
      if (this.#congested && !this.cut) {
        this.#congested = false
        this.events?.onWritable()
      }
    })
  }
}

export const fastTiming: Timing = {
  retryFirst: 4 * SLOW,
  retryMax: 40 * SLOW,
  openLimit: 2000 * SLOW,
  openMax: 2000 * SLOW,
  moveLimit: 1000 * SLOW,
  pathGrace: 400 * SLOW,
  helloLimit: 1000 * SLOW,
  introductionLimit: 1000 * SLOW,
  stallLimit: 200 * SLOW,
  returnAfter: 200 * SLOW,
  returnMax: 2000 * SLOW,
}

export interface Side {
  peer: Peer
  hub: SessionHub
}

export interface Rig {
  a: Side
  b: Side
  plan: FaultPlan
  /** Joins both sides by one more wire. Returns what cuts it. */
  link(name: string, plan?: FaultPlan, reliable?: boolean): () => void
  /** The process of one side is gone: the other learns it, its paths end. */
  kill(side: 'a' | 'b'): void
  close(): Promise<void>
}

class NoBackend implements PeerBackend {
  readonly address = 'memory'
  readonly section = -1
  counters(): null {
    return null
  }
  hold(): void {}
  drop(): void {}
  close(): void {}
}

/** A peer that no path leads to yet. */
export function memorySide(incarnation: number, timing: Partial<Timing>): Named {
  const uuid = new Uint8Array(randomBytes(16))
  const hub = new SessionHub({ uuid, incarnation }, { ...fastTiming, ...timing })
  return { uuid, incarnation, hub, peer: new Peer(hub, new NoBackend()) }
}

export interface Link {
  /** Both sides lose the wire. */
  cut(): void
  close(): void
}

type Named = Side & { uuid: Uint8Array; incarnation: number }

/** Joins two hubs by a wire. */
export function wireUp(
  name: string,
  plan: FaultPlan,
  reliable: boolean,
  a: Named,
  b: Named,
  options: FramePathOptions,
): Link {
  const ref = (one: Named) => ({ uuid: one.uuid, incarnation: one.incarnation, section: -1 })
  const left = new MemoryWire(name, plan, reliable)
  const right = new MemoryWire(name, plan, reliable)
  left.peer = right
  right.peer = left
  const near = new FramePath(left, ref(b), options)
  const far = new FramePath(right, ref(a), options)
  a.hub.addPath(near)
  b.hub.addPath(far)
  return {
    cut: () => left.lose(),
    close() {
      near.close(new Error('the rig is taken down'))
      far.close(new Error('the rig is taken down'))
    },
  }
}

/** Two peers in one process, joined by wires in memory. */
export function memoryRig(
  plan = new FaultPlan(),
  options: FramePathOptions & { timing?: Partial<Timing> } = {},
): Rig {
  const a = memorySide(1, options.timing ?? {})
  const b = memorySide(7, options.timing ?? {})
  const { retryFirst, retryMax } = fastTiming
  const pathOptions = { capacity: 16 * 1024, retryFirst, retryMax, ...options }
  const ref = (one: Named) => ({ uuid: one.uuid, incarnation: one.incarnation, section: -1 })
  const links: Link[] = []
  return {
    a,
    b,
    plan,
    link(name, linkPlan = plan, reliable = false) {
      const link = wireUp(name, linkPlan, reliable, a, b, pathOptions)
      links.push(link)
      return link.cut
    },
    kill(which) {
      const [dead, left] = which === 'a' ? [a, b] : [b, a]
      dead.hub.closed = true
      left.hub.peerGone(ref(dead))
      dead.hub.peerGone(ref(left))
    },
    async close() {
      await Promise.all([a.peer.close(), b.peer.close()])
      for (const link of links) link.close()
    },
  }
}
