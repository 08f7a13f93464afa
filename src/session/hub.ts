/**
 * All sessions of one peer: who is there, what they offer, and which frame belongs to whom. Path-independent; a session
 * may have several paths to the same process, which is known by its UUID.
 */
import { addressInUse, VmringError } from '../errors.js'
import {
  decodeFrame,
  encodeFrame,
  Flag,
  type Frame,
  FrameType,
  MAX_TEXT_BYTES,
  putU32,
  Reason,
} from '../path/frames.js'
import { CHANNEL_ID_BYTES, type Path, type PathEvents, type PeerRef, peerKey } from '../path/path.js'
import { connectService } from './connect.js'
import type { Dialer } from './dialer.js'
import { Guard, type Refusal } from './limits.js'
import { helloAcks, Remote } from './remote.js'
import { defaultTiming, type Timing } from './repeat.js'
import { closedRefusal } from './replies.js'
import { MAX_CHANNELS, MAX_SERVICES, type PeerReport } from './report.js'
import { Session } from './session.js'
import { rank, Steward } from './steward.js'
import { Tombstones } from './tombstones.js'

export { Remote } from './remote.js'

export interface ConnectOptions {
  /** gives up with the signal's reason */
  signal?: AbortSignal
  /** ms to wait until somebody listens; default 0 */
  wait?: number
  /** names of the paths to try, in this order; default: all there are */
  paths?: string[]
  /** bytes of the ring in each direction, a power of two */
  ringSize?: number
  /** @internal one of many channels: a small ring unless `ringSize` says how large */
  many?: boolean
  /** largest message that this side takes, in bytes; default 64 MiB */
  maxMessageSize?: number
}

/** A name that others connect to. */
export interface Listener {
  readonly service: string
  readonly maxMessageSize: number
  /** Null: take it. Else the reason for declining, in words. */
  decline(): string | null
  onSession(session: Session): void
}

export interface HubIdentity {
  uuid: Uint8Array
  incarnation: number
}

export const DEFAULT_MAX_MESSAGE = 64 * 1024 * 1024
const MIN_CAPACITY = 4096
const MAX_CAPACITY = 2 ** 30

export function validCapacity(capacity: number | undefined): capacity is number {
  return (
    capacity !== undefined &&
    Number.isInteger(Math.log2(capacity)) &&
    capacity >= MIN_CAPACITY &&
    capacity <= MAX_CAPACITY
  )
}

export class SessionHub implements PathEvents {
  readonly identity: HubIdentity
  readonly timing: Timing
  readonly remotes = new Map<string, Remote>()
  readonly steward: Steward
  readonly guard: Guard
  /** makes paths that are not there yet; null: nobody does */
  dialer: Dialer | null = null
  closed = false
  /** called when services or channels have come or gone */
  onReport: (() => void) | null = null
  /** called when the paths to a process have changed, and when it says BELLS */
  onPaths: ((remote: Remote) => void) | null = null
  onBells: ((path: Path, flags: number) => void) | null = null
  readonly #sessions = new Map<string, Session>()
  readonly #tombstones = new Tombstones()
  readonly #listeners = new Map<string, Listener>()
  readonly #claims = new Set<string>()
  readonly #changed = new Set<() => void>()
  #counter = 0
  #serial = 0

  constructor(identity: HubIdentity, timing: Partial<Timing> = {}, guard = new Guard()) {
    this.identity = identity
    this.timing = { ...defaultTiming, ...timing }
    this.guard = guard
    this.steward = new Steward(this)
  }

  get sessionCount(): number {
    return this.#sessions.size
  }

  get services(): string[] {
    return [...this.#listeners.keys()]
  }

  // ---- paths and remotes -----------------------------------------------------------------------------------------

  addPath(path: Path): Remote {
    const key = peerKey(path.remote.uuid)
    let remote = this.remotes.get(key)
    if (remote === undefined) {
      remote = new Remote(path.remote, key, this.timing)
      this.remotes.set(key, remote)
    }
    path.events = this
    remote.outlived.clear()
    // The best first; of two ways of one kind the newer: the region of a daemon that was started again.
    const worse = remote.paths.findIndex(({ name }) => name === path.name || rank(name) > rank(path.name))
    remote.paths.splice(worse < 0 ? remote.paths.length : worse, 0, path)
    this.steward.changed(path)
    if (!remote.known) remote.greet()
    for (const session of [...remote.sessions]) session.mover.onPathAdded()
    this.steward.review(remote)
    this.onPaths?.(remote)
    this.notify()
    return remote
  }

  onStalled(path: Path, stalled: boolean): void {
    const remote = this.#remoteOf(path)
    if (remote === undefined) return
    this.steward.changed(path)
    for (const session of [...remote.sessions]) if (session.path === path) session.client?.onStalled(stalled)
    this.steward.review(remote)
    this.notify()
  }

  onLost(path: Path, error: Error): void {
    const remote = this.#remoteOf(path)
    if (remote === undefined) return
    this.#drop(remote, path, false)
    for (const session of [...remote.sessions]) session.onPathLost(path, error)
    if (remote.unreachable) this.#lookFor(remote, remote.paths.length > 0)
    this.notify()
  }

  onLeft(path: Path): void {
    const remote = this.#remoteOf(path)
    if (remote === undefined) return
    this.#drop(remote, path, true)
    if (remote.unreachable && this.dialer === null) {
      this.peerGone(path.remote)
      return
    }
    const error = new VmringError(
      'ERR_VMRING_PEER_GONE',
      `the process at the other end has left path ${path.name}`,
    )
    for (const session of [...remote.sessions]) session.onPathLeft(path, error)
    if (remote.unreachable) this.#lookFor(remote, true)
    this.notify()
  }

  #drop(remote: Remote, path: Path, left: boolean): void {
    remote.drop(path, left)
    this.onPaths?.(remote)
  }

  /** A process that no path reaches: has it ended, or can it be reached in another way? `left`: it went by itself, so it must be found at once. */
  #lookFor(remote: Remote, left: boolean): void {
    if (this.#forget(remote)) return
    if (this.dialer === null) return // the channels wait for a path, for a while
    this.reach(remote, left).catch((error: { code?: string }) => {
      if (this.closed || !remote.unreachable || this.remotes.get(remote.key) !== remote) return
      if (left || error.code === 'ERR_VMRING_UNKNOWN_PEER') this.peerGone(remote.ref)
      else setTimeout(() => this.#lookFor(remote, false), this.timing.retryMax).unref()
    })
  }

  /** A process that no path leads to and no session needs. */
  #forget(remote: Remote): boolean {
    if (remote.sessions.size > 0 || remote.paths.length > 0) return false
    remote.stop()
    if (this.remotes.get(remote.key) === remote) this.remotes.delete(remote.key)
    return true
  }

  /** Has a new path made to that process; one attempt at a time. `atOnce`: as of dialPeer(). */
  reach(remote: Remote, atOnce = false): Promise<void> {
    if (this.dialer === null)
      return Promise.reject(new VmringError('ERR_VMRING_NO_PATH', 'there is no relay'))
    remote.reaching ??= this.dialer.dialPeer(remote.ref, atOnce).finally(() => {
      remote.reaching = null
    })
    return remote.reaching
  }

  /** The process left, or started anew: final. */
  peerGone(ref: Pick<PeerRef, 'uuid'>): void {
    const remote = this.remotes.get(peerKey(ref.uuid))
    if (remote === undefined) return
    this.remotes.delete(remote.key)
    remote.stop()
    for (const session of [...remote.sessions]) session.peerGone()
    this.notify()
  }

  #remoteOf(path: Path): Remote | undefined {
    return this.remotes.get(peerKey(path.remote.uuid))
  }

  /** Resolves at the next change of remotes, paths or services, or after `timeout` ms, or when the signal aborts. */
  change(timeout: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', done)
        this.#changed.delete(done)
        resolve()
      }
      const timer = setTimeout(done, timeout)
      signal?.addEventListener('abort', done)
      this.#changed.add(done)
    })
  }

  /** Wakes whoever waits in change(). */
  notify(): void {
    for (const done of [...this.#changed]) done()
  }

  // ---- services --------------------------------------------------------------------------------------------------

  /** Throws EADDRINUSE. */
  listen(listener: Listener): void {
    if (this.closed) throw new VmringError('ERR_VMRING_CLOSED', 'this peer is closed; attach() a new one')
    if (this.#listeners.has(listener.service)) throw addressInUse(listener.service)
    this.#listeners.set(listener.service, listener)
    this.onReport?.()
    this.#tell(FrameType.ANNOUNCE, listener.service)
  }

  unlisten(service: string): void {
    if (!this.#listeners.delete(service)) return
    this.dialer?.unlisten(service)
    this.#tell(FrameType.WITHDRAW, service)
    this.onReport?.()
  }

  /** Shows the others a name that leads nowhere. */
  claim(name: string): void {
    this.#claims.add(name)
    this.#tell(FrameType.ANNOUNCE, name)
  }

  unclaim(name: string): void {
    if (this.#claims.delete(name)) this.#tell(FrameType.WITHDRAW, name)
  }

  claims(name: string): boolean {
    return this.#claims.has(name)
  }

  #names(): string[] {
    return [...this.#listeners.keys(), ...this.#claims]
  }

  #tell(type: number, service: string): void {
    const frame = encodeFrame({ type, service })
    for (const remote of this.remotes.values()) remote.send(frame)
  }

  // ---- opening ---------------------------------------------------------------------------------------------------

  /** Opens a channel to whoever listens under `service`. Rejects with ECONNREFUSED, ERR_VMRING_NO_PATH, and what the attempts met. */
  async connect(service: string, options: ConnectOptions = {}): Promise<Session> {
    const session = await connectService(this, service, options)
    this.onReport?.()
    return session
  }

  /** What `vmring ls` shows of this process. */
  report(): PeerReport {
    const open = [...this.#sessions.values()].filter(({ state }) => state === 'open')
    const channels = open.slice(0, MAX_CHANNELS).map(({ id, service, remote, path, initiator }) => ({
      id: Buffer.from(id).toString('hex'),
      service,
      section: remote.section,
      path: path.name,
      initiator,
    }))
    const { services } = this
    return {
      services: services.slice(0, MAX_SERVICES),
      channels,
      serviceCount: services.length,
      channelCount: open.length,
      limits: { ...this.guard.reached, muted: 0 },
    }
  }

  nextChannelId(): Uint8Array {
    const id = new Uint8Array(CHANNEL_ID_BYTES)
    id.set(this.identity.uuid)
    putU32(id, 16, this.identity.incarnation)
    putU32(id, 20, ++this.#counter)
    return id
  }

  addSession(session: Session): void {
    this.#sessions.set(session.key, session)
    session.remote.sessions.add(session)
    this.onReport?.()
  }

  /** Nothing of the session is left but the memory of it. */
  sessionDone(session: Session): void {
    if (!this.#sessions.delete(session.key)) return
    session.remote.sessions.delete(session)
    this.#forget(session.remote)
    this.onReport?.()
    this.#tombstones.add(session.key, session.orderly)
    this.notify()
  }

  // ---- frames ----------------------------------------------------------------------------------------------------

  onFrame(path: Path, bytes: Uint8Array): void {
    const remote = this.#remoteOf(path)
    const frame = decodeFrame(bytes)
    if (remote === undefined || frame === null || this.closed) return
    this.steward.heard(path)
    switch (frame.type) {
      case FrameType.HELLO:
        for (const ack of helloAcks(this.#names(), ++this.#serial, path.maxFrame)) path.send(ack)
        return
      case FrameType.HELLO_ACK:
        if (remote.onHelloAck(frame)) this.notify()
        return
      case FrameType.ANNOUNCE:
        if (frame.service !== undefined) remote.onAnnounce(frame.service)
        this.notify()
        return
      case FrameType.WITHDRAW:
        if (frame.service !== undefined) remote.services.delete(frame.service)
        this.notify()
        return
      case FrameType.BELLS:
        this.onBells?.(path, frame.flags)
        return
    }
    if (frame.type < FrameType.OPEN || frame.type > FrameType.RETIRE) return
    const key = channelKey(frame.channel)
    const session = this.#sessions.get(key)
    if (session !== undefined) {
      // A channel belongs to one process: what another one says about it is noise.
      if (session.remote === remote) session.onFrame(path, frame)
      return
    }
    if (frame.type === FrameType.OPEN && !this.#tombstones.has(key)) this.#onOpen(path, remote, key, frame)
    else this.#onUnknown(path, key, frame)
  }

  /** A frame about a channel that is over, or was never here. */
  #onUnknown(path: Path, key: string, frame: Frame): void {
    const { channel, epoch } = frame
    switch (frame.type) {
      case FrameType.OPEN:
        path.send(closedRefusal(channel.slice()))
        return
      case FrameType.RESET:
        // An OPEN that it has overtaken must not be obeyed.
        this.#tombstones.add(key, false)
        path.send(encodeFrame({ type: FrameType.RESET_ACK, channel }))
        return
      case FrameType.RETIRE:
        if ((frame.flags & Flag.DONE) === 0) {
          path.send(encodeFrame({ type: FrameType.RETIRE, flags: Flag.DONE, epoch, channel }))
        }
        return
      case FrameType.CLOSE:
        path.send(encodeFrame({ type: FrameType.CLOSED, channel, epoch }))
        return
      case FrameType.MOVE:
      case FrameType.ASK_MOVE:
        if (this.#tombstones.orderly(key)) {
          path.send(encodeFrame({ type: FrameType.CLOSED, channel, epoch }))
          return
        }
        break
      case FrameType.ACCEPT:
        break
      default:
        return
    }
    const text = 'this channel is not known here'
    path.send(encodeFrame({ type: FrameType.RESET, channel, reason: Reason.CLOSED, text }))
  }

  /** Takes the channel, or says no. */
  #onOpen(path: Path, remote: Remote, key: string, frame: Frame): void {
    const no = this.#tryOpen(path, remote, key, frame)
    if (no === null) return
    path.send(encodeFrame({ type: FrameType.REFUSE, channel: frame.channel, ...no }))
  }

  #tryOpen(path: Path, remote: Remote, key: string, frame: Frame): Refusal | null {
    const { service, offer, capacity, maxMessage } = frame
    if (frame.notUnderstood === true)
      return refusal(Reason.NOT_UNDERSTOOD, 'a required option is not known here')
    if (
      service === undefined ||
      offer === undefined ||
      maxMessage === undefined ||
      !validCapacity(capacity)
    ) {
      return refusal(Reason.PROTOCOL, 'the request is incomplete')
    }
    if (peerKey(frame.channel.subarray(0, 16)) !== remote.key)
      return refusal(Reason.PROTOCOL, 'the channel id belongs to somebody else')
    if (path.allows?.(service) === false)
      return refusal(Reason.POLICY, `the policy of the relay does not allow '${service}'`)
    if (this.steward.avoids(path.name))
      return refusal(Reason.LIMIT, `this process has been moved off path ${path.name}`)
    const listener = this.#listeners.get(service)
    if (listener === undefined) return refusal(Reason.NO_SERVICE, 'nobody listens under this name')
    const limit = this.guard.refuses(remote.sessions.size, capacity, () => listener.decline())
    if (limit !== null) {
      this.onReport?.()
      return limit
    }
    const id = frame.channel.slice()
    let end: ReturnType<Path['createEnd']> | null = null
    try {
      end = path.createEnd({ channel: id, epoch: 0, capacity })
      end.attach(offer)
      // @step accept: offer joined
    } catch (error) {
      end?.destroy()
      const full = (error as VmringError).code === 'ERR_VMRING_SECTION_FULL'
      const reason = full ? Reason.SECTION_FULL : Reason.PROTOCOL
      return { reason, text: (error as Error).message, ...(full && { capacity: path.defaultCapacity() }) }
    }
    const session = new Session(
      {
        hub: this,
        remote,
        id,
        key,
        service,
        initiator: false,
        capacity,
        maxMessage: listener.maxMessageSize,
      },
      end,
    )
    session.remoteMaxMessage = maxMessage
    session.answer = encodeFrame({
      type: FrameType.ACCEPT,
      channel: id,
      offer: end.offer,
      maxMessage: listener.maxMessageSize,
    })
    this.addSession(session)
    path.send(session.answer)
    // @step accept: ACCEPT said
    session.adopt(end, 0, 0, 0)
    // @step accept: open
    listener.onSession(session)
    return null
  }

  // ---- the end ---------------------------------------------------------------------------------------------------

  /** Resets what is open, and waits a moment for the others to let go of what they read here. */
  async close(linger = 500): Promise<void> {
    if (this.closed) return
    for (const service of this.services) this.unlisten(service)
    const error = new VmringError('ERR_VMRING_CLOSED', 'the peer was closed')
    for (const session of [...this.#sessions.values()]) session.destroy(error, Reason.CLOSED)
    const deadline = performance.now() + linger
    while (performance.now() < deadline) {
      const waiting = [...this.#sessions.values()].filter((session) => session.unanswered)
      if (waiting.every((session) => session.remote.stalled)) break
      await this.change(Math.min(10, Math.max(1, deadline - performance.now())))
    }
    this.closed = true
    this.steward.close()
    for (const remote of this.remotes.values()) remote.stop()
    for (const session of [...this.#sessions.values()]) session.peerGone()
    this.remotes.clear()
    this.notify()
  }
}

export function channelKey(channel: Uint8Array): string {
  return Buffer.from(channel.buffer, channel.byteOffset, channel.byteLength).toString('latin1')
}

/** Throws ERR_VMRING_ARGUMENT unless `service` can be a service name. */
export function checkService(service: unknown): asserts service is string {
  if (typeof service !== 'string' || service.length === 0 || Buffer.byteLength(service) > MAX_TEXT_BYTES) {
    throw new VmringError(
      'ERR_VMRING_ARGUMENT',
      `a service name is a string of 1 to ${MAX_TEXT_BYTES} bytes in UTF-8; got ${typeof service === 'string' ? `${Buffer.byteLength(service)} bytes` : typeof service}`,
    )
  }
}

function refusal(reason: number, text: string): Refusal {
  return { reason, text }
}
