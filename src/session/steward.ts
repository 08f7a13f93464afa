/**
 * Decides on which path a channel should be; the mover carries it out. Lower rank is better: shared memory, then the rest.
 *
 *   fall back  the path has been revoked, or its peer stays silent on it while it answers on another
 *   return     a better path has been good for a while: longer each time, when it has let the channel down before
 *
 * Both sides fall back; only the side that opened the channel returns. A path that the application has asked for is kept
 * as long as it lives. What is lost altogether is the mover's business, which asks here for a new path.
 */
import { encodeFrame, FrameType } from '../path/frames.js'
import type { Path } from '../path/path.js'
import type { SessionHub } from './hub.js'
import type { Remote } from './remote.js'
import type { Session } from './session.js'

/** ms between two looks while something is awaited */
const LOOK_MS = 100
/** An answer that is older than this says nothing about now, ms. */
const FRESH_MS = 1000
/** A path that failed again within this time has to prove itself for longer, ms. */
const MEMORY_MS = 60_000

export function rank(name: string): number {
  return name === 'shm' ? 0 : 1
}

export class Steward {
  readonly #hub: SessionHub
  readonly #avoided = new Set<string>()
  /** since when a path has been stalled, or has not been */
  readonly #since = new WeakMap<Path, number>()
  readonly #heard = new WeakMap<Path, number>()
  #timer: NodeJS.Timeout | null = null
  #due = Number.POSITIVE_INFINITY

  constructor(hub: SessionHub) {
    this.#hub = hub
  }

  /** The path is new, or it has stalled or come back. */
  changed(path: Path): void {
    this.#since.set(path, performance.now())
  }

  /** A session frame has come: somebody answers there. */
  heard(path: Path): void {
    this.#heard.set(path, performance.now())
  }

  /** Takes every channel off the paths of that name, or lets them return. */
  avoid(name: string, on: boolean): void {
    if (on === this.#avoided.has(name)) return
    if (on) this.#avoided.add(name)
    else this.#avoided.delete(name)
    for (const remote of this.#hub.remotes.values()) {
      // whoever opened the channel returns by itself, but the other side has asked it to stay away
      if (!on) for (const session of remote.sessions) if (!session.initiator) session.mover.prefer(name, true)
      this.review(remote)
    }
  }

  avoids(name: string): boolean {
    return this.#avoided.has(name)
  }

  review(remote: Remote): void {
    for (const session of [...remote.sessions]) if (session.state === 'open') this.#look(session)
  }

  #look(session: Session): void {
    const { path, remote, mover } = session
    const now = performance.now()
    if (path.lost) return
    if (this.#avoided.has(path.name)) {
      this.#leave(session, now, false)
    } else if (path.stalled) {
      const at = (this.#since.get(path) ?? now) + this.#hub.timing.stallLimit
      if (now >= at) this.#leave(session, now, true)
      else this.#wakeAt(at)
    } else if (session.initiator && mover.pinned === null) {
      const better = remote.paths.find((one) => rank(one.name) < rank(path.name) && this.#good(one))
      if (better === undefined) return
      const at = Math.max((this.#since.get(better) ?? now) + mover.returnAfter, mover.calmUntil)
      if (now >= at) mover.prefer(better.name)
      else this.#wakeAt(at)
    }
  }

  #good(path: Path): boolean {
    return !path.lost && !path.stalled && !this.#avoided.has(path.name)
  }

  #leave(session: Session, now: number, must: boolean): void {
    const { remote, path, mover } = session
    this.#wakeAt(Math.max(now + LOOK_MS, mover.calmUntil))
    if (now < mover.calmUntil) return
    const target = remote.paths.find((one) => one !== path && this.#good(one))
    if (target === undefined) {
      void this.#hub.reach(remote).catch(() => {
        mover.calmUntil = performance.now() + FRESH_MS // nobody there: not again at once
      })
      return
    }
    // Silent here, and perhaps there too: a process that has stopped answers nowhere, and comes back to where it was.
    if (must && now - (this.#heard.get(target) ?? Number.NEGATIVE_INFINITY) > FRESH_MS) {
      target.send(encodeFrame({ type: FrameType.HELLO }))
      return
    }
    this.letDown(session)
    mover.prefer(target.name, !must)
  }

  /** The path has failed the channel. It has to be good for longer before the channel returns, the more often it has failed. */
  letDown({ mover }: Session): void {
    const { returnAfter, returnMax } = this.#hub.timing
    const now = performance.now()
    mover.returnAfter =
      now - mover.letDownAt < MEMORY_MS ? Math.min(mover.returnAfter * 2, returnMax) : returnAfter
    mover.letDownAt = now
  }

  #wakeAt(at: number): void {
    if (at >= this.#due || this.#hub.closed) return
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#due = at
    this.#timer = setTimeout(
      () => {
        this.#timer = null
        this.#due = Number.POSITIVE_INFINITY
        for (const remote of this.#hub.remotes.values()) this.review(remote)
      },
      Math.max(1, at - performance.now()),
    ).unref()
  }

  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    this.#due = Number.NEGATIVE_INFINITY
  }
}
