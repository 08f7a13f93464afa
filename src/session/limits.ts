/**
 * What one other process can make this one spend on its channels, and how often somebody has come up against it. Whoever does is
 * told ERR_VMRING_LIMIT; the counts are what the operator sees (`vmring ls`). What a peer can cost the daemon stands in
 * src/host/relay-limits.ts; doorbells are limited in native/addon/member_turn.cc.
 */
import { VmringError } from '../errors.js'
import { Reason } from '../path/frames.js'

export interface Limits {
  /** channels with one other process at a time; default 4096 */
  channelsPerPeer?: number
  /** bytes of the ring that one channel of another process may ask for here, per direction; default 64 MiB */
  ringBytes?: number
}

/** How often each limit has been reached. */
export interface LimitCounts {
  /** channels refused because the process had too many */
  channels: number
  /** rings refused because they were too large; the other side is told what would do, and tries again with that */
  ringBytes: number
  /** channels refused because too many waited to be taken from their server (`backlog` of listen) */
  waiting: number
}

export interface Refusal {
  reason: number
  text: string
  capacity?: number
}

const MIN_RING = 4096

export class Guard {
  readonly channelsPerPeer: number
  readonly ringBytes: number
  readonly reached: LimitCounts = { channels: 0, ringBytes: 0, waiting: 0 }

  /** Throws ERR_VMRING_ARGUMENT. */
  constructor({ channelsPerPeer = 4096, ringBytes = 64 * 1024 * 1024 }: Limits = {}) {
    whole('channelsPerPeer', channelsPerPeer, 1)
    whole('ringBytes', ringBytes, MIN_RING)
    this.channelsPerPeer = channelsPerPeer
    this.ringBytes = ringBytes
  }

  /** A channel is asked for by somebody who has so many; `declined`: what the listener says. Null: it may be. */
  refuses(channels: number, capacity: number, declined: () => string | null): Refusal | null {
    if (channels >= this.channelsPerPeer) {
      this.reached.channels++
      return limit(`${this.channelsPerPeer} channels with one process are the most`)
    }
    if (capacity > this.ringBytes) {
      this.reached.ringBytes++
      return {
        ...limit(`${this.ringBytes} bytes are the most for the ring of a channel`),
        capacity: 2 ** Math.floor(Math.log2(this.ringBytes)),
      }
    }
    const words = declined()
    if (words === null) return null
    this.reached.waiting++
    return limit(words)
  }
}

function limit(text: string): Refusal {
  return { reason: Reason.LIMIT, text }
}

function whole(name: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return
  throw new VmringError(
    'ERR_VMRING_ARGUMENT',
    `limits.${name} is a whole number of at least ${least}; not ${value}`,
  )
}
