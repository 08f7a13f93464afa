import { randomBytes } from 'node:crypto'
import { EventEmitter } from 'node:events'
import { defaultSocket } from '../default-socket.js'
import { VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import type { FdListener, FdSocket } from '../native/socket-types.js'
import { EntryState, type NativeRegion } from '../native/types.js'
import { checkReport, type PeerReport } from '../session/report.js'
import { AdminError, AdminServer } from './admin.js'
import type { HostCounters, HostStatus, RevokeAnswer } from './admin-client.js'
import { type Announcement, Client, createEventfds, SharedFds } from './client.js'
import { PeerIds } from './ids.js'
import { type Log, silent } from './log.js'
import { argument, formatSize } from './options.js'
import { openPolicy, readPolicy } from './policy.js'
import { Relay } from './relay.js'
import { SocketFile } from './socket-file.js'
import { SectionTable } from './table.js'

const BEAT_MS = 500
const VERSION = 0
const MEMORY = -1
/** A client with a queue this long is given up when descriptors run out. */
const SHED_ABOVE = 256

export interface HostOptions {
  /** path of the socket; default VMRING_SOCKET or /run/vmring/default.sock. The administration socket is PATH.admin. */
  socket?: string
  /** bytes of the region, a power of two of at least 1 MiB; default 64 MiB */
  size?: number
  /** 1 to 256; default 16 */
  sections?: number
  /** eventfds per peer, 1 to 64; default 2. QEMU's `vectors=` must not be larger. */
  vectors?: number
  /** file mode of both sockets; default 0o660 */
  mode?: number
  /** group id of both sockets; default: unchanged */
  group?: number
  /** Messages that may wait for one client before it is closed; default 16384. Each may keep one descriptor open. */
  maxQueue?: number
  /** path of the relay's socket; default: that of the socket with `.relay` behind it. false: none */
  relayUnix?: string | false
  /** virtio socket port of the relay; default: none */
  relayVsock?: number
  /** JSON file with what the relay allows; default: everybody who can open a socket may do everything */
  policy?: string
  log?: Log
}

export interface HostPeerInfo {
  id: number
  /** null: no section was free */
  section: number | null
  pid: number
  uid: number
}

interface HostEvents {
  join: [peer: HostPeerInfo]
  leave: [peer: HostPeerInfo]
  close: []
}

/**
 * Starts the daemon: it makes a region, and speaks the ivshmem-server protocol to QEMU and to attach('unix:…').
 * Rejects with ERR_VMRING_ARGUMENT, ERR_VMRING_REGION_SIZE, ERR_VMRING_POLICY_FILE, EADDRINUSE (a daemon answers at the path), or
 * the system's error.
 */
export async function startHost(options: HostOptions = {}): Promise<Host> {
  return new Host(options)
}

/** A running daemon. Made by startHost(). */
export class Host extends EventEmitter<HostEvents> implements AsyncDisposable {
  readonly socket: string
  readonly regionUuid: string
  readonly size: number
  readonly sections: number
  readonly vectors: number
  readonly #log: Log
  readonly #maxQueue: number
  readonly #region: NativeRegion
  readonly #sectionSize: number
  readonly #incarnation = randomBytes(4).readUInt32LE() || 1
  readonly #memory: SharedFds
  readonly #files: SocketFile[] = []
  readonly #listener: FdListener
  readonly #admin: AdminServer
  readonly #relay: Relay | null
  readonly #policyFile: string | null
  readonly #beat: NodeJS.Timeout
  readonly #ids = new PeerIds()
  readonly #table: SectionTable
  readonly #clients = new Map<FdSocket, Client>()
  readonly #reports = new WeakMap<Client, PeerReport>()
  readonly #doomed: { client: Client; reason: string }[] = []
  readonly #counters: HostCounters = { joins: 0, leaves: 0, refused: 0, dropped: 0, bells: 0 }
  readonly #started = Date.now()
  #turn: NodeJS.Immediate | undefined
  #bellsDue = false
  #closed: Promise<void> | undefined

  /** @internal */
  constructor(options: HostOptions) {
    super()
    const {
      socket = defaultSocket(),
      size = 64 * 2 ** 20,
      sections = 16,
      vectors = 2,
      mode = 0o660,
      group = -1,
    } = options
    whole('sections', sections, 1, 256)
    whole('vectors', vectors, 1, 64)
    whole('mode', mode, 0, 0o777)
    if (options.relayVsock !== undefined) whole('relayVsock', options.relayVsock, 1, 0xffff_fffe)
    if (!Number.isSafeInteger(size) || size < 2 ** 20 || 2 ** Math.round(Math.log2(size)) !== size) {
      throw new VmringError(
        'ERR_VMRING_REGION_SIZE',
        `a region is a power of two of at least 1 MiB (a PCI memory window is), not ${formatSize(size)}; try --size 64M`,
      )
    }
    this.socket = socket
    this.size = size
    this.sections = sections
    this.vectors = vectors
    this.#log = options.log ?? silent
    this.#maxQueue = options.maxQueue ?? 16384
    this.#table = new SectionTable(sections)
    this.#policyFile = options.policy ?? null
    // a file with an error in it leaves nothing behind
    const policy = options.policy === undefined ? openPolicy : readPolicy(options.policy)

    this.#region = native.Region.create('vmring', size)
    try {
      this.#format(sections)
      const geometry = this.#region.geometry()
      this.regionUuid = uuidText(geometry.uuid)
      this.#sectionSize = geometry.sectionSize
      // The region owns its descriptor; this list is never released.
      this.#memory = new SharedFds([this.#region.fd])
      this.#region.beat()
      const listening = new SocketFile(socket, mode, group)
      this.#files.push(listening)
      this.#listener = native.fdListen(listening.fd, {
        onConnection: (client) => this.#join(client),
        onRefused: (error) => this.#refuse(error.message),
        onWritable: (client) => this.#clients.get(client)?.flush(),
        onClose: (client, error) => this.#disconnected(client, error),
      })
    } catch (error) {
      this.unlink()
      this.#region.close()
      throw error
    }
    let relay: Relay | null = null
    try {
      const { relayUnix = `${socket}.relay`, relayVsock } = options
      let unix: SocketFile | undefined
      if (relayUnix !== false) {
        unix = new SocketFile(relayUnix, mode, group, '--relay-unix')
        this.#files.push(unix)
      }
      if (unix !== undefined || relayVsock !== undefined)
        relay = new Relay({ unix, vsock: relayVsock, policy, log: this.#log })
      this.#relay = relay
      const administration = new SocketFile(`${socket}.admin`, mode, group)
      this.#files.push(administration)
      this.#admin = new AdminServer(administration, (request) => this.#administer(request), this.#log)
    } catch (error) {
      relay?.close()
      this.#listener.close()
      this.unlink()
      this.#region.close()
      throw error
    }
    this.#beat = setInterval(() => this.#region.beat(), BEAT_MS)
    this.#log('info', 'listening', { socket, region: this.regionUuid, size, sections, vectors })
  }

  status(): HostStatus {
    const now = Date.now()
    return {
      version: native.buildInfo.version,
      pid: process.pid,
      socket: this.socket,
      uptime: now - this.#started,
      region: {
        uuid: this.regionUuid,
        size: this.size,
        sections: this.sections,
        sectionSize: this.#sectionSize,
        freeSections: this.#table.free,
        daemonIncarnation: this.#incarnation,
      },
      vectors: this.vectors,
      peers: [...this.#clients.values()].map((client) => ({
        ...describe(client),
        generation: client.seat?.generation ?? null,
        connected: now - client.since,
        queued: client.queued,
        sent: client.sent,
        report: this.#reports.get(client) ?? null,
      })),
      ids: { available: this.#ids.available() },
      counters: { ...this.#counters },
      relay: this.#relay?.status() ?? null,
    }
  }

  /** Reads the policy file again. Throws ERR_VMRING_POLICY_FILE, and keeps the policy that there was. */
  reloadPolicy(): void {
    if (this.#policyFile === null) throw argument('this daemon was started without a policy file')
    const policy = readPolicy(this.#policyFile)
    this.#relay?.setPolicy(policy)
    this.#log('info', 'policy read again', { file: this.#policyFile, rules: policy.rules!.length })
  }

  /** Closes every connection and removes the socket files. Peers keep their mappings; they notice the closed connection. */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Removes the socket files at once: the last resort of a process that is about to exit. */
  unlink(): void {
    for (const file of this.#files) file.unlink()
  }

  #format(sections: number): void {
    try {
      this.#region.format({ sections, daemonIncarnation: this.#incarnation })
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'ERR_VMRING_REGION_SIZE') throw cause
      throw new VmringError(
        'ERR_VMRING_REGION_SIZE',
        `${sections} sections do not fit in ${formatSize(this.size)}; use a larger --size or fewer --sections`,
        { cause },
      )
    }
  }

  async #close(): Promise<void> {
    clearInterval(this.#beat)
    clearImmediate(this.#turn)
    // Files first: whoever connects from here on finds nobody rather than a daemon that is going.
    this.unlink()
    this.#listener.close()
    this.#relay?.close()
    for (const client of this.#clients.values()) client.destroy()
    this.#clients.clear()
    await this.#admin.close()
    this.#region.close()
    this.#log('info', 'closed', { socket: this.socket })
    this.emit('close')
  }

  #join(socket: FdSocket): void {
    const lease = this.#ids.join()
    if (lease === null) {
      socket.close()
      this.#refuse(
        'every peer id is in use or known to a client that is connected; restart the oldest clients',
      )
      return
    }
    let eventfds: SharedFds
    try {
      eventfds = createEventfds(this.vectors)
    } catch (error) {
      socket.close()
      this.#ids.leave(lease)
      this.#refuse((error as Error).message)
      this.#shed()
      return
    }
    const client = new Client(socket, lease, eventfds, this.#table.take())
    // The entry stands before the handshake says the id: the client finds itself in the table.
    if (client.seat) this.#writeEntry(client, EntryState.JOINED)
    else this.#log('warn', 'no free section: the client gets its handshake but no entry', { id: client.id })

    // @step daemon: entry written
    const arrival: Announcement = { value: client.id, fds: eventfds }
    client.push({ value: VERSION, fds: null })
    client.push({ value: client.id, fds: null })
    client.push({ value: MEMORY, fds: this.#memory })
    for (const other of this.#clients.values()) {
      client.push({ value: other.id, fds: other.eventfds })
      this.#tell(other, arrival)
    }
    client.push(arrival)
    // @step daemon: handshake said
    // The handshake grows with the number of peers and is nobody's fault.
    client.limit = this.#maxQueue + client.queued
    this.#clients.set(socket, client)
    this.#counters.joins++
    this.#membershipChanged()
    this.#log('debug', 'joined', {
      id: client.id,
      section: client.seat?.section ?? null,
      pid: socket.pid,
      uid: socket.uid,
    })
    this.emit('join', describe(client))
  }

  #leave(client: Client): void {
    if (!this.#clients.delete(client.socket)) return
    const { seat } = client
    if (seat) {
      this.#writeEntry(client, EntryState.FREE)
      this.#table.give(seat.section)
      // @step daemon: entry free
    }
    client.destroy()
    this.#ids.leave(client.lease)
    const departure: Announcement = { value: client.id, fds: null }
    for (const other of this.#clients.values()) this.#tell(other, departure)
    // @step daemon: departure told
    this.#counters.leaves++
    this.#membershipChanged()
    this.#log('debug', 'left', { id: client.id, section: seat?.section ?? null })
    this.emit('leave', describe(client))
  }

  #tell(client: Client, announcement: Announcement): void {
    client.push(announcement)
    if (client.queued > client.limit) this.#doom(client, `it does not read: ${client.queued} messages wait`)
  }

  #disconnected(socket: FdSocket, error: NodeJS.ErrnoException | null): void {
    const client = this.#clients.get(socket)
    if (!client) return
    if (error && error.code !== 'ECONNRESET' && error.code !== 'EPIPE') this.#dropped(client, error.message)
    this.#leave(client)
  }

  /** Decided while others are being told something; carried out when that is done. */
  #doom(client: Client, reason: string): void {
    if (client.doomed) return
    client.doomed = true
    this.#doomed.push({ client, reason })
    this.#atTurnEnd()
  }

  #dropped(client: Client, reason: string): void {
    this.#counters.dropped++
    this.#log('warn', 'client closed', {
      id: client.id,
      pid: client.socket.pid,
      uid: client.socket.uid,
      reason,
    })
  }

  #refuse(reason: string): void {
    this.#counters.refused++
    this.#log('warn', 'client refused', { reason })
  }

  /** Out of descriptors: the client with the longest queue keeps the most of them open. */
  #shed(): void {
    let longest: Client | undefined
    for (const client of this.#clients.values())
      if (client.queued > (longest?.queued ?? SHED_ABOVE)) longest = client
    if (longest) this.#doom(longest, `descriptors ran out and ${longest.queued} messages wait for it`)
  }

  #membershipChanged(): void {
    this.#bellsDue = true
    this.#atTurnEnd()
  }

  #atTurnEnd(): void {
    this.#turn ??= setImmediate(() => {
      this.#turn = undefined
      for (const { client, reason } of this.#doomed.splice(0)) {
        if (!this.#clients.has(client.socket)) continue
        this.#dropped(client, reason)
        this.#leave(client)
      }
      if (!this.#bellsDue) return
      this.#bellsDue = false
      // Guests on unmodified QEMU learn from the table who is there, and from this bell when to look.
      for (const client of this.#clients.values()) native.eventfdSignal(client.eventfds.fds[0]!)
      // @step daemon: bells rung
      this.#counters.bells += this.#clients.size
    })
  }

  #writeEntry(client: Client, state: number): void {
    const { section, generation } = client.seat!
    this.#region.writeEntry(section, { state, peerId: client.id, vectors: this.vectors, generation })
  }

  /** A process about itself: who it is shows in its section, which only members of the region can read. */
  #takeReport(request: Record<string, unknown>): null {
    const client = [...this.#clients.values()].find(
      ({ seat }) => seat !== null && seat.section === request.section,
    )
    const uuid = client && this.#region.readIdentity(client.seat!.section)?.uuid
    if (!client || !uuid || Buffer.from(uuid).toString('hex') !== request.uuid) {
      throw new AdminError('ERR_REPORT', 'no peer with this section and uuid is connected')
    }
    const report = checkReport(request)
    if (report === null) throw new AdminError('ERR_REPORT', 'the report is not well-formed')
    this.#reports.set(client, report)
    return null
  }

  /** Moves a process off shared memory, or lets it come back: `peer` is a peer id or a UUID. */
  #revoke({ peer, restore }: Record<string, unknown>): RevokeAnswer {
    let uuid: string
    if (typeof peer === 'string' && isUuid(peer)) uuid = peer.replaceAll('-', '').toLowerCase()
    else if (Number.isInteger(peer)) {
      const client = [...this.#clients.values()].find(({ id }) => id === peer)
      if (!client) throw unknownPeer(`no peer has the id ${peer}`)
      const identity = client.seat && this.#region.readIdentity(client.seat.section)
      if (!identity)
        throw unknownPeer(`peer ${peer} has not said who it is: it has no section, or has just joined`)
      uuid = Buffer.from(identity.uuid).toString('hex')
    } else
      throw new AdminError('ERR_REQUEST', '"peer" is a peer id (a number) or a UUID (32 hexadecimal digits)')
    const told = this.#relay?.revoke(uuid, restore === true) ?? 0
    if (told === 0)
      throw unknownPeer(
        this.#relay === null
          ? 'this daemon runs without a relay, over which a peer could be told'
          : `the process with UUID ${uuid} has no connection to the relay, over which it could be told`,
      )
    this.#log('info', restore === true ? 'shared memory allowed again' : 'shared memory revoked', {
      uuid,
      told,
    })
    return { uuid, told }
  }

  #administer(request: Record<string, unknown>): unknown {
    if (request.op === 'status') return this.status()
    if (request.op === 'report') return this.#takeReport(request)
    if (request.op === 'revoke') return this.#revoke(request)
    throw new AdminError(
      'ERR_OP',
      `unknown op ${JSON.stringify(request.op)?.slice(0, 100)}; known: "status", "report", "revoke"`,
    )
  }
}

function describe(client: Client): HostPeerInfo {
  return {
    id: client.id,
    section: client.seat?.section ?? null,
    pid: client.socket.pid,
    uid: client.socket.uid,
  }
}

function unknownPeer(message: string): AdminError {
  return new AdminError('ERR_VMRING_UNKNOWN_PEER', message)
}

function isUuid(text: string): boolean {
  return /^[0-9a-f]{8}(-?)[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}$/i.test(text)
}

function whole(name: string, value: number, min: number, max: number): void {
  if (!Number.isInteger(value) || value < min || value > max) {
    throw argument(`${name} is a whole number from ${min} to ${max}; not ${value}`)
  }
}

function uuidText(bytes: Uint8Array): string {
  return Buffer.from(bytes)
    .toString('hex')
    .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}
