/**
 * The relay's client: keeps a control connection, tells the relay which services this process has, takes calls, and makes
 * paths to processes that share no memory with this one (or not any more). docs/protocol.md, "The relay".
 */
import { VmringError } from '../errors.js'
import type { StreamAddress } from '../native/socket-types.js'
import { type PeerRef, peerKey } from '../path/path.js'
import { FramePath } from '../path/pump.js'
import {
  IDLE_MS,
  matches,
  type PeerName,
  type RelayFrame,
  RelayReason,
  RelayType,
  refusalError,
  SILENT_MS,
} from '../path/relay-frames.js'
import { StreamWire } from '../path/stream.js'
import type { Dialer } from '../session/dialer.js'
import type { SessionHub } from '../session/hub.js'
import { RelayLink, type Spliced, splice } from './relay-link.js'

/** longer than the relay waits for the other side (CALL_MS), so that its answer comes first */
const DIAL_MS = 12_000
/** how long the first connection is waited for, and the answer to LISTEN */
const READY_MS = 2000
const RETRY_FIRST_MS = 100
const RETRY_MAX_MS = 5000
/** that the other side calls at the same time takes this long at most */
const MEET_MS = 2000

interface Asked {
  resolve(): void
  reject(error: Error): void
}

export class RelayClient implements Dialer {
  readonly names: readonly string[]
  readonly #address: StreamAddress
  readonly #hub: SessionHub
  readonly #self: PeerName
  readonly #paths = new Set<FramePath>()
  readonly #asked = new Map<string, Asked[]>()
  #control: RelayLink | null = null
  #ready = false
  #closed = false
  #heard = 0
  #retry = RETRY_FIRST_MS
  #timer: NodeJS.Timeout | null = null
  #beat: NodeJS.Timeout | null = null
  #lastError: Error | null = null

  constructor(address: StreamAddress, hub: SessionHub) {
    this.#address = address
    this.#hub = hub
    this.#self = hub.identity
    // a host process reaches guests by 'vsock' and others by 'unix'
    this.names = 'cid' in address ? ['vsock'] : ['vsock', 'unix']
    this.#connect()
  }

  /** Resolves once the relay knows this process; rejects with what is in the way. */
  async ready(): Promise<void> {
    const deadline = performance.now() + READY_MS
    while (!this.#ready) {
      const left = deadline - performance.now()
      if (this.#closed || this.#lastError !== null || left <= 0) {
        throw this.#lastError ?? new VmringError('ERR_VMRING_TIMEOUT', 'the relay does not answer')
      }
      await this.#hub.change(left)
    }
  }

  // ---- the control connection ------------------------------------------------------------------------------------

  #connect(): void {
    this.#timer = null
    const link = new RelayLink(this.#address, {
      onOpen: () => link.send({ type: RelayType.HELLO, peer: this.#self }),
      onFrame: (frame) => this.#onFrame(link, frame),
      onClose: (error) => this.#onClose(error),
    })
    this.#control = link
  }

  #onClose(error: Error): void {
    this.#control = null
    this.#ready = false
    this.#lastError = error
    if (this.#beat !== null) clearInterval(this.#beat)
    this.#beat = null
    for (const service of [...this.#asked.keys()]) this.#answer(service, null)
    this.#hub.notify()
    if (this.#closed) return
    this.#timer = setTimeout(() => this.#connect(), this.#retry).unref()
    this.#retry = Math.min(this.#retry * 2, RETRY_MAX_MS)
  }

  #onFrame(link: RelayLink, frame: RelayFrame): void {
    this.#heard = performance.now()
    switch (frame.type) {
      case RelayType.WELCOME:
        this.#welcome(link)
        return
      case RelayType.OK:
        this.#answer(frame.service, null)
        return
      case RelayType.REFUSE:
        if (frame.service !== undefined) this.#answer(frame.service, refusalError(frame))
        else {
          link.close()
          this.#onClose(refusalError(frame))
        }
        return
      case RelayType.CALL:
        void this.#take(link, frame.token)
        return
      case RelayType.REVOKE:
        this.#hub.steward.avoid('shm', !frame.restore)
        // @step revoke: told
        return
      case RelayType.PING:
        link.send({ type: RelayType.PONG })
    }
  }

  #welcome(link: RelayLink): void {
    this.#ready = true
    this.#lastError = null
    this.#retry = RETRY_FIRST_MS
    for (const service of this.#hub.services) link.send({ type: RelayType.LISTEN, service })
    // @step relay: welcome
    this.#beat = setInterval(() => {
      if (performance.now() - this.#heard < SILENT_MS) link.send({ type: RelayType.PING })
      else {
        link.close()
        this.#onClose(new VmringError('ERR_VMRING_TIMEOUT', 'the relay has fallen silent'))
      }
    }, IDLE_MS).unref()
    this.#hub.notify()
  }

  #answer(service: string, error: Error | null): void {
    const asked = this.#asked.get(service)
    this.#asked.delete(service)
    if (asked === undefined && error !== null) process.emitWarning(error)
    for (const { resolve, reject } of asked ?? []) {
      if (error === null) resolve()
      else reject(error)
    }
  }

  // ---- services --------------------------------------------------------------------------------------------------

  async listen(service: string): Promise<void> {
    // Without a relay for now: it is told when it comes.
    if (
      !this.#ready &&
      (await this.ready().then(
        () => false,
        () => true,
      ))
    )
      return
    const answer = new Promise<void>((resolve, reject) => {
      this.#asked.set(service, [...(this.#asked.get(service) ?? []), { resolve, reject }])
    })
    this.#control?.send({ type: RelayType.LISTEN, service })
    const timer = setTimeout(() => this.#answer(service, null), READY_MS)
    await answer.finally(() => clearTimeout(timer))
  }

  unlisten(service: string): void {
    if (this.#ready) this.#control?.send({ type: RelayType.UNLISTEN, service })
  }

  // ---- paths -----------------------------------------------------------------------------------------------------

  async dialService(service: string): Promise<void> {
    await this.ready()
    this.#adopt(await splice(this.#address, { type: RelayType.DIAL, peer: this.#self, service }, DIAL_MS))
  }

  async dialPeer({ uuid, incarnation }: PeerRef, atOnce: boolean): Promise<void> {
    const target = { uuid, incarnation }
    const deadline = performance.now() + DIAL_MS
    for (;;) {
      await this.ready()
      try {
        this.#adopt(await splice(this.#address, { type: RelayType.DIAL, peer: this.#self, target }, DIAL_MS))
        return
      } catch (error) {
        const { reason } = error as { reason?: number }
        if (reason === RelayReason.BUSY && (await this.#met(uuid, MEET_MS))) return
        if (reason !== RelayReason.NOT_YET || atOnce || performance.now() > deadline) throw error
        // it comes back to this relay, and may be the one that dials
        if (await this.#met(uuid, RETRY_FIRST_MS)) return
      }
    }
  }

  /** The other side may be dialling this one: then its call makes the path, within `limit` ms. */
  async #met(uuid: Uint8Array, limit: number): Promise<boolean> {
    const deadline = performance.now() + limit
    for (;;) {
      const remote = this.#hub.remotes.get(peerKey(uuid))
      if (remote?.paths.some((path) => !path.lost && this.names.includes(path.name))) return true
      const left = deadline - performance.now()
      if (left <= 0 || this.#closed) return false
      await this.#hub.change(left)
    }
  }

  async #take(link: RelayLink, token: Uint8Array): Promise<void> {
    try {
      this.#adopt(await splice(this.#address, { type: RelayType.TAKE, token, peer: this.#self }, DIAL_MS))
    } catch (error) {
      link.send({
        type: RelayType.REFUSE,
        reason: RelayReason.UNKNOWN_PEER,
        text: (error as Error).message,
        token,
      })
    }
  }

  #adopt({ frame, stream, rest }: Spliced): void {
    if (this.#closed) {
      stream.close()
      return
    }
    const { peer, grants, origin } = frame
    const known = this.#hub.remotes.get(peerKey(peer.uuid))?.origin ?? origin
    if (known !== origin) {
      stream.close()
      throw new VmringError(
        'ERR_VMRING_IDENTITY',
        `somebody from ${origin} claims to be a process that was known from ${known}`,
      )
    }
    const wire = new StreamWire(stream, { name: frame.path, buffered: rest })
    const path = new FramePath(
      wire,
      { ...peer, section: -1 },
      { allows: (service) => grants.some((pattern) => matches(pattern, service)) },
    )
    this.#paths.add(path)
    // @step relay: joined to the other side
    for (const old of this.#paths) if (old.lost) this.#paths.delete(old)
    this.#hub.addPath(path).origin = origin
  }

  close(): void {
    this.#closed = true
    if (this.#timer !== null) clearTimeout(this.#timer)
    if (this.#beat !== null) clearInterval(this.#beat)
    this.#control?.close()
    this.#control = null
    this.#ready = false
    const error = new VmringError('ERR_VMRING_CLOSED', 'the peer was closed')
    for (const service of [...this.#asked.keys()]) this.#answer(service, null)
    for (const path of this.#paths) path.close(error)
  }
}
