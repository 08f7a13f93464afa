/**
 * Native ends as the layers above see them, and the table that leads from an end id to whoever wants its ready events.
 */
import { native } from '../native/binding.js'

/** The part of an end that messages and leases refer to. */
export interface EndHandle {
  /** native id, −1 once destroyed: ids are used again, so nobody keeps a copy */
  id: number
  /** payload offsets of this end count from the start of this buffer */
  readonly buffer: ArrayBuffer
  /** bytes */
  readonly capacity: number
  /** bytes that the application holds beyond its handlers */
  retained: number
  /** called after each release, when somebody waits for releases */
  onRelease: (() => void) | null
}

export type ReadySink = (bits: number) => void

const sinks = new Map<number, ReadySink>()

export function watchEnd(id: number, sink: ReadySink): void {
  sinks.set(id, sink)
}

export function unwatchEnd(id: number): void {
  sinks.delete(id)
}

/** `words` holds `count` pairs {end id, ready bits}. */
export function dispatchReady(words: Uint32Array, count: number): void {
  if (count === 1) {
    deliver(words[0]!, words[1]!)
    return
  }
  // A sink may make the addon fill `words` again.
  const copy = words.slice(0, count * 2)
  for (let i = 0; i < copy.length; i += 2) deliver(copy[i]!, copy[i + 1]!)
}

function deliver(id: number, bits: number): void {
  const sink = sinks.get(id)
  if (sink === undefined) return
  try {
    sink(bits)
  } catch (error) {
    rethrowLater(error)
  }
}

/** An error of the application's own listener surfaces where Node puts such errors, and not in the middle of our work. */
export function rethrowLater(error: unknown): void {
  process.nextTick(() => {
    throw error
  })
}

let pairsWatched = false

/** Ends in private memory report here; asked for once per environment. */
export function watchPairs(): void {
  if (pairsWatched) return
  pairsWatched = true
  native.onPairReady((count) => dispatchReady(native.pairReady, count))
}
