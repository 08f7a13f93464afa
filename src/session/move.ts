/**
 * Path changes. Only the side that opened the channel proposes; the other asks it to.
 *
 *   proposer                                   other side
 *     makes an end for epoch e+1
 *     stops reading epoch e for good
 *     MOVE e+1 {next, offer}       ───────▶    makes an end, joins the offer, stops reading its epoch,
 *                                              copies what the proposer has not had, switches
 *     joins the offer, copies      ◀───────    MOVED e+1 {next, offer}
 *     what is missing, switches
 *     MOVED e+1 CONFIRM            ───────▶    usePath() resolves
 *
 * MOVE travels on the new path and is repeated until it is answered. When that path fails, the proposer goes on with
 * epoch e+2 elsewhere (also back on the old path): reading has stopped, so there is no way back to epoch e. The other
 * side may have switched to e+1 by then; whatever it sent there has not been read, so its outbox of e+1 is complete.
 */
import { VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import { encodeFrame, Flag, type Frame, FrameType, Reason } from '../path/frames.js'
import type { Path, PathEnd } from '../path/path.js'
import { Repeat, type Timing } from './repeat.js'
import type { Session } from './session.js'

interface Candidate {
  path: Path
  end: PathEnd
  epoch: number
}

interface Wish {
  name: string
  keep: boolean
  resolve(): void
  reject(error: Error): void
}

export class Mover {
  readonly #session: Session
  readonly #timing: Timing
  readonly #moving: Repeat
  readonly #asking: Repeat
  #candidate: Candidate | null = null
  #wishes: Wish[] = []
  /** highest epoch ever proposed here, or that must not be obeyed */
  #highest = 0
  /** count of records delivered when reading stopped */
  #next = 0
  #limit: NodeJS.Timeout | null = null
  #grace: NodeJS.Timeout | null = null
  /** last epoch that the proposer is known to have switched to */
  #confirmed = 0
  #pathError: Error | null = null
  /** path that the application has asked for: kept as long as it lives */
  pinned: string | null = null
  /** see Steward: ms a better path must have been good, when this one failed last, and until when nothing is tried */
  returnAfter: number
  letDownAt = Number.NEGATIVE_INFINITY
  calmUntil = Number.NEGATIVE_INFINITY

  constructor(session: Session, timing: Timing) {
    this.#session = session
    this.#timing = timing
    this.returnAfter = timing.returnAfter
    this.#moving = new Repeat(timing)
    this.#asking = new Repeat(timing)
  }

  /** Resolves when both directions have moved to the path of that name. */
  async use(name: string): Promise<void> {
    const { remote, service, hub } = this.#session
    if (remote.pathNamed(name) === null && hub.dialer?.names.includes(name)) await hub.reach(remote)
    if (remote.pathNamed(name) === null) throw noPath(service, name, remote.pathNames())
    await this.#wish(name, true)
    this.pinned = name
  }

  /** As use(), of our own accord: when it does not work, it may be tried again later. `keep`: do not come back by yourself. */
  prefer(name: string, keep = false): void {
    const session = this.#session
    if (session.state !== 'open' || session.path.name === name || session.remote.pathNamed(name) === null)
      return
    if (this.#wishes.some((wish) => wish.name === name)) return
    this.#wish(name, keep).catch(() => {
      this.calmUntil = performance.now() + this.returnAfter
    })
  }

  #wish(name: string, keep: boolean): Promise<void> {
    const { state, error, service } = this.#session
    if (state === 'closed')
      return Promise.reject(error ?? new VmringError('ERR_VMRING_CLOSED', `channel '${service}' is closed`))
    return new Promise((resolve, reject) => {
      this.#wishes.push({ name, keep, resolve, reject })
      this.#advance()
    })
  }

  /** An end for that epoch waits for MOVED. */
  proposes(epoch: number): boolean {
    return this.#candidate?.epoch === epoch
  }

  /** Epochs up to this one are not obeyed any more. */
  forbid(epoch: number): void {
    if (epoch > this.#highest) this.#highest = epoch
  }

  cancel(error: Error | null): void {
    this.#stopTimers()
    const candidate = this.#candidate
    this.#candidate = null
    if (candidate !== null) this.#session.retired.add(candidate.epoch, candidate.end, false)
    const wishes = this.#wishes
    this.#wishes = []
    const reason =
      error ?? new VmringError('ERR_VMRING_CLOSED', 'the channel was closed before it had changed path')
    for (const wish of wishes) wish.reject(reason)
  }

  #stopTimers(): void {
    this.#moving.stop()
    this.#asking.stop()
    if (this.#limit !== null) clearTimeout(this.#limit)
    if (this.#grace !== null) clearTimeout(this.#grace)
    this.#limit = null
    this.#grace = null
  }

  /** Goes on with whatever is wished for next; called whenever the session has settled on a path. */
  #advance(): void {
    const session = this.#session
    if (session.state !== 'open') return
    if (session.path.lost) {
      this.#leaveLostPath()
      return
    }
    const settled = session.initiator || this.#confirmed === session.epoch
    if (settled) {
      const [done, rest] = partition(this.#wishes, (wish) => wish.name === session.path.name)
      this.#wishes = rest
      for (const wish of done) wish.resolve()
    }
    const wish = this.#wishes[0]
    if (wish === undefined) {
      this.#asking.stop()
      return
    }
    const path = session.remote.pathNamed(wish.name)
    if (path === null) {
      this.#wishes.shift()
      wish.reject(noPath(session.service, wish.name, session.remote.pathNames()))
      this.#advance()
    } else if (session.initiator) {
      const error = this.#propose(path)
      if (error !== null) {
        this.#wishes.shift()
        wish.reject(error)
        this.#advance()
      }
    } else if (!this.#asking.running) {
      this.#asking.start(() => this.#ask())
    }
  }

  #ask(): void {
    const { id, epoch, path } = this.#session
    const frame = { type: FrameType.ASK_MOVE, channel: id, epoch }
    const wish = this.#wishes[0]
    if (wish !== undefined) {
      const flags = wish.keep ? Flag.KEEP : 0
      this.#session.sendControl(encodeFrame({ ...frame, flags, path: wish.name }))
    } else if (path.lost) this.#session.sendControl(encodeFrame(frame))
    else this.#asking.stop()
  }

  #leaveLostPath(): void {
    const session = this.#session
    if (!session.initiator) {
      if (!this.#asking.running) this.#asking.start(() => this.#ask())
      if (session.remote.livePath() === null) this.#awaitPath()
      return
    }
    const path = session.remote.livePath()
    if (path === null) this.#awaitPath()
    else if (this.#propose(path) !== null) this.#awaitPath()
  }

  /** No path at all: a new one may come, for a while. */
  #awaitPath(): void {
    this.#grace ??= setTimeout(() => {
      this.#grace = null
      const { path, end, initiator, remote } = this.#session
      // A path has come meanwhile: the side that proposes is being asked.
      if (!initiator && remote.livePath() !== null) return
      // An unplugged device leaves a copy of what had come: that is delivered first.
      if (end.shared && path.keepsOutbox && end.id >= 0 && native.endCounters(end.id).readable) {
        this.#awaitPath()
        return
      }
      this.#session.outboxLost(path.name, this.#pathError ?? new Error('no path is left'))
    }, this.#timing.pathGrace).unref()
  }

  onPathAdded(): void {
    if (this.#session.state === 'moving' && this.#candidate === null) this.#tryNext(null)
    else this.#advance()
  }

  onPathLost(path: Path, error: Error): void {
    const session = this.#session
    this.#pathError = error
    if (session.path === path) {
      if (this.pinned === path.name) this.pinned = null
      session.hub.steward.letDown(session)
    }
    if (this.#candidate?.path === path) this.#abandon(error)
    else this.#advance()
    if (session.remote.livePath() === null && session.state !== 'closed') this.#awaitPath()
  }

  // ---- proposing -------------------------------------------------------------------------------------------------

  #propose(path: Path): Error | null {
    const session = this.#session
    const epoch = Math.max(session.epoch, this.#highest) + 1
    let end: PathEnd
    try {
      end = path.createEnd({ channel: session.id, epoch, capacity: session.capacity })
      // @step move: end made
    } catch (error) {
      return error as Error
    }
    this.#highest = epoch
    if (session.state === 'open') {
      session.state = 'moving'
      this.#next = session.freeze()
    }
    this.#candidate = { path, end, epoch }
    const frame = encodeFrame({
      type: FrameType.MOVE,
      channel: session.id,
      epoch,
      next: this.#next,
      offer: end.offer,
    })
    if (this.#grace !== null) clearTimeout(this.#grace)
    this.#grace = null
    this.#armLimit()
    this.#moving.start(() => path.send(frame))
    // @step move: MOVE said
    return null
  }

  #armLimit(): void {
    if (this.#limit !== null) clearTimeout(this.#limit)
    this.#limit = setTimeout(() => {
      // A stalled process comes back; its silence says nothing about the path.
      if (this.#candidate?.path.stalled === true) this.#armLimit()
      else
        this.#abandon(new VmringError('ERR_VMRING_TIMEOUT', 'the other side did not answer on the new path'))
    }, this.#timing.moveLimit).unref()
  }

  /** Gives the candidate up and goes on elsewhere. */
  #abandon(error: Error): void {
    const candidate = this.#candidate
    if (candidate === null) return
    this.#candidate = null
    this.#moving.stop()
    this.#session.retired.add(candidate.epoch, candidate.end, false)
    const wish = this.#wishes[0]
    if (wish !== undefined && wish.name === candidate.path.name) {
      this.#wishes.shift()
      wish.reject(
        new VmringError('ERR_VMRING_NO_PATH', `path ${wish.name} cannot be used: ${error.message}`, {
          cause: error,
          attempts: [`${wish.name}: ${error.message}`],
        }),
      )
    }
    this.#tryNext(candidate.path)
  }

  #tryNext(failed: Path | null): void {
    const { remote } = this.#session
    const path = remote.livePath(failed) ?? remote.livePath()
    if (path === null) this.#awaitPath()
    else if (this.#propose(path) !== null) this.#awaitPath()
  }

  // ---- frames ----------------------------------------------------------------------------------------------------

  onFrame(path: Path, frame: Frame): void {
    if (frame.type === FrameType.MOVE) this.#onMove(path, frame)
    else if (frame.type === FrameType.ASK_MOVE) this.#onAsk(path, frame)
    else if ((frame.flags & Flag.CONFIRM) !== 0) this.#onConfirm(frame)
    else this.#onMoved(path, frame)
  }

  onRefuse(frame: Frame): void {
    const error = new VmringError(
      'ERR_VMRING_REFUSED',
      `the other side declined: ${frame.text || 'no reason given'}`,
    )
    if (this.#candidate !== null && frame.epoch === this.#candidate.epoch) {
      this.#abandon(error)
    } else if (!this.#session.initiator && frame.epoch === this.#session.epoch) {
      const wish = this.#wishes[0]
      // Late, of a wish that is over; or asked because the path is lost: goes on asking, at its own pace.
      if (wish === undefined || wish.name !== frame.path) return
      this.#wishes.shift()
      this.#asking.stop()
      wish.reject(
        new VmringError('ERR_VMRING_NO_PATH', `the other side cannot change path: ${frame.text}`, {
          cause: error,
        }),
      )
      this.#advance()
    }
  }

  #onMove(path: Path, frame: Frame): void {
    const session = this.#session
    if (session.initiator || frame.offer === undefined || frame.next === undefined) return
    if (frame.epoch === session.epoch && session.answer !== null && path === session.path) {
      path.send(session.answer)
      return
    }
    if (frame.epoch <= session.epoch || frame.epoch <= this.#highest) return
    if (session.hub.steward.avoids(path.name)) {
      this.#refuse(path, frame.epoch, Reason.LIMIT, `this process has been moved off path ${path.name}`)
      return
    }
    if (path.allows?.(session.service) === false) {
      this.#refuse(
        path,
        frame.epoch,
        Reason.POLICY,
        `the policy of the relay does not allow '${session.service}'`,
      )
      return
    }
    let end: PathEnd | null = null
    try {
      end = path.createEnd({ channel: session.id, epoch: frame.epoch, capacity: session.capacity })
      end.attach(frame.offer)
      // @step move: offer joined
    } catch (error) {
      end?.destroy()
      this.#refuse(path, frame.epoch, Reason.SECTION_FULL, (error as Error).message)
      return
    }
    const next = session.freeze()
    session.answer = encodeFrame({
      type: FrameType.MOVED,
      channel: session.id,
      epoch: frame.epoch,
      next,
      offer: end.offer,
    })
    path.send(session.answer)
    // @step move: MOVED said
    this.#switch(end, frame.epoch, frame.next, next)
  }

  #onMoved(path: Path, frame: Frame): void {
    const candidate = this.#candidate
    const session = this.#session
    if (candidate === null || frame.epoch !== candidate.epoch || path !== candidate.path) {
      if (session.initiator && frame.epoch === session.epoch) this.#confirm()
      return
    }
    if (frame.offer === undefined || frame.next === undefined) return
    try {
      candidate.end.attach(frame.offer)
      // @step move: MOVED taken
    } catch (error) {
      session.onFault(error as Error)
      return
    }
    this.#candidate = null
    this.#moving.stop()
    if (this.#limit !== null) clearTimeout(this.#limit)
    this.#limit = null
    this.#switch(candidate.end, candidate.epoch, frame.next, this.#next)
  }

  /** Both counts are known: copy what the other side has not had, change over, send it again. */
  #switch(end: PathEnd, epoch: number, remoteNext: number, next: number): void {
    const session = this.#session
    const old = session.end
    const from = (remoteNext - session.sendBase) >>> 0
    try {
      const { sent, remoteReleased } = native.endCounters(old.id)
      if ((sent - from) >>> 0 > (sent - remoteReleased) >>> 0) {
        throw new VmringError('ERR_VMRING_PROTOCOL', 'the other side resumes where it cannot be')
      }
      session.out.backlog.unshift(...old.pending(from))
      // @step move: what is missing is copied
    } catch (error) {
      session.retired.add(epoch, end, false)
      if (old.path.keepsOutbox || (error as VmringError).code === 'ERR_VMRING_PROTOCOL')
        session.onFault(error as Error)
      else session.outboxLost(old.path.name, error as Error)
      return
    }
    session.retire(old, session.epoch)
    session.pathChanges++
    session.hub.steward.review(session.remote)
    const changed = old.path.name !== end.path.name
    session.adopt(end, epoch, remoteNext, next)
    // @step move: switched
    if (session.initiator) this.#confirm()
    if (this.#grace !== null) clearTimeout(this.#grace)
    this.#grace = null
    // The application may have closed the channel while it was told.
    if (changed && (session.state as string) !== 'closed') session.client?.onPath(end.path.name)
    this.#advance()
  }

  #confirm(): void {
    const { id, epoch } = this.#session
    this.#session.sendControl(encodeFrame({ type: FrameType.MOVED, flags: Flag.CONFIRM, channel: id, epoch }))
    // @step move: confirmed
  }

  #onConfirm(frame: Frame): void {
    if (this.#session.initiator || frame.epoch !== this.#session.epoch) return
    this.#confirmed = frame.epoch
    this.#advance()
  }

  #onAsk(arrival: Path, frame: Frame): void {
    const session = this.#session
    // In the middle of a change, or an old question: the other side asks again when it has seen where we are.
    if (!session.initiator || session.state !== 'open' || frame.epoch !== session.epoch) return
    // @step move: asked
    const here = session.path
    if (frame.path !== undefined && frame.path === here.name && !here.lost) {
      this.#confirm()
      return
    }
    const path =
      frame.path === undefined ? session.remote.livePath(here) : session.remote.pathNamed(frame.path)
    const { hub, remote } = session
    const refuse = (error: Error) =>
      this.#refuse(arrival, frame.epoch, Reason.LIMIT, error.message, frame.path)
    if (path !== null) {
      if ((frame.flags & Flag.KEEP) !== 0) this.pinned = path.name
      const error = this.#propose(path)
      if (error !== null) refuse(error)
    } else if (frame.path === undefined || hub.dialer?.names.includes(frame.path)) {
      // asked again once the path is there
      hub.reach(remote).catch(refuse)
    } else {
      refuse(new Error(`no path ${frame.path} leads there`))
    }
  }

  #refuse(path: Path, epoch: number, reason: number, text: string, asked?: string): void {
    const frame = { type: FrameType.REFUSE, channel: this.#session.id, epoch, reason, text }
    path.send(encodeFrame(asked === undefined ? frame : { ...frame, path: asked }))
  }
}

function noPath(service: string, name: string, known: string[]): VmringError {
  return new VmringError(
    'ERR_VMRING_NO_PATH',
    `channel '${service}' has no path '${name}' to its peer; there is ${known.join(', ') || 'none'}`,
    { attempts: [`${name}: not available to this peer`] },
  )
}

function partition<T>(items: T[], test: (item: T) => boolean): [T[], T[]] {
  const yes: T[] = []
  const no: T[] = []
  for (const item of items) (test(item) ? yes : no).push(item)
  return [yes, no]
}
