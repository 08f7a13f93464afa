/** The public face of a session: two-way, ordered, message-preserving. */
import { EventEmitter } from 'node:events'
import { VmringError } from '../errors.js'
import { Kind, type PeerCounters, Status } from '../native/types.js'
import { rethrowLater } from '../ring/ends.js'
import { sendData } from '../ring/hot.js'
import { type LeaseOwner, SendLease } from '../ring/lease.js'
import type { Message } from '../ring/message.js'
import type { Session, SessionClient } from '../session/session.js'
import { type ByteSink, ByteStream } from './byte-stream.js'
import { Dispatcher } from './dispatcher.js'
import { Hold, type Holder } from './hold.js'
import { ChannelPort } from './port.js'
import { Receiver } from './receiver.js'
import { closedError, handled, Sender, sendError, tooLarge } from './sender.js'

export interface ChannelStats {
  path: string
  sentMessages: number
  sentBytes: number
  receivedMessages: number
  receivedBytes: number
  /** doorbells rung for this channel, and those that the other side's announcement made needless */
  doorbells: number
  suppressed: number
  /** of the whole peer */
  sleeps: number
  wakeups: number
  pathChanges: number
  /** why the channel ended, if it did with an error */
  error: Error | null
}

/** What a channel needs of the peer it belongs to. */
export interface ChannelHost extends Holder {
  counters(): PeerCounters | null
}

export type ReceiveMode = 'none' | 'bytes' | 'receive' | 'message' | 'iteration' | 'discard'

export type MessageHandler = (message: Message) => unknown

export interface ChannelEvents {
  message: [message: Message]
  /** something arrived, for those who poll with receive() */
  readable: []
  drain: []
  path: [name: string]
  stalled: []
  resumed: []
  /** the other side sends no more, and everything it sent has been taken */
  end: []
  close: []
  error: [error: Error]
  newListener: [name: string | symbol, listener: (...args: never[]) => void]
  removeListener: [name: string | symbol, listener: (...args: never[]) => void]
}

/**
 * A conversation between two processes. Made by Peer.connect() and Server.
 *
 * A channel that fails emits 'error' if somebody listens, and 'close' in any case; `closed` and stats().error tell why.
 * It never throws for want of a listener.
 */
export class Channel
  extends EventEmitter<ChannelEvents>
  implements SessionClient, LeaseOwner, AsyncIterable<Message>
{
  readonly #session: Session
  readonly #host: ChannelHost
  readonly #sender: Sender
  readonly #receiver: Receiver
  readonly #dispatcher: Dispatcher
  #mode: ReceiveMode = 'none'
  #largest: number
  #bytes: ByteStream | null = null
  #drainDue = false
  #readableTold = false
  #ending = false
  #ended = false
  readonly #hold: Hold
  #over = false
  #port: ChannelPort | null = null
  #closed: Promise<Error | null> | null = null
  #onClosed: ((error: Error | null) => void) | null = null

  constructor(session: Session, host: ChannelHost) {
    super()
    this.#session = session
    this.#host = host
    this.#hold = new Hold(host)
    this.#sender = new Sender(session)
    this.#receiver = new Receiver(session, () => this.#onEnd())
    this.#dispatcher = new Dispatcher(this, session, this.#receiver)
    this.#largest = Math.min(session.end.inlineLimit, session.remoteMaxMessage)
    session.client = this
    this.on('newListener', (name) => {
      if (name === 'readable') this.#session.wantReadable(true)
      if (name !== 'message') return
      this.#enter('message')
      this.#dispatcher.handlersChanged()
    })
    this.on('removeListener', (name) => {
      if (name === 'message') this.#dispatcher.handlersChanged()
    })
    if (session.state === 'closed') process.nextTick(() => this.onClosed(session.error))
    else this.ref()
  }

  /** Service name that the channel was opened under. */
  get service(): string {
    return this.#session.service
  }

  /** Name of the path in use: 'shm', 'vsock', 'unix', … */
  get path(): string {
    return this.#session.path.name
  }

  /** Largest message that trySend() and reserve() take, in bytes. */
  get inlineLimit(): number {
    return this.#largest
  }

  /** Largest message that the other side takes, in bytes. */
  get maxMessageSize(): number {
    return this.#session.remoteMaxMessage
  }

  /** Resolves when the channel is over: null, or the error that ended it. Never rejects. */
  get closed(): Promise<Error | null> {
    this.#closed ??= new Promise((resolve) => {
      if (this.#over) resolve(this.#session.error)
      else this.#onClosed = resolve
    })
    return this.#closed
  }

  /** True once the other side has sent its last message and it has been taken. */
  get readableEnded(): boolean {
    return this.#ended
  }

  /** False once end() or close() was called, or the channel is over. */
  get writable(): boolean {
    return !this.#ending && this.#session.out.refusal() !== Status.CLOSED
  }

  // ---- sending ---------------------------------------------------------------------------------------------------

  /**
   * Sends a copy of `bytes` as one message. True: accepted. False: no room, wait for 'drain'. Throws ERR_VMRING_TOO_LARGE
   * above `inlineLimit`, ERR_VMRING_CLOSED, ERR_VMRING_LEASE while a lease is open.
   */
  trySend(bytes: Uint8Array): boolean {
    if (!(bytes instanceof Uint8Array)) throw notBytes(bytes)
    if (bytes.length > this.#largest) throw this.#tooLarge(bytes.length)
    const session = this.#session
    if (session.out.sendId >= 0 && !this.#sender.busy) {
      const status = sendData(session.out.sendId, bytes)
      // @step send: put
      if (status > 0) {
        this.#sender.sentMessages++
        this.#sender.sentBytes += bytes.length
        return true
      }
      if (status !== Status.WOULD_BLOCK) throw sendError(session, status, bytes.length)
    } else {
      this.#checkOpen()
    }
    return this.#trySendAgain(bytes)
  }

  #trySendAgain(bytes: Uint8Array): boolean {
    this.#drainDue = true
    if (this.#sender.busy || !this.#session.out.wantSpace(bytes.length)) return false
    const status = this.#session.out.put(bytes, Kind.DATA, 0)
    if (status > 0) {
      this.#drainDue = false
      this.#sender.sentMessages++
      this.#sender.sentBytes += bytes.length
      return true
    }
    setImmediate(() => this.onWritable())
    return false
  }

  /**
   * Resolves when the message has been accepted; do not change `bytes` before. Messages above the inline limit go through
   * section memory, or in fragments. Rejects with ERR_VMRING_TOO_LARGE above the other side's `maxMessageSize`.
   */
  send(bytes: Uint8Array): Promise<void> {
    if (!(bytes instanceof Uint8Array)) return handled(Promise.reject(notBytes(bytes)))
    if (this.#ending) return handled(Promise.reject(closedError(this.#session)))
    const limit = this.#session.remoteMaxMessage
    if (bytes.length > limit) {
      return handled(
        Promise.reject(tooLarge(bytes.length, limit, 'that the other side takes (its maxMessageSize)')),
      )
    }
    return this.#sender.send(bytes)
  }

  /**
   * Lends `length` bytes of the outbox to fill. Null: no room, wait for 'drain'. One lease is open at a time; until it is
   * committed or aborted nothing else can be sent. Throws as trySend() does.
   */
  reserve(length: number): SendLease | null {
    if (!Number.isInteger(length) || length < 0) {
      throw new VmringError('ERR_VMRING_ARGUMENT', `reserve(length): ${length} is no whole number of bytes`)
    }
    if (length > this.#largest) throw this.#tooLarge(length)
    const session = this.#session
    this.#checkOpen()
    if (!this.#sender.busy) {
      let offset = session.out.reserve(length)
      if (offset === Status.WOULD_BLOCK && session.out.wantSpace(length)) offset = session.out.reserve(length)
      if (offset >= 0) {
        return new SendLease(this, new Uint8Array(session.end.buffer, offset, length))
      }
      if (offset !== Status.WOULD_BLOCK) throw sendError(session, offset, length)
    }
    this.#drainDue = true
    return null
  }

  /** @internal */
  commitLease(lease: SendLease, length: number): void {
    const status = this.#session.out.commitLease(lease.data, length)
    if (status < 0) throw sendError(this.#session, status, length)
    this.#sender.sentMessages++
    this.#sender.sentBytes += length
    this.#leaseClosed()
  }

  /** @internal */
  abortLease(_lease: SendLease): void {
    this.#session.out.abortLease()
    this.#leaseClosed()
  }

  #leaseClosed(): void {
    if (this.#sender.busy) this.#sender.run()
    else if (this.#ending) this.#session.onWritable()
  }

  #checkOpen(): void {
    if (this.#ending || this.#session.out.refusal() === Status.CLOSED) throw closedError(this.#session)
  }

  #tooLarge(length: number): VmringError {
    const { inlineLimit } = this.#session.end
    if (length > inlineLimit)
      return tooLarge(length, inlineLimit, 'of the ring (use send(), which takes more)')
    return tooLarge(length, this.#session.remoteMaxMessage, 'that the other side takes (its maxMessageSize)')
  }

  // ---- receiving -------------------------------------------------------------------------------------------------

  /** The next message, or null; never waits. Release each one: until then it occupies the ring. */
  receive(): Message | null {
    if (this.#mode !== 'receive') this.#enter('receive')
    const message = this.#receiver.next()
    if (message === null && this.#readableTold) this.#tellReadable()
    return message
  }

  /** @internal For sockets: both directions as streams of bytes. Nothing else can be used to receive beside it. */
  bytes(sink: ByteSink): ByteStream {
    this.#enter('bytes')
    this.#bytes ??= new ByteStream(this.#session, this.#sender, this.#receiver, this.#largest, sink)
    return this.#bytes
  }

  #tellReadable(): void {
    this.#readableTold = false
    this.#session.wantReadable(this.listenerCount('readable') > 0)
  }

  /** As receive(), but blocks or spins on this thread up to `timeout` ms. On paths that copy it does not wait. */
  receiveSync({ timeout = 0 }: { timeout?: number } = {}): Message | null {
    if (this.#mode !== 'receive') this.#enter('receive')
    return timeout > 0 ? this.#receiver.nextWait(timeout) : this.#receiver.next()
  }

  /** Each message is released when the loop asks for the next, unless retained. Leaving the loop leaves the channel open. */
  [Symbol.asyncIterator](): AsyncIterator<Message, undefined> {
    this.#enter('iteration')
    return this.#dispatcher.iterate()
  }

  #enter(mode: ReceiveMode): void {
    if (this.#mode === mode || this.#mode === 'discard') return
    if (this.#mode !== 'none') {
      throw new VmringError(
        'ERR_VMRING_RECEIVE_MODE',
        `this channel receives by ${modeNames[this.#mode]}; ${modeNames[mode]} cannot be used beside it`,
      )
    }
    this.#mode = mode
    if (mode === 'receive' || mode === 'bytes') process.nextTick(() => this.onReadable())
  }

  #onEnd(): void {
    this.#ended = true
    this.#whenRead(() => {
      this.#emit('end')
      this.#dispatcher.ended()
      this.#session.finDelivered()
    })
  }

  /** In the next turn, or when a socket has read what was kept for it. */
  #whenRead(callback: () => void): void {
    process.nextTick(() => {
      if (this.#bytes === null) callback()
      else this.#bytes.whenRead(callback)
    })
  }

  /** @internal */
  onLeaving(): void {
    if (this.#mode === 'bytes') this.#bytes?.keep()
  }

  // ---- what the session tells ------------------------------------------------------------------------------------

  /** @internal */
  onReadable(): void {
    switch (this.#mode) {
      case 'message':
        this.#dispatcher.dispatch()
        return
      case 'bytes':
        this.#bytes?.onReadable()
        return
      case 'iteration':
        this.#dispatcher.wake()
        return
      case 'receive':
      case 'none':
        if (this.#session.onlyFinLeft()) {
          this.#receiver.next()
        } else if (this.listenerCount('readable') > 0 && !this.#readableTold) {
          // Once, until receive() has found nothing more.
          this.#readableTold = true
          this.#session.wantReadable(false)
          this.#emit('readable')
        }
    }
  }

  /** @internal */
  onWritable(): void {
    this.#bytes?.onWritable()
    if (this.#sender.busy) this.#sender.run()
    if (this.#sender.busy || !this.#drainDue || this.#session.out.sendId < 0) return
    this.#drainDue = false
    this.#emit('drain')
  }

  /** @internal */
  onPath(name: string): void {
    this.#emit('path', name)
  }

  /** @internal */
  onStalled(stalled: boolean): void {
    this.#emit(stalled ? 'stalled' : 'resumed')
  }

  /** @internal */
  onPeerClosing(): void {
    this.#sender.fail(closedError(this.#session))
    // Who waits for room tries again and learns that there will be none.
    this.#bytes?.onWritable()
    if (this.#drainDue) {
      this.#drainDue = false
      this.#emit('drain')
    }
    this.onReadable()
  }

  /** @internal */
  onClosed(error: Error | null): void {
    if (this.#over) return
    this.#over = true
    this.#ending = true
    this.#sender.fail(closedError(this.#session))
    // also where what was kept is still to be read: whoever waits for room reads nothing until there is some
    this.#bytes?.onWritable()
    this.#receiver.reset()
    this.#onClosed?.(error)
    this.#whenRead(() => {
      this.#dispatcher.closed(error)
      if (error !== null && this.listenerCount('error') > 0) this.#emit('error', error)
      this.#emit('close')
      this.unref()
    })
  }

  #emit<K extends keyof ChannelEvents>(name: K, ...args: ChannelEvents[K]): void {
    try {
      // biome-ignore lint/suspicious/noExplicitAny: the generic signature does not follow a generic name
      ;(this as EventEmitter<any>).emit(name as string, ...args)
    } catch (error) {
      rethrowLater(error)
    }
  }

  // ---- closing ---------------------------------------------------------------------------------------------------

  /** Sends no more; goes on receiving. The channel is over when the other side has ended as well. */
  end(): void {
    if (this.#ending) return
    this.#ending = true
    this.#sender.whenIdle(() => this.#session.finish())
  }

  /**
   * Sends no more and reads no more. Resolves when the other side has taken everything that was accepted here; rejects
   * with what ended the channel before that.
   */
  close(): Promise<void> {
    if (this.#mode !== 'discard' && !this.#over) {
      this.#mode = 'discard'
      this.#bytes?.drop()
      this.end()
      this.#dispatcher.ended()
      this.#receiver.reset()
      this.#session.discard()
    }
    return handled(
      this.closed.then((error) => {
        if (error !== null) throw error
      }),
    )
  }

  /** Ends the channel at once, on both sides; what was not taken yet is lost. */
  destroy(error: Error | null = null): void {
    this.#session.destroy(error)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  // ---- the rest --------------------------------------------------------------------------------------------------

  /** Moves both directions to another path; resolves when they have. Rejects with ERR_VMRING_NO_PATH. */
  usePath(name: string): Promise<void> {
    if (this.#over) return handled(Promise.reject(closedError(this.#session)))
    return handled(this.#session.mover.use(name))
  }

  stats(): ChannelStats {
    const { doorbells, suppressed } = this.#session.totals()
    const counters = this.#host.counters()
    return {
      path: this.path,
      sentMessages: this.#sender.sentMessages,
      sentBytes: this.#sender.sentBytes,
      receivedMessages: this.#receiver.receivedMessages,
      receivedBytes: this.#receiver.receivedBytes,
      doorbells,
      suppressed,
      sleeps: counters?.sleeps ?? 0,
      wakeups: counters?.wakeups ?? 0,
      pathChanges: this.#session.pathChanges,
      error: this.#session.error,
    }
  }

  /** A MessagePort face: structured clone over this channel. The same object at every call. */
  port(): ChannelPort {
    this.#port ??= new ChannelPort(this)
    return this.#port
  }

  /** Keeps the event loop alive while the channel is open (the default). */
  ref(): this {
    if (!this.#over) this.#hold.take()
    return this
  }

  unref(): this {
    this.#hold.release()
    return this
  }
}

const modeNames = {
  none: 'nothing',
  bytes: 'a socket',
  receive: 'receive()',
  message: "'message' events",
  iteration: 'iteration',
  discard: 'nothing',
} as const

function notBytes(value: unknown): VmringError {
  return new VmringError(
    'ERR_VMRING_ARGUMENT',
    `a message is a Uint8Array (a Buffer is one); got ${typeof value}`,
  )
}
