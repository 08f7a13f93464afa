/**
 * One channel below its public face: opening, sending and receiving records on the end of the current epoch, closing.
 * Path changes are in move.ts. Nothing here knows what a path is made of.
 *
 * States: opening → open ⇄ moving → closed. `open` includes half-closed; what is missing for `closed` is kept in flags.
 *
 * Records in each direction are numbered from 0 at the start of every epoch; the channel's own count continues:
 * `sendBase` and `receiveBase` are the counts at which the current epoch began. A count is what the receiver had
 * delivered when it stopped reading the old ring, so nothing is numbered twice and nothing is skipped.
 */
import { type RecordCounts, VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import { Kind } from '../native/types.js'
import { encodeFrame, Flag, type Frame, FrameType, Reason } from '../path/frames.js'
import type { EndEvents, Path, PathEnd } from '../path/path.js'
import type { Remote, SessionHub } from './hub.js'
import { Mover } from './move.js'
import { Outbound } from './outbound.js'
import { Repeat } from './repeat.js'
import { closedRefusal, inDoubt, notUnderstood, pathLost, peerGone, refused, resetError } from './replies.js'
import { RetiredEnds } from './retired.js'

export type SessionState = 'opening' | 'open' | 'moving' | 'closed'

/** What a session tells the channel above it. */
export interface SessionClient {
  /** There may be something to receive. */
  onReadable(): void
  /** Sending may work again. */
  onWritable(): void
  onPath(name: string): void
  onStalled(stalled: boolean): void
  /** The other side takes no more messages. */
  onPeerClosing(): void
  /** The other side is about to be gone from where the inbox stands: what is there now can be read for the last time. */
  onLeaving(): void
  /** The channel is over; null: in good order. */
  onClosed(error: Error | null): void
}

export interface SessionInit {
  hub: SessionHub
  remote: Remote
  /** 24 bytes */
  id: Uint8Array
  key: string
  service: string
  initiator: boolean
  capacity: number
  /** largest message that this side takes, bytes */
  maxMessage: number
}

/** Numbers added up over the ends that a session has used. */
export interface EndTotals {
  doorbells: number
  suppressed: number
}

export class Session implements EndEvents {
  readonly hub: SessionHub
  readonly remote: Remote
  readonly id: Uint8Array
  readonly key: string
  readonly service: string
  readonly initiator: boolean
  readonly capacity: number
  readonly maxMessage: number
  /** largest message that the other side takes, bytes */
  remoteMaxMessage = 0
  state: SessionState = 'opening'
  error: Error | null = null
  /** false when it ended by force: late questions are answered with RESET, not with CLOSED */
  orderly = true
  epoch = 0
  end: PathEnd
  client: SessionClient | null = null
  /** Native id to receive from, −1 while there is nothing to receive from. */
  receiveId = -1
  sendBase = 0
  receiveBase = 0
  finReceived = false
  /** the other side needs nothing more from us */
  peerClosing = false
  /** where the other side's direction ends, from its CLOSE */
  closing: { epoch: number; next: number } | null = null
  pathChanges = 0
  readonly out: Outbound
  readonly retired: RetiredEnds
  readonly mover: Mover
  readonly opening: Repeat
  readonly #closing: Repeat
  readonly #resetting: Repeat
  #wantReadable = false
  #discard = false
  /** in the middle of #over(): more ends may be retired yet */
  #ending = false
  #totals: EndTotals = { doorbells: 0, suppressed: 0 }
  /** what the last frame answered that opened or moved this side, to answer it again */
  answer: Uint8Array | null = null
  onOpened: ((error: Error | null, reason: number) => void) | null = null

  constructor(init: SessionInit, end: PathEnd) {
    this.hub = init.hub
    this.remote = init.remote
    this.id = init.id
    this.key = init.key
    this.service = init.service
    this.initiator = init.initiator
    this.capacity = init.capacity
    this.maxMessage = init.maxMessage
    this.end = end
    this.out = new Outbound(this)
    this.retired = new RetiredEnds(this, init.hub.timing)
    this.mover = new Mover(this, init.hub.timing)
    this.opening = new Repeat(init.hub.timing)
    this.#closing = new Repeat(init.hub.timing)
    this.#resetting = new Repeat(init.hub.timing)
    end.events = this
  }

  get path(): Path {
    return this.end.path
  }

  // ---- the end of the current epoch ------------------------------------------------------------------------------

  onReadable(): void {
    if (this.#discard) this.#drainInbox()
    else this.client?.onReadable()
  }

  onWritable(): void {
    if (this.state !== 'open') return
    if (this.out.backlog.length > 0) this.out.drain()
    if (this.out.backlog.length > 0) return
    if (this.out.finWanted) this.out.putFin()
    else this.client?.onWritable()
  }

  onFault(error: Error): void {
    const fault = error instanceof VmringError ? error : new VmringError('ERR_VMRING_PROTOCOL', error.message)
    this.destroy(fault, Reason.PROTOCOL)
  }

  /** The end in use changes, and with it where the counts begin. */
  adopt(end: PathEnd, epoch: number, sendBase: number, receiveBase: number): void {
    this.end = end
    this.epoch = epoch
    this.sendBase = sendBase
    this.receiveBase = receiveBase
    end.events = this
    this.state = 'open'
    this.receiveId = end.id
    native.endWantReadable(end.id, this.#wantReadable)
    this.out.drain()
    this.out.update()
    this.client?.onReadable()
    this.onWritable()
  }

  /** Whether onReadable is of any use now: it comes again and again while there is something to read. */
  wantReadable(wanted: boolean): void {
    if (this.#wantReadable === wanted) return
    this.#wantReadable = wanted
    if (this.receiveId >= 0) native.endWantReadable(this.receiveId, wanted)
  }

  /** Stops both directions of the current end. Returns the count of records delivered. */
  freeze(): number {
    this.out.sendId = -1
    this.receiveId = -1
    return (this.receiveBase + this.end.stop()) >>> 0
  }

  retire(end: PathEnd, epoch: number): void {
    const counters = native.endCounters(end.id)
    this.#totals.doorbells += counters.doorbells
    this.#totals.suppressed += counters.suppressed
    this.retired.add(epoch, end, this.out.leaseEnd === end)
  }

  // ---- closing ---------------------------------------------------------------------------------------------------

  /** Ends the own direction behind everything that was accepted. */
  finish(): void {
    if (this.out.finWanted || this.state === 'closed') return
    this.out.finWanted = true
    this.out.update()
    if (this.state === 'open' && this.out.backlog.length === 0) this.out.putFin()
  }

  /** Reads no more; what arrives is thrown away. */
  discard(): void {
    if (this.#discard) return
    this.#discard = true
    this.wantReadable(true)
    this.#drainInbox()
    this.maybeClose()
  }

  /** The channel above has taken the FIN record. */
  finDelivered(): void {
    this.finReceived = true
    this.maybeClose()
  }

  #drainInbox(): void {
    for (let budget = 4096; budget > 0 && this.receiveId >= 0; budget--) {
      const kind = native.endReceive(this.receiveId)
      if (kind <= 0) return
      native.endRelease(this.receiveId, native.scratch[2]!)
      this.end.onRelease?.()
      if (kind === Kind.FIN) this.finDelivered()
    }
  }

  /** Takes the two steps of closing as soon as they are due: say CLOSE, answer CLOSED. */
  maybeClose(): void {
    if (this.state === 'closed' || this.state === 'opening') return
    const through = this.#discard || this.finReceived
    if (!through) return
    if (this.peerClosing) {
      this.#say(FrameType.CLOSED)
      // @step close: CLOSED said
      this.#over(null)
    } else if (
      this.out.finSent &&
      this.out.backlog.length === 0 &&
      this.state === 'open' &&
      !this.#closing.running
    ) {
      this.#closing.start(() => this.#sayClose())
    }
  }

  #sayClose(): void {
    if (this.state !== 'open') return
    const next = (this.sendBase + native.endCounters(this.end.id).sent) >>> 0
    this.sendControl(encodeFrame({ type: FrameType.CLOSE, channel: this.id, epoch: this.epoch, next }))
    // @step close: CLOSE said
  }

  /** True when the other side closes and all that is left to read is its FIN. */
  onlyFinLeft(): boolean {
    const { closing } = this
    if (closing === null || this.state !== 'open' || closing.epoch !== this.epoch) return false
    return ((closing.next - this.receiveBase - native.endCounters(this.end.id).next) | 0) === 1
  }

  #onClose(frame: Frame): void {
    if (this.state === 'opening') return
    if (frame.next !== undefined) this.closing = { epoch: frame.epoch, next: frame.next }
    if (!this.peerClosing) {
      this.peerClosing = true
      this.out.update()
      this.out.backlog = []
      this.client?.onPeerClosing()
    }
    // What the other side sent last may have come after its first CLOSE.
    this.onReadable()
    this.maybeClose()
  }

  /** Ends the channel at once, on both sides. */
  destroy(error: Error | null, reason: number = Reason.DESTROYED): void {
    if (this.state === 'closed') return
    this.orderly = false
    const text = error?.message ?? 'the channel was destroyed'
    this.#resetting.start(() =>
      this.sendControl(encodeFrame({ type: FrameType.RESET, channel: this.id, reason, text })),
    )
    // @step reset: RESET said
    this.#over(error)
  }

  /** The other process has gone. */
  peerGone(): void {
    if (this.receiveId >= 0) this.client?.onLeaving()
    this.#over(peerGone(this.service, this.counts()))
    this.#resetting.stop()
    this.retired.destroyAll()
    this.hub.sessionDone(this)
  }

  #over(error: Error | null): void {
    if (this.state === 'closed') return
    const opened = this.state !== 'opening'
    this.state = 'closed'
    this.#ending = true
    this.error = error
    this.out.sendId = -1
    this.receiveId = -1
    this.out.backlog = []
    this.opening.stop()
    this.#closing.stop()
    this.mover.cancel(error)
    if (this.end.id >= 0) {
      this.end.stop()
      this.retire(this.end, this.epoch)
    }
    if (opened) this.client?.onClosed(error)
    else this.onOpened?.(error, 0)
    this.#ending = false
    this.#settle()
  }

  #settle(): void {
    if (this.state !== 'closed' || this.#ending || this.retired.size > 0) return
    // Without any path the reset reaches nobody; whoever comes back later is told that the channel is not known.
    const alone = this.end.path.lost && this.remote.livePath() === null
    if (this.#resetting.running && !alone) return
    this.#resetting.stop()
    this.hub.sessionDone(this)
  }

  /** The other side still has to say something: that it has let go of what it reads here, or has seen the reset. */
  get unanswered(): boolean {
    return this.state !== 'closed' || this.#resetting.running || this.retired.remotePending
  }

  onAllRetired(): void {
    this.#settle()
  }

  /** Records of the own direction, as far as is known here. */
  counts(): RecordCounts {
    const { end } = this
    if (end.id < 0) return { sent: this.sendBase, delivered: this.sendBase, released: this.sendBase }
    const { sent, delivered, released } = end.progress()
    return {
      sent: (this.sendBase + sent + this.out.backlog.length) >>> 0,
      delivered: (this.sendBase + delivered) >>> 0,
      released: (this.sendBase + released) >>> 0,
    }
  }

  totals(): EndTotals {
    if (this.end.id < 0 || this.state === 'closed') return this.#totals
    const counters = native.endCounters(this.end.id)
    return {
      doorbells: this.#totals.doorbells + counters.doorbells,
      suppressed: this.#totals.suppressed + counters.suppressed,
    }
  }

  // ---- frames ----------------------------------------------------------------------------------------------------

  /** Any living path will do: frames name their channel and epoch. */
  sendControl(frame: Uint8Array): void {
    const path = this.end.path.lost ? this.remote.livePath() : this.end.path
    path?.send(frame)
  }

  #say(type: number): void {
    this.sendControl(encodeFrame({ type, channel: this.id, epoch: this.epoch }))
  }

  reset(reason: number, text: string): void {
    this.sendControl(encodeFrame({ type: FrameType.RESET, channel: this.id, reason, text }))
  }

  onFrame(path: Path, frame: Frame): void {
    if (frame.notUnderstood === true && frame.type !== FrameType.RESET) {
      this.destroy(notUnderstood(), Reason.NOT_UNDERSTOOD)
      return
    }
    switch (frame.type) {
      case FrameType.OPEN:
        if (this.initiator) return
        if (this.state === 'closed') path.send(closedRefusal(this.id))
        else if (this.epoch === 0 && this.answer !== null) path.send(this.answer)
        return
      case FrameType.ACCEPT:
        this.#onAccept(path, frame)
        return
      case FrameType.REFUSE:
        if (this.state === 'opening') this.#onRefuse(frame)
        else this.mover.onRefuse(frame)
        return
      case FrameType.RESET:
        path.send(encodeFrame({ type: FrameType.RESET_ACK, channel: this.id }))
        // @step reset: answered
        this.#resetting.stop()
        this.orderly = false
        this.#over(resetError(this.service, frame))
        this.#settle()
        return
      case FrameType.RESET_ACK:
        this.#resetting.stop()
        this.#settle()
        return
      case FrameType.CLOSE:
        if (this.state === 'closed') this.#answerClosed(path)
        else this.#onClose(frame)
        return
      case FrameType.CLOSED:
        if (this.#closing.running) this.#over(null)
        return
      case FrameType.RETIRE:
        this.#onRetire(path, frame)
        return
      case FrameType.MOVE:
      case FrameType.MOVED:
      case FrameType.ASK_MOVE:
        if (this.state === 'closed') this.#answerClosed(path)
        else this.mover.onFrame(path, frame)
    }
  }

  #answerClosed(path: Path): void {
    if (this.orderly) path.send(encodeFrame({ type: FrameType.CLOSED, channel: this.id, epoch: this.epoch }))
    else if (!this.#resetting.running) this.reset(Reason.CLOSED, 'the channel is closed')
  }

  #onAccept(path: Path, frame: Frame): void {
    if (!this.initiator || this.state === 'open' || this.state === 'moving') return
    if (this.state === 'closed') {
      if (!this.#resetting.running) this.reset(Reason.CLOSED, 'the connection attempt was given up')
      return
    }
    if (path !== this.end.path || frame.offer === undefined || frame.maxMessage === undefined) return
    try {
      this.end.attach(frame.offer)
      // @step open: ACCEPT taken
    } catch (error) {
      this.onFault(error as Error)
      return
    }
    this.opening.stop()
    this.remoteMaxMessage = frame.maxMessage
    this.adopt(this.end, 0, 0, 0)
    // @step open: open
    this.onOpened?.(null, 0)
  }

  #onRefuse(frame: Frame): void {
    const reason = frame.reason ?? Reason.LIMIT
    this.opening.stop()
    this.state = 'closed'
    // The other side says that it does not use what was offered.
    this.end.destroy()
    this.hub.sessionDone(this)
    this.onOpened?.(refused(this.service, reason, frame), reason)
  }

  #onRetire(path: Path, frame: Frame): void {
    if ((frame.flags & Flag.DONE) !== 0) {
      this.retired.onDone(frame.epoch)
      return
    }
    if (this.retired.onAsked(frame.epoch)) return
    if (frame.epoch === this.epoch && this.state !== 'closed') return
    // MOVED may be on its way: whether this side will read there is open.
    if (this.mover.proposes(frame.epoch)) return
    // Never seen, or gone long ago. A MOVE of that epoch that is still under way must not be obeyed any more.
    this.mover.forbid(frame.epoch)
    path.send(encodeFrame({ type: FrameType.RETIRE, flags: Flag.DONE, epoch: frame.epoch, channel: this.id }))
  }

  onPathLost(path: Path, error: Error): void {
    this.retired.onPathLost(path)
    if (this.state === 'closed') {
      this.#settle()
      return
    }
    if (this.state === 'opening') {
      if (this.end.path === path) this.destroy(pathLost(this.service, path.name, error))
      return
    }
    if (this.end.path === path && !path.keepsOutbox) {
      this.outboxLost(path.name, error)
      return
    }
    this.out.update()
    this.mover.onPathLost(path, error)
  }

  /** The other side is no member there any more. What it had sent and was not read here, it sends again elsewhere. */
  onPathLeft(path: Path, error: Error): void {
    if (this.end.path === path && this.end.id >= 0 && this.state !== 'closed') {
      // its section may soon be another's
      if (this.receiveId >= 0) this.client?.onLeaving()
      this.receiveId = -1
      native.endStopReading(this.end.id)
    }
    this.onPathLost(path, error)
  }

  /** The memory went away, and what was in it: name the range in doubt. */
  outboxLost(name: string, cause: Error): void {
    this.destroy(inDoubt(this.service, name, this.counts(), cause))
  }
}
