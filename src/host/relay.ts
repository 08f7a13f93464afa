import { randomBytes } from 'node:crypto'
import { native } from '../native/binding.js'
import { type NativeStream, type NativeStreamListener, VSOCK_ANY } from '../native/socket-types.js'
import { Reason } from '../path/frames.js'
import {
  encodeRelayFrame,
  type PeerName,
  type RefuseFrame,
  type RelayFrame,
  RelayReason,
  RelayType,
} from '../path/relay-frames.js'
import type { Log } from './log.js'
import { allowed, type Policy } from './policy.js'
import { Connection, type ConnectionOwner } from './relay-connection.js'
import {
  CALL_MS,
  MAX_CONNECTIONS,
  MAX_ORIGIN_CALLS,
  MAX_ORIGIN_CONNECTIONS,
  MAX_ORIGIN_HANDSHAKES,
  MAX_ORIGIN_PEERS,
  MAX_ORIGIN_SERVICES,
  MAX_REMEMBERED,
  RETURN_MS,
} from './relay-limits.js'
import { Origin, originName } from './relay-origin.js'
import { keyOf, type Link, PeerBook, type RelayPeer } from './relay-peers.js'
import type { RelayCounters, RelayPeerStatus, RelayStatus } from './relay-status.js'
import { Splice } from './splice.js'

/** A DIAL that waits for the target's TAKE. */
interface Call {
  readonly token: Uint8Array
  readonly connection: Connection
  readonly caller: RelayPeer
  readonly target: RelayPeer
  readonly pair: string
  timer: NodeJS.Timeout | undefined
}

export interface RelayOptions {
  /** a listening descriptor and its path; taken over */
  unix?: { fd: number; path: string } | undefined
  /** port */
  vsock?: number | undefined
  policy: Policy
  log: Log
}

const MAX_STATUS_SERVICES = 64
const reasonNames = new Map<number, string>(
  Object.entries({ ...Reason, ...RelayReason }).map(([name, reason]) => [reason, name]),
)

/**
 * Joins processes that have no memory in common, or cannot use it now: guests over virtio sockets, host processes over a
 * Unix socket. docs/protocol.md section 14. It knows the other end of a connection by what the kernel says (CID or uid), and
 * believes nothing else. Whoever breaks a rule gets a REFUSE and loses that connection, nobody else notices.
 */
export class Relay implements ConnectionOwner {
  readonly #unix: string | null
  readonly #vsock: number | null
  readonly #log: Log
  readonly #listeners: NativeStreamListener[] = []
  readonly #connections = new Set<Connection>()
  readonly #origins = new Map<string, Origin>()
  readonly #book = new PeerBook()
  /** control and dialling connections, and whose they are */
  readonly #owners = new Map<Connection, RelayPeer>()
  readonly #calls = new Map<string, Call>()
  /** pairs that are being joined or are joined */
  readonly #pairs = new Map<string, Call | Link>()
  readonly #links = new Set<Link>()
  readonly #since = performance.now()
  readonly #counters: RelayCounters = { accepted: 0, spliced: 0, refused: {} }
  #policy: Policy

  /** Throws the system's error when it cannot listen (EADDRINUSE, EAFNOSUPPORT, EACCES). */
  constructor({ unix, vsock, policy, log }: RelayOptions) {
    this.#unix = unix?.path ?? null
    this.#vsock = vsock ?? null
    this.#policy = policy
    this.#log = log
    const handlers = {
      onConnection: (stream: NativeStream) => this.#accept(stream),
      onRefused: (error: Error) =>
        log('warn', 'relay: connection lost at the door', { reason: error.message }),
    }
    try {
      if (vsock !== undefined)
        this.#listeners.push(native.streamListen({ cid: VSOCK_ANY, port: vsock }, {}, handlers))
    } catch (error) {
      if (unix !== undefined) native.closeFd(unix.fd)
      throw explained(error as NodeJS.ErrnoException, vsock!)
    }
    if (unix !== undefined)
      this.#listeners.push(native.streamListen({ path: unix.path }, { fd: unix.fd }, handlers))
  }

  close(): void {
    for (const listener of this.#listeners.splice(0)) listener.close()
    for (const { splice } of [...this.#links]) splice.reset()
    for (const connection of [...this.#connections]) connection.close()
  }

  /**
   * What is no longer allowed ends: services are withdrawn, and a splice ends when either side's grants are others now, so
   * that its ends learn the new ones when they dial again.
   */
  setPolicy(policy: Policy): void {
    this.#policy = policy
    const changed = new Set<Origin>()
    for (const origin of this.#origins.values()) {
      const rights = policy.rights(origin.name)
      if (rights.connect.join('\0') !== origin.rights.connect.join('\0')) changed.add(origin)
      origin.rights = rights
    }
    for (const peer of this.#book.all)
      for (const service of [...peer.services])
        if (!allowed(peer.origin.rights.listen, service)) {
          this.#book.unlisten(peer, service)
          this.#refuseService(peer, service, RelayReason.POLICY, 'the policy has changed')
        }
    for (const { caller, target, splice } of [...this.#links])
      if (changed.has(caller.origin) || changed.has(target.origin)) splice.reset()
  }

  /** Tells the processes with this UUID to leave shared memory, or that they may use it again. How many there are. */
  revoke(uuid: string, restore: boolean): number {
    const peers = this.#book.withUuid(uuid).filter(({ control }) => control !== null)
    if (peers.length > 0) this.#book.setRevoked(uuid, !restore)
    for (const { control } of peers) control!.send({ type: RelayType.REVOKE, restore })
    return peers.length
  }

  status(): RelayStatus {
    const { file, rules } = this.#policy
    return {
      unix: this.#unix,
      vsock: this.#vsock,
      policy: file === null ? null : { file, rules: rules!.length },
      peers: [...this.#book.all].map((peer) => this.#describe(peer)),
      connections: this.#connections.size,
      splices: this.#links.size,
      counters: { ...this.#counters, refused: { ...this.#counters.refused } },
    }
  }

  #describe(peer: RelayPeer): RelayPeerStatus {
    const remote = peer.control?.stream.remote
    let { sent, received } = peer
    for (const { caller, splice } of peer.links) {
      const { forth, back } = splice.bytes
      sent += caller === peer ? forth : back
      received += caller === peer ? back : forth
    }
    return {
      uuid: peer.uuid,
      incarnation: peer.name.incarnation,
      origin: peer.origin.name,
      pid: remote !== undefined && 'pid' in remote ? remote.pid : null,
      present: peer.control !== null,
      connected: Date.now() - peer.since,
      services: [...peer.services].slice(0, MAX_STATUS_SERVICES),
      serviceCount: peer.services.size,
      connections: peer.links.size,
      sent,
      received,
      revoked: this.#book.revoked(peer.uuid),
    }
  }

  #accept(stream: NativeStream): void {
    const origin = this.#origin(originName(stream))
    const full =
      this.#connections.size >= MAX_CONNECTIONS
        ? `${MAX_CONNECTIONS} connections are the most`
        : origin.connections >= MAX_ORIGIN_CONNECTIONS
          ? `${MAX_ORIGIN_CONNECTIONS} connections of one origin are the most`
          : origin.handshakes >= MAX_ORIGIN_HANDSHAKES
            ? `${MAX_ORIGIN_HANDSHAKES} connections of one origin that have said nothing are the most`
            : null
    if (full !== null) {
      // no time for it: said once and closed
      this.#noteRefusal(origin, RelayReason.BUSY, full)
      stream.start({ onRead() {}, onEnd() {}, onDrain() {}, onClose() {} })
      stream.write([encodeRelayFrame({ type: RelayType.REFUSE, reason: RelayReason.BUSY, text: full })])
      stream.close()
      return
    }
    this.#counters.accepted++
    const connection = new Connection(stream, origin, this)
    this.#connections.add(connection)
    connection.open()
  }

  #origin(name: string): Origin {
    let origin = this.#origins.get(name)
    if (origin === undefined) {
      if (this.#origins.size >= MAX_REMEMBERED)
        for (const [key, { connections }] of this.#origins) if (connections === 0) this.#origins.delete(key)
      origin = new Origin(name, this.#policy)
      this.#origins.set(name, origin)
    }
    return origin
  }

  onFirst(connection: Connection, frame: RelayFrame): void {
    if (frame.type === RelayType.HELLO) this.#hello(connection, frame.peer)
    else if (frame.type === RelayType.DIAL) this.#dial(connection, frame)
    else if (frame.type === RelayType.TAKE) this.#take(connection, frame)
    else
      this.onBad(
        connection,
        RelayReason.HANDSHAKE,
        `a connection begins with HELLO, DIAL or TAKE, not ${frame.type}`,
      )
  }

  onControl(connection: Connection, frame: RelayFrame): void {
    const peer = this.#owners.get(connection)!
    if (frame.type === RelayType.LISTEN) this.#listen(peer, frame.service)
    else if (frame.type === RelayType.UNLISTEN) this.#book.unlisten(peer, frame.service)
    else if (frame.type === RelayType.REFUSE) this.#declined(peer, frame)
    else if (frame.type === RelayType.PING) connection.send({ type: RelayType.PONG })
    else if (frame.type !== RelayType.PONG)
      this.onBad(
        connection,
        RelayReason.HANDSHAKE,
        `frame ${frame.type} has no place on a control connection`,
      )
  }

  onBad(connection: Connection, reason: number, text: string, service?: string): void {
    this.#noteRefusal(connection.origin, reason, text, service)
    connection.refuse(reason, text, service)
    // it may linger; what it stood for is over
    this.#letGo(connection)
  }

  onGone(connection: Connection): void {
    this.#connections.delete(connection)
    this.#letGo(connection)
  }

  #letGo(connection: Connection): void {
    const peer = this.#owners.get(connection)
    if (peer === undefined) return
    this.#owners.delete(connection)
    if (peer.control !== connection) {
      for (const call of this.#calls.values()) if (call.connection === connection) this.#endCall(call)
      return
    }
    peer.control = null
    peer.origin.peers--
    for (const service of [...peer.services]) this.#book.unlisten(peer, service)
    peer.known.clear()
    for (const call of [...this.#calls.values()])
      if (call.target === peer || call.caller === peer)
        this.#failCall(call, RelayReason.UNKNOWN_PEER, `peer ${peer.key} has left the relay`)
    this.#book.release(peer)
    this.#log('debug', 'relay: left', { origin: peer.origin.name, peer: peer.key })
  }

  #hello(connection: Connection, name: PeerName): void {
    const { origin } = connection
    if (origin.peers >= MAX_ORIGIN_PEERS && !this.#book.find(name)?.control) {
      this.onBad(connection, RelayReason.BUSY, `${MAX_ORIGIN_PEERS} peers of one origin are the most`)
      return
    }
    const peer = this.#book.bind(name, origin)
    if (peer === null) {
      this.onBad(connection, RelayReason.IDENTITY, `peer ${keyOf(name)} belongs to another origin`)
      return
    }
    const old = peer.control
    peer.control = connection
    this.#owners.set(connection, peer)
    if (old === null) origin.peers++
    else {
      // the process has given the old one up; its services are announced anew
      for (const service of [...peer.services]) this.#book.unlisten(peer, service)
      this.#owners.delete(old)
      old.close()
    }
    connection.becomeControl()
    connection.send({ type: RelayType.WELCOME, origin: origin.name })
    if (this.#book.revoked(peer.uuid)) connection.send({ type: RelayType.REVOKE, restore: false })
    this.#log('debug', 'relay: joined', { origin: origin.name, peer: peer.key })
  }

  #listen(peer: RelayPeer, service: string): void {
    const { origin } = peer
    if (!allowed(origin.rights.listen, service))
      this.#refuseService(peer, service, RelayReason.POLICY, `${origin.name} may not listen under this name`)
    else if (!peer.services.has(service) && origin.services >= MAX_ORIGIN_SERVICES)
      this.#refuseService(
        peer,
        service,
        RelayReason.BUSY,
        `${MAX_ORIGIN_SERVICES} services of one origin are the most`,
      )
    else {
      this.#book.listen(peer, service)
      peer.control!.send({ type: RelayType.OK, service })
    }
  }

  #refuseService(peer: RelayPeer, service: string, reason: number, text: string): void {
    this.#noteRefusal(peer.origin, reason, text, service)
    peer.control?.send({ type: RelayType.REFUSE, reason, text, service })
  }

  #dial(
    connection: Connection,
    { peer: name, service, target: wanted }: RelayFrame & { type: typeof RelayType.DIAL },
  ): void {
    const refuse = (reason: number, text: string) => this.onBad(connection, reason, text, service)
    const { origin } = connection
    const caller = this.#book.find(name)
    if (caller === undefined || caller.origin !== origin || caller.control === null) {
      refuse(RelayReason.IDENTITY, `no control connection of ${origin.name} is peer ${keyOf(name)}`)
      return
    }
    if (service !== undefined && !allowed(origin.rights.connect, service)) {
      refuse(RelayReason.POLICY, `${origin.name} may not connect to this service`)
      return
    }
    let target: RelayPeer | undefined
    if (wanted !== undefined) {
      target = this.#book.callable(wanted)
      if (target === undefined || target === caller) {
        const early = !this.#book.met(wanted) && performance.now() - this.#since < RETURN_MS
        refuse(
          early ? RelayReason.NOT_YET : RelayReason.UNKNOWN_PEER,
          `peer ${keyOf(wanted)} is not here${early ? ' yet: the relay has just started' : ''}`,
        )
        return
      }
      if (service !== undefined ? !target.services.has(service) : !this.#mayMeet(caller, target)) {
        if (service !== undefined) refuse(Reason.NO_SERVICE, 'the peer does not listen under this name')
        else refuse(RelayReason.POLICY, 'neither side listens under anything that the other may connect to')
        return
      }
    } else {
      const others = this.#book.listeners(service!).filter((peer) => peer !== caller)
      if (others.length === 0) {
        refuse(Reason.NO_SERVICE, 'nobody listens under this name')
        return
      }
      target = others.find((peer) => !this.#pairs.has(pairOf(caller, peer))) ?? others[0]!
    }
    const pair = pairOf(caller, target)
    const existing = this.#pairs.get(pair)
    if (existing !== undefined) {
      refuse(RelayReason.BUSY, 'token' in existing ? 'already being connected' : 'already connected')
      return
    }
    if (origin.calls >= MAX_ORIGIN_CALLS) {
      refuse(RelayReason.BUSY, `${MAX_ORIGIN_CALLS} unanswered calls of one origin are the most`)
      return
    }
    if (wanted === undefined) this.#book.toEnd(service!, target)
    this.#call(connection, caller, target, pair)
  }

  /** With rights to everything, no service need be there as a reason: running channels outlive theirs. */
  #mayMeet(a: RelayPeer, b: RelayPeer): boolean {
    const may = (from: RelayPeer, to: RelayPeer) => {
      const { connect } = from.origin.rights
      return connect.includes('*') || [...to.known].some((service) => allowed(connect, service))
    }
    return may(a, b) || may(b, a)
  }

  #call(connection: Connection, caller: RelayPeer, target: RelayPeer, pair: string): void {
    const token = randomBytes(16)
    const call: Call = { token, connection, caller, target, pair, timer: undefined }
    call.timer = setTimeout(
      () =>
        this.#failCall(call, RelayReason.UNKNOWN_PEER, `the peer did not answer within ${CALL_MS / 1000} s`),
      CALL_MS,
    )
    caller.origin.calls++
    this.#calls.set(token.toString('hex'), call)
    this.#pairs.set(pair, call)
    this.#owners.set(connection, caller)
    connection.becomeWaiting()
    // @step daemon: a call is under way
    target.control!.send({ type: RelayType.CALL, token, peer: caller.name, origin: caller.origin.name })
  }

  #endCall(call: Call): void {
    if (!this.#calls.delete(Buffer.from(call.token).toString('hex'))) return
    clearTimeout(call.timer)
    call.caller.origin.calls--
    this.#pairs.delete(call.pair)
    this.#owners.delete(call.connection)
  }

  #failCall(call: Call, reason: number, text: string): void {
    this.#endCall(call)
    this.onBad(call.connection, reason, text)
  }

  #declined(peer: RelayPeer, { token, reason, text }: RefuseFrame): void {
    const call = token && this.#calls.get(Buffer.from(token).toString('hex'))
    // a call that is over, or somebody else's: nothing to decline
    if (call === undefined || call.target !== peer) return
    this.#failCall(call, reasonNames.has(reason) ? reason : Reason.CLOSED, `declined by the peer: ${text}`)
  }

  #take(connection: Connection, { token, peer: name }: RelayFrame & { type: typeof RelayType.TAKE }): void {
    const call = this.#calls.get(Buffer.from(token).toString('hex'))
    if (call === undefined) {
      this.onBad(connection, RelayReason.UNKNOWN_PEER, 'no call with this token is waiting')
      return
    }
    const { caller, target } = call
    if (target.key !== keyOf(name) || target.origin !== connection.origin) {
      this.onBad(connection, RelayReason.IDENTITY, 'the call is for another peer')
      return
    }
    this.#endCall(call)
    // @step daemon: a call is taken
    this.#join(call.connection, caller, connection, target, call.pair)
  }

  #join(a: Connection, caller: RelayPeer, b: Connection, target: RelayPeer, pair: string): void {
    const path = a.stream.family === 'vsock' || b.stream.family === 'vsock' ? 'vsock' : 'unix'
    const spliced = (other: RelayPeer): RelayFrame => ({
      type: RelayType.SPLICED,
      peer: other.name,
      origin: other.origin.name,
      grants: [...other.origin.rights.connect],
      path,
    })
    b.becomeWaiting()
    a.send(spliced(target))
    b.send(spliced(caller))
    const ended = () => {
      this.#pairs.delete(pair)
      this.#links.delete(link)
      const { forth, back } = splice.bytes
      caller.sent += forth
      caller.received += back
      target.sent += back
      target.received += forth
      for (const peer of [caller, target]) {
        peer.links.delete(link)
        this.#book.release(peer)
      }
      a.over()
      b.over()
      this.#log('debug', 'relay: splice ended', { caller: caller.key, target: target.key, forth, back })
    }
    const splice: Splice = new Splice(a, b, ended)
    const link: Link = { caller, target, splice }
    this.#pairs.set(pair, link)
    this.#links.add(link)
    caller.links.add(link)
    target.links.add(link)
    this.#counters.spliced++
    this.#log('debug', 'relay: spliced', { caller: caller.key, target: target.key, path })
  }

  #noteRefusal(origin: Origin, reason: number, text: string, service?: string): void {
    const name = reasonNames.get(reason) ?? String(reason)
    const { refused } = this.#counters
    refused[name] = (refused[name] ?? 0) + 1
    const unsaid = origin.mayLog()
    if (unsaid === null) return
    this.#log('warn', 'relay: refused', {
      origin: origin.name,
      reason: name,
      text,
      ...(service !== undefined && { service }),
      ...(unsaid > 0 && { unsaid }),
    })
  }
}

function explained(error: NodeJS.ErrnoException, port: number): Error {
  if (error.code === 'EAFNOSUPPORT' || error.code === 'ENODEV' || error.code === 'EADDRNOTAVAIL')
    error.message +=
      ': this machine has no virtio sockets; `modprobe vhost_vsock`, or leave --relay-vsock out'
  else if (error.code === 'EADDRINUSE')
    error.message += `: another program listens on virtio socket port ${port}; choose another --relay-vsock`
  else if (error.code === 'EACCES')
    error.message += ': ports below 1024 are for root; choose another --relay-vsock'
  return error
}

function pairOf(a: RelayPeer, b: RelayPeer): string {
  return a.key < b.key ? `${a.key} ${b.key}` : `${b.key} ${a.key}`
}
