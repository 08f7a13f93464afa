/**
 * Sends that wait: callers of send() who found no room, in their order. Nothing else is ever queued here, and nothing is
 * copied: the caller keeps its bytes unchanged until the promise settles.
 */
import { VmringError } from '../errors.js'
import { native } from '../native/binding.js'
import { Kind, Status } from '../native/types.js'
import type { Session } from '../session/session.js'

interface Waiting {
  bytes: Uint8Array
  /** bytes already sent as fragments; −1: not begun */
  at: number
  resolve(): void
  reject(error: Error): void
}

/** A descriptor of a large message takes no more ring space than this. */
const DESCRIPTOR_BYTES = 32
/** Most bytes to copy before the event loop gets its turn. */
const BYTES_PER_TURN = 4 * 1024 * 1024
const ACCEPTED = Promise.resolve()

export class Sender {
  sentMessages = 0
  sentBytes = 0
  readonly #session: Session
  readonly #queue: Waiting[] = []
  #whenIdle: (() => void)[] = []
  #turn: NodeJS.Immediate | null = null

  constructor(session: Session) {
    this.#session = session
  }

  /** While true, whatever is new has to queue up behind. */
  get busy(): boolean {
    return this.#queue.length > 0
  }

  send(bytes: Uint8Array): Promise<void> {
    const waiting: Waiting = { bytes, at: -1, resolve: nothing, reject: nothing }
    if (!this.busy) {
      const status = this.#step(waiting)
      if (status > 0) return ACCEPTED
      if (isFinal(status)) return handled(Promise.reject(sendError(this.#session, status, bytes.length)))
    }
    const promise = new Promise<void>((resolve, reject) => {
      waiting.resolve = resolve
      waiting.reject = reject
    })
    this.#queue.push(waiting)
    if (this.#queue.length === 1) this.run()
    return handled(promise)
  }

  /** Calls back once everything that waits now has been accepted. */
  whenIdle(callback: () => void): void {
    if (this.busy) this.#whenIdle.push(callback)
    else callback()
  }

  /** Goes on as far as there is room. */
  run(): void {
    let budget = BYTES_PER_TURN
    while (this.#queue.length > 0) {
      if (budget <= 0) {
        this.#turn ??= setImmediate(() => {
          this.#turn = null
          this.run()
        })
        return
      }
      const head = this.#queue[0]!
      const before = Math.max(head.at, 0)
      const status = this.#step(head)
      budget -= status > 0 ? head.bytes.length - before : head.at - before
      if (status > 0) {
        this.#queue.shift()
        head.resolve()
      } else if (isFinal(status)) {
        this.fail(sendError(this.#session, status, head.bytes.length))
        return
      } else if (status === Status.LEASE || !this.#session.out.wantSpace(this.#need(head))) {
        return
      }
    }
    const idle = this.#whenIdle
    this.#whenIdle = []
    for (const callback of idle) callback()
  }

  fail(error: Error): void {
    this.#whenIdle = []
    if (this.#turn !== null) clearImmediate(this.#turn)
    this.#turn = null
    for (const waiting of this.#queue.splice(0)) waiting.reject(error)
  }

  /** Ring space that the next step of a waiting send needs, in payload bytes. */
  #need({ bytes, at }: Waiting): number {
    const { inlineLimit, large } = this.#session.end
    if (at < 0 && bytes.length <= inlineLimit) return bytes.length
    if (at < 0 && large) return DESCRIPTOR_BYTES
    return Math.min(inlineLimit, bytes.length - Math.max(at, 0) + 8)
  }

  /** 1: accepted as a whole. Else a Status; fragments that went out are noted. */
  #step(waiting: Waiting): number {
    const session = this.#session
    const { bytes } = waiting
    const { inlineLimit } = session.end
    let status: number
    if (waiting.at < 0 && bytes.length <= inlineLimit) {
      status = session.out.put(bytes, Kind.DATA, 0)
    } else {
      status = waiting.at < 0 ? session.out.putLarge(bytes) : Status.TOO_LARGE
      if (status === Status.TOO_LARGE) status = this.#fragments(waiting, inlineLimit - 8)
    }
    if (status > 0) {
      this.sentMessages++
      this.sentBytes += bytes.length
    }
    return status
  }

  #fragments(waiting: Waiting, size: number): number {
    const { bytes } = waiting
    // From here on it waits for room for a fragment, also when not even the first fits: room for a descriptor may be there all along.
    waiting.at = Math.max(waiting.at, 0)
    for (let budget = BYTES_PER_TURN; budget > 0; budget -= size) {
      const { at } = waiting
      const last = at + size >= bytes.length
      const status = this.#session.out.put(
        bytes.subarray(at, at + size),
        last ? Kind.FRAG_LAST : Kind.FRAG,
        at === 0 ? bytes.length : 0,
      )
      // @step fragments: one put
      if (status <= 0 || last) return status
      waiting.at = at + size
    }
    return Status.WOULD_BLOCK
  }
}

const nothing = (): void => {}

function isFinal(status: number): boolean {
  return status !== Status.WOULD_BLOCK && status !== Status.LEASE
}

/** A rejection that nobody awaits ends nothing: the channel's own events report what happened. */
export function handled<T>(promise: Promise<T>): Promise<T> {
  promise.catch(nothing)
  return promise
}

export function sendError(session: Session, status: number, length: number): Error {
  switch (status) {
    case Status.TOO_LARGE:
      return tooLarge(length, session.end.inlineLimit, 'of the ring (use send(), which has no such limit)')
    case Status.LEASE:
      return new VmringError(
        'ERR_VMRING_LEASE',
        'a send lease is open on this channel; commit or abort it first',
      )
    case Status.FAULT:
      return new VmringError(
        'ERR_VMRING_PROTOCOL',
        `the other side broke the protocol: ${native.endFault(session.end.id)}`,
      )
    case Status.LOST:
      return new VmringError('ERR_VMRING_REGION_LOST', 'the memory behind the channel is gone')
    default:
      return closedError(session)
  }
}

export function closedError(session: Session): Error {
  if (session.error instanceof VmringError && session.error.code !== 'ERR_VMRING_CLOSED') {
    return new VmringError(
      'ERR_VMRING_CLOSED',
      `channel '${session.service}' is closed: ${session.error.message}`,
      {
        cause: session.error,
      },
    )
  }
  const why = session.peerClosing ? 'the other side has closed it' : 'it was ended or closed here'
  return new VmringError('ERR_VMRING_CLOSED', `channel '${session.service}' takes no more messages: ${why}`)
}

export function tooLarge(length: number, limit: number, whose: string): VmringError {
  return new VmringError(
    'ERR_VMRING_TOO_LARGE',
    `a message of ${length} bytes is above the limit of ${limit} bytes ${whose}`,
  )
}
