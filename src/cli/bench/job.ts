/** What one run is, and what comes of it: the words that the processes of a bench exchange. */
import type { Mode } from '../../native/types.js'

export const TESTS = ['latency', 'throughput', 'rate', 'scale'] as const
export type Test = (typeof TESTS)[number]
export const TRANSPORTS = ['shm', 'socket', 'unix', 'tcp', 'messageport', 'zeromq', 'vsock'] as const
export const MODES = ['busy', 'adaptive', 'event'] as const
export const APIS = ['sync', 'event', 'iterate'] as const
export const FILLS = ['copy', 'reserve'] as const
export const TOUCHES = ['header', 'all'] as const
export type Api = (typeof APIS)[number]
export type Fill = (typeof FILLS)[number]
export type Touch = (typeof TOUCHES)[number]

/** One run: all times in milliseconds, sizes in bytes. */
export interface Job {
  test: Test
  /** a name of TRANSPORTS, or the file of a module with a Transport of its own */
  transport: string
  /** of the peers; absent where no peer is involved */
  mode?: Mode
  api: Api
  fill: Fill
  touch: Touch
  size: number
  /** pause before each message */
  idleGap: number
  duration: number
  warmup: number
  /** messages per second (test 'rate') */
  rate: number
  /** processes in the region, the two that talk included */
  peers: number
  /** channels open between the two, the one in use included */
  channels: number
  /** bytes of each ring */
  ring: number
  /** processors of the two sides */
  cpus: [number, number] | null
}

/** A side's own share of a result; counts are those of the measured time. */
export interface SideReport {
  /** distinct messages that arrived, over the whole run */
  received: number
  /** messages whose number did not come next, but came */
  reordered: number
  duplicated: number
  /** messages with other bytes than were sent */
  changed: number
  /** messages that this side sent, over the whole run */
  sent: number
  cpuSeconds: number
  doorbells?: number
  suppressed?: number
  /** of the own section, for each channel */
  bytesPerChannel?: number
}

/** What the side that asks reports. */
export interface ClientReport extends SideReport {
  /** HdrHistogram of round trips in nanoseconds, compressed, base64 */
  histogram?: string
  samples: number
  /** measured time */
  seconds: number
  /** of all channels opened, the median */
  openNanoseconds: number
}

/** What the side that answers reports; throughput is measured here. */
export interface ServerReport extends SideReport {
  /** messages in the measured time, and that time */
  samples: number
  seconds: number
}

/** What the two sides of a run say to each other. */
export type Note =
  | { type: 'listening'; address: string }
  | { type: 'opened' }
  | { type: 'ready' }
  | { type: 'measure' }
  | { type: 'stop'; sent: number }
  | { type: 'done'; report: ServerReport }
  | { type: 'over' }

/** What the machine allows; medians of what the addon's floor functions say. */
export interface Floors {
  cacheLineRoundTrip: number
  ringRoundTrip: number
  eventfdRoundTrip: number
  memcpyBytesPerSecond: number
}

export function overLocalMemory({ transport }: { transport: string }): boolean {
  return transport === 'shm' || transport === 'socket'
}
