/** What the explorer's world is made of: scenarios, lanes in which frames lie, wires over them, and the two sides. */
import type { Channel } from '../../src/channel/channel.js'
import { readHeader } from '../../src/path/frames.js'
import type { Path, PeerRef } from '../../src/path/path.js'
import type { Wire, WireEvents } from '../../src/path/pump.js'
import type { Message } from '../../src/ring/message.js'
import { SessionHub } from '../../src/session/hub.js'
import type { Session } from '../../src/session/session.js'
import { SequenceOracle } from '../support/oracle.js'

export type SideName = 'a' | 'b'

export interface PathSpec {
  name: string
  /** wire: frames, pumped; shared: rings that the other side reads in place */
  kind: 'wire' | 'shared'
  /** shared only: false when losing the path loses what is in its rings */
  keepsOutbox?: boolean
}

export interface Scenario {
  paths: PathSpec[]
  /** what each application does, in order: send, use:PATH, end, close, destroy */
  a: string[]
  b: string[]
  /** every so-many-th message is kept until the application's turn comes again */
  holdEvery?: number
  /** a path that is lost comes back */
  returns?: boolean
  /** kinds of deviation that are tried, beside another order of what is due */
  deviations: Deviation[]
}

export type Deviation =
  | 'drop'
  | 'double'
  | 'overtake'
  | 'timer'
  | 'use'
  | 'lose'
  | 'die'
  | 'restart'
  | 'end'
  | 'close'
  | 'destroy'

/** Something that may happen next. */
export interface Step {
  label: string
  run(): void
}

export interface Due extends Step {
  since: number
}

interface Queued {
  since: number
  label: string
  bytes: Uint8Array
}

const typeNames =
  'none HELLO HELLO_ACK ANNOUNCE WITHDRAW OPEN ACCEPT REFUSE RESET RESET_ACK CLOSE CLOSED ASK_MOVE MOVE MOVED RETIRE DATA ACK PING'.split(
    ' ',
  )

function describe(bytes: Uint8Array): string {
  const header = readHeader(bytes)
  return header === null
    ? 'noise'
    : `${typeNames[header.type]}${header.flags === 0 ? '' : `+${header.flags}`}@${header.epoch}`
}

/** Counts what happens: who has waited longest comes first. */
export interface Clock {
  tick(): number
}

/** One direction of one way between the two sides. */
export class Lane {
  readonly label: string
  readonly queue: Queued[] = []
  readonly world: Clock
  open = true
  sink: ((bytes: Uint8Array) => void) | null = null

  constructor(world: Clock, label: string) {
    this.world = world
    this.label = label
  }

  push(bytes: Uint8Array): void {
    if (this.open)
      this.queue.push({ since: this.world.tick(), label: `${this.label} ${describe(bytes)}`, bytes })
  }

  deliver(at = 0): void {
    const [frame] = this.queue.splice(at, 1)
    if (frame !== undefined) this.sink?.(frame.bytes)
  }
}

export class LaneWire implements Wire {
  readonly name: string
  readonly reliable = false
  readonly #out: Lane
  events: WireEvents | null = null

  constructor(name: string, out: Lane) {
    this.name = name
    this.#out = out
  }

  send(head: Uint8Array, payload: Uint8Array | null): boolean {
    this.#out.push(payload === null ? head.slice() : Buffer.concat([head, payload]))
    return true
  }

  close(): void {}
}

/** One way between both sides, from when it comes until it is lost. */
export interface Way {
  spec: PathSpec
  /** lanes[0] leads from a to b */
  lanes: [Lane, Lane]
  paths: { a: Path; b: Path }
  lose: { a(): void; b(): void }
  alive: boolean
}

export class Side {
  readonly name: SideName
  readonly ref: PeerRef
  readonly hub: SessionHub
  session: Session | null = null
  channel: Channel | null = null
  alive = true
  /** the other process is known to have gone */
  bereft = false
  script: string[] = []
  scriptSince = 0
  readSince: number | null = null
  accepted = 0
  readonly sending: SequenceOracle
  readonly receiving: SequenceOracle
  readonly held: { message: Message; sequence: number; since: number }[] = []
  wishes = 0
  readonly wishErrors: Error[] = []
  highestEpoch = 0
  ended = false

  constructor(name: SideName, incarnation: number) {
    this.name = name
    const uuid = new Uint8Array(16).fill(name === 'a' ? 0xaa : 0xbb)
    this.ref = { uuid, incarnation, section: -1 }
    this.hub = new SessionHub({ uuid, incarnation })
    const size = (n: number): number => (n % 4 === 2 ? 1500 : (n * 331 + (name === 'a' ? 50 : 400)) % 1000)
    this.sending = new SequenceOracle(name === 'a' ? 1 : 2, size)
    this.receiving = new SequenceOracle(name === 'a' ? 2 : 1, (n) =>
      n % 4 === 2 ? 1500 : (n * 331 + (name === 'a' ? 400 : 50)) % 1000,
    )
  }
}
