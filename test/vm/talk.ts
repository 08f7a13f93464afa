// The host's side of a conversation with test/vm/apps/echo.mjs: numbered messages go out, and have to come back in order.
import { setTimeout as sleep } from 'node:timers/promises'
import type { attach, Channel } from '../../src/index.js'

export type Peer = Awaited<ReturnType<typeof attach>>

/** Node starts in a guest meanwhile: 18 s on a quiet machine where the guest was reset, 200 s on one with a load of 15. */
export const CONNECT_MS = 400_000
const WINDOW = 8
const PAUSE_MS = 2

export class Talk {
  readonly channel: Channel
  readonly closed: Promise<Error | null>
  echoed = 0
  stalls = 0
  resumes = 0
  #next = 0
  #answer: ((text: string) => void) | null = null

  private constructor(channel: Channel) {
    this.channel = channel
    this.closed = channel.closed
    channel.on('error', () => {})
    channel.on('stalled', () => this.stalls++)
    channel.on('resumed', () => this.resumes++)
    channel.on('message', (message) => {
      if (this.#answer !== null && message.length !== 1000) {
        this.#answer(message.text())
        return
      }
      const bytes = message.copy()
      const number = new DataView(bytes.buffer).getUint32(0)
      if (number !== this.echoed || bytes.some((byte, at) => at >= 4 && byte !== (number & 0xff))) {
        channel.destroy(new Error(`message ${number} came back in the place of ${this.echoed}, or changed`))
        return
      }
      this.echoed++
      setTimeout(() => this.#send(), PAUSE_MS)
    })
    for (let i = 0; i < WINDOW; i++) this.#send()
  }

  static async open(peer: Peer, service: string): Promise<Talk> {
    const channel = await peer.connect(service, { wait: CONNECT_MS, ringSize: 64 * 1024 })
    const talk = new Talk(channel)
    await talk.progress()
    return talk
  }

  #send(): void {
    if (!this.channel.writable) return
    const bytes = new Uint8Array(1000).fill(this.#next & 0xff)
    new DataView(bytes.buffer).setUint32(0, this.#next)
    // The window is far below the ring: what is refused here is refused because the channel is over.
    if (this.channel.trySend(bytes)) this.#next++
  }

  /** Waits for `count` more echoes. */
  async progress(count = 20, timeout = 30_000): Promise<void> {
    const goal = this.echoed + count
    await this.#until(
      () => this.echoed >= goal,
      timeout,
      () => `${this.echoed} of ${goal} echoes`,
    )
  }

  /** Milliseconds until the channel says that the other side is silent. */
  async stalled(timeout = 10_000): Promise<number> {
    const started = performance.now()
    const { stalls } = this
    await this.#until(
      () => this.stalls > stalls,
      timeout,
      () => 'no stall',
    )
    return performance.now() - started
  }

  /** The code of the error that ends it, and after how many milliseconds. */
  async end(timeout = CONNECT_MS): Promise<{ code: string | undefined; after: number }> {
    const started = performance.now()
    const late = sleep(timeout, undefined, { ref: false }).then(() => {
      throw new Error(`the channel is still open after ${timeout} ms, ${this.echoed} echoes`)
    })
    const error = await Promise.race([this.closed, late])
    return { code: (error as { code?: string } | null)?.code, after: performance.now() - started }
  }

  /** UUIDs of the peers that the other side sees. */
  async peers(): Promise<string[]> {
    const text = await new Promise<string>((resolve) => {
      this.#answer = resolve
      this.channel.trySend(Buffer.from('peers'))
    })
    this.#answer = null
    return JSON.parse(text)
  }

  async #until(test: () => boolean, timeout: number, state: () => string): Promise<void> {
    const until = Date.now() + timeout
    while (!test()) {
      const error = this.channel.stats().error
      if (error) throw new Error(`the channel has ended: ${error.message}`, { cause: error })
      if (Date.now() > until) throw new Error(`after ${timeout} ms: ${state()}`)
      await sleep(10)
    }
  }
}
