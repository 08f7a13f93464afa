/**
 * Tells the daemon which services and channels this process has, a moment after they have changed. Costs nothing while
 * they do not; a server that keeps no such list (QEMU's own, say) is asked once.
 */
import { askHost, type Dial } from '../host/admin-client.js'
import { native } from '../native/binding.js'
import type { PeerReport } from '../session/report.js'

const SETTLE_MS = 200
const BUSY_MS = 1000
const ANSWER_MS = 2000
const PART_BYTES = 4096

/** Not over node:net: what programs replace and watch there is none of our business, and this none of theirs. */
const overAddon: Dial = (path, line, { onData, onOver }) => {
  const target = Buffer.allocUnsafeSlow(PART_BYTES)
  const stream = native.streamConnect(
    { path },
    {
      onConnect() {
        stream.readInto(target)
        stream.write([Buffer.from(line)])
      },
      onRead: (length) => onData(Buffer.from(target.subarray(0, length))),
      onEnd: () => onOver(null),
      onDrain() {},
      onClose: onOver,
    },
  )
  return () => stream.close()
}

export class Reporter {
  readonly #socket: string
  readonly #who: { section: number; uuid: string }
  readonly #look: () => PeerReport
  #timer: NodeJS.Timeout | null = null
  #asking = false
  #again = false
  #over = false

  constructor(socket: string, section: number, uuid: Uint8Array, look: () => PeerReport) {
    this.#socket = socket
    this.#who = { section, uuid: Buffer.from(uuid).toString('hex') }
    this.#look = look
  }

  changed(wait = SETTLE_MS): void {
    if (this.#over || this.#timer !== null) return
    if (this.#asking) {
      this.#again = true
      return
    }
    this.#timer = setTimeout(() => {
      this.#timer = null
      void this.#report()
    }, wait)
    this.#timer.unref()
  }

  close(): void {
    this.#over = true
    if (this.#timer !== null) clearTimeout(this.#timer)
  }

  async #report(): Promise<void> {
    this.#asking = true
    let wait = SETTLE_MS
    try {
      await askHost(this.#socket, { op: 'report', ...this.#who, ...this.#look() }, ANSWER_MS, overAddon)
    } catch (error) {
      // others report too; anything else will not get better
      if ((error as { code?: string }).code === 'ERR_BUSY') {
        this.#again = true
        wait = BUSY_MS
      } else this.close()
    }
    this.#asking = false
    if (!this.#again) return
    this.#again = false
    this.changed(wait)
  }
}
