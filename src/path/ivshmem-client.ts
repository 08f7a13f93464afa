import { VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import type { IvshmemSocket } from '../native/socket-types.js'

const DEFAULT_TIMEOUT = 5000

export interface IvshmemClientOptions {
  /** ms for connecting and the whole handshake; default 5000 */
  timeout?: number
  signal?: AbortSignal
}

export interface IvshmemListeners {
  /** One vector of another peer; those who are there already come first. The descriptor belongs to the callee. */
  onJoin(peerId: number, vector: number, fd: number): void
  onLeave(peerId: number): void
  /** The server is gone or broke the protocol; memory and eventfds stay usable. Not called after close(). */
  onLost(error: VmringError): void
}

/**
 * Joins the server of the ivshmem-server protocol at `path`.
 * Rejects with ERR_VMRING_SERVER_VERSION, ERR_VMRING_SERVER_CLOSED (half-way), ERR_VMRING_SERVER_PROTOCOL (garbage),
 * ERR_VMRING_SERVER_NO_FD, ERR_VMRING_TIMEOUT (silence), the signal's reason, or the system's error when nobody listens.
 */
export function connectIvshmem(path: string, options: IvshmemClientOptions = {}): Promise<IvshmemConnection> {
  return new Promise((resolve, reject) => {
    options.signal?.throwIfAborted()
    try {
      const connection: IvshmemConnection = new IvshmemConnection(path, options, (error) =>
        error === null ? resolve(connection) : reject(error),
      )
    } catch (error) {
      reject(withCure(error as NodeJS.ErrnoException, path))
    }
  })
}

/** The system's own error, with what to do about it. */
function withCure(error: NodeJS.ErrnoException, path: string): NodeJS.ErrnoException {
  const start = `start the daemon with: vmring host --socket ${path}`
  const cures: Record<string, string> = {
    ENOENT: start,
    ECONNREFUSED: `the daemon is gone and left its socket behind; ${start}`,
    EACCES: 'ask for the group of the socket, or start the daemon with `--mode` and `--group`',
    ENOTSOCK: `this is no socket; ${start}`,
  }
  const cure = cures[error.code ?? '']
  if (cure !== undefined) error.message += `; ${cure}`
  return error
}

type Event =
  | { kind: 'join'; peerId: number; vector: number; fd: number }
  | { kind: 'leave'; peerId: number }
  | { kind: 'lost'; error: VmringError }

/** A client that has been let in. Descriptors that nobody has taken are closed by close(). */
export class IvshmemConnection {
  readonly path: string
  readonly #socket: IvshmemSocket
  readonly #settle: (error: Error | null) => void
  readonly #timer: NodeJS.Timeout
  readonly #signal: AbortSignal | undefined
  readonly #onAbort = () => this.#fail(this.#signal!.reason as Error)
  #peerId = -1
  #memory = -1
  readonly #vectors: number[] = []
  #settled = false
  #open = true
  #listeners: IvshmemListeners | undefined
  /** what came before start() */
  #early: Event[] = []

  /** @internal Use connectIvshmem(). */
  constructor(path: string, options: IvshmemClientOptions, settle: (error: Error | null) => void) {
    this.path = path
    this.#settle = settle
    this.#signal = options.signal
    const timeout = options.timeout ?? DEFAULT_TIMEOUT
    this.#socket = native.ivshmemConnect(path, {
      onId: (peerId) => {
        this.#peerId = peerId
      },
      onMemory: (fd) => {
        this.#memory = fd
        this.#checkReady()
      },
      onVector: (peerId, vector, fd, own) => {
        if (!own) this.#event({ kind: 'join', peerId, vector, fd })
        else {
          this.#vectors.push(fd)
          this.#checkReady()
        }
      },
      onLeave: (peerId) => this.#event({ kind: 'leave', peerId }),
      onClose: (socket, error) => this.#closed(socket, error),
    })
    this.#timer = setTimeout(() => {
      const waited = waitsFor[this.#socket.stage() as keyof typeof waitsFor] ?? 'an answer'
      this.#fail(
        new VmringError(
          'ERR_VMRING_TIMEOUT',
          `the server at ${path} sent no ${waited} within ${timeout} ms; see whether it is stopped, or no ivshmem server`,
          { address: path },
        ),
      )
    }, timeout)
    this.#signal?.addEventListener('abort', this.#onAbort, { once: true })
  }

  /** The id that the server gave this client: its IVPosition. */
  get peerId(): number {
    return this.#peerId
  }

  /** How many own eventfds have come; more may follow within the same turn. */
  get vectors(): number {
    return this.#vectors.length
  }

  /** The descriptor of the memory. It belongs to the caller from now on; asking twice gives −1. */
  takeMemory(): number {
    const fd = this.#memory
    this.#memory = -1
    return fd
  }

  /** The own eventfd of a vector, −1 when there is none. It belongs to the caller from now on. */
  takeVector(vector: number): number {
    const fd = this.#vectors[vector] ?? -1
    if (fd !== -1) this.#vectors[vector] = -1
    return fd
  }

  /** From here on the listeners hear everything: first what has happened so far, in order. */
  start(listeners: IvshmemListeners): void {
    this.#listeners = listeners
    const early = this.#early
    this.#early = []
    for (const event of early) this.#event(event)
  }

  ref(): void {
    if (this.#open) this.#socket.ref()
  }

  unref(): void {
    if (this.#open) this.#socket.unref()
  }

  /** Leaves. Idempotent. */
  close(): void {
    this.#listeners = undefined
    this.#end()
  }

  #event(event: Event): void {
    const listeners = this.#listeners
    if (!this.#open && event.kind === 'join') native.closeFd(event.fd)
    else if (!listeners) this.#early.push(event)
    else if (event.kind === 'join') listeners.onJoin(event.peerId, event.vector, event.fd)
    else if (event.kind === 'leave') listeners.onLeave(event.peerId)
    else listeners.onLost(event.error)
  }

  #checkReady(): void {
    if (this.#settled || this.#memory === -1 || this.#vectors.length === 0) return
    this.#settled = true
    this.#stopWaiting()
    this.#settle(null)
  }

  #stopWaiting(): void {
    clearTimeout(this.#timer)
    this.#signal?.removeEventListener('abort', this.#onAbort)
  }

  #closed(socket: IvshmemSocket, cause: NodeJS.ErrnoException | null): void {
    const error = this.#explain(socket, cause)
    if (!this.#settled) this.#fail(error)
    else this.#event({ kind: 'lost', error })
  }

  #explain(socket: IvshmemSocket, cause: NodeJS.ErrnoException | null): VmringError {
    const options = { address: this.path, ...(cause && { cause }) }
    const code = cause?.code
    if (isServerFault(code)) {
      const cure = 'connect to `vmring host` or another ivshmem server of version 0'
      return new VmringError(code, `${this.path}: ${cause?.message}; ${cure}`, options)
    }
    if (cause?.code === 'EPROTO') {
      return new VmringError('ERR_VMRING_SERVER_PROTOCOL', `${this.path}: ${cause.message}`, options)
    }
    const message = this.#settled
      ? `the server at ${this.path} went away; start it again and attach again`
      : `the server at ${this.path} closed the connection before it sent ${waitsFor[socket.stage() as keyof typeof waitsFor] ?? 'everything'}; its log says why`
    return new VmringError('ERR_VMRING_SERVER_CLOSED', message, options)
  }

  #fail(error: Error): void {
    if (this.#settled) return
    this.#settled = true
    this.#end()
    this.#settle(error)
  }

  #end(): void {
    if (!this.#open) return
    this.#open = false
    this.#stopWaiting()
    this.#socket.close()
    for (const event of this.#early) if (event.kind === 'join') native.closeFd(event.fd)
    this.#early = []
    for (const fd of [this.#memory, ...this.#vectors]) if (fd !== -1) native.closeFd(fd)
    this.#memory = -1
    this.#vectors.length = 0
  }
}

const serverFaults = [
  'ERR_VMRING_SERVER_VERSION',
  'ERR_VMRING_SERVER_NO_FD',
  'ERR_VMRING_SERVER_PROTOCOL',
] as const
type ServerFault = (typeof serverFaults)[number]

function isServerFault(code: string | undefined): code is ServerFault {
  return serverFaults.includes(code as ServerFault)
}

const waitsFor = {
  version: 'protocol version',
  id: 'peer id',
  memory: 'shared memory',
  vector: 'eventfd of our own',
}
