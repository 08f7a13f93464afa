/**
 * Doorbells for processes that get no interrupts (ivshmem-plain, a plain file, a device used through sysfs): data stays in
 * shared memory, and one byte on the stream to the peer says that it is there. Whoever is to be rung so asks for it, and
 * goes on polling until everybody has agreed.
 */
import { encodeFrame, Flag, FrameType } from '../path/frames.js'
import { type Path, peerKey } from '../path/path.js'
import { FramePath } from '../path/pump.js'
import { type ShmNetwork, ShmPath } from '../path/shm.js'
import type { Remote, SessionHub } from '../session/hub.js'
import { Repeat } from '../session/repeat.js'

const DIAL_AGAIN_MS = 5000

interface Line {
  readonly asking: Repeat
  /** the stream on which this process wants to be rung, and whether the peer has agreed */
  asked: FramePath | null
  agreed: boolean
  /** the stream on which the peer wants to be rung */
  carrying: FramePath | null
  dialling: boolean
}

export class Bells {
  readonly #hub: SessionHub
  readonly #network: ShmNetwork
  readonly #silent: boolean
  readonly #lines = new Map<string, Line>()
  #closed = false

  /** `silent`: no interrupts reach this process. */
  constructor(hub: SessionHub, network: ShmNetwork, silent: boolean) {
    this.#hub = hub
    this.#network = network
    this.#silent = silent
  }

  /** The paths to that process have changed. */
  changed(remote: Remote): void {
    const shm = this.#shm(remote)
    const stream =
      remote.paths.find((path): path is FramePath => path instanceof FramePath && !path.lost) ?? null
    const line = this.#lines.get(remote.key) ?? this.#newLine()
    if (line.carrying?.lost === true) {
      line.carrying = null
      if (shm !== null) this.#network.peer.carryBells(shm.remote.section, false)
    }
    if (shm === null || this.#closed) {
      line.asking.stop()
      this.#lines.delete(remote.key)
    } else {
      this.#lines.set(remote.key, line)
      if (this.#silent) this.#ask(remote, line, stream)
    }
    this.#settle()
  }

  #newLine(): Line {
    return {
      asking: new Repeat(this.#hub.timing),
      asked: null,
      agreed: false,
      carrying: null,
      dialling: false,
    }
  }

  #ask(remote: Remote, line: Line, stream: FramePath | null): void {
    if (stream === null) {
      line.asking.stop()
      line.asked = null
      line.agreed = false
      this.#dial(remote, line)
    } else if (line.asked !== stream) {
      line.asked = stream
      line.agreed = false
      stream.onBell = () => this.#network.peer.knock()
      line.asking.start(() => stream.send(encodeFrame({ type: FrameType.BELLS })))
    }
  }

  #dial(remote: Remote, line: Line): void {
    if (line.dialling || this.#hub.dialer === null) return
    line.dialling = true
    const again = (): void => {
      line.dialling = false
      if (this.#lines.get(remote.key) === line && line.asked === null) this.#dial(remote, line)
    }
    this.#hub.reach(remote).then(
      () => {
        line.dialling = false
      },
      () => setTimeout(again, DIAL_AGAIN_MS).unref(),
    )
  }

  /** A BELLS frame. */
  heard(path: Path, flags: number): void {
    const remote = this.#hub.remotes.get(peerKey(path.remote.uuid))
    const shm = remote === undefined ? null : this.#shm(remote)
    if (remote === undefined || shm === null || !(path instanceof FramePath)) return
    const line = this.#lines.get(remote.key)
    if (line === undefined) return
    if ((flags & Flag.DONE) !== 0) {
      if (line.asked !== path) return
      line.agreed = true
      line.asking.stop()
      this.#settle()
      return
    }
    line.carrying = path
    shm.onRing = () => line.carrying?.ring()
    this.#network.peer.carryBells(shm.remote.section, true)
    path.send(encodeFrame({ type: FrameType.BELLS, flags: Flag.DONE }))
  }

  #shm(remote: Remote): ShmPath | null {
    const path = remote.paths.find((one) => one instanceof ShmPath && one.network === this.#network)
    return (path as ShmPath | undefined) ?? null
  }

  #settle(): void {
    if (!this.#silent || this.#closed) return
    const lines = [...this.#lines.values()]
    this.#network.peer.setPolling(lines.length === 0 || lines.some((line) => !line.agreed))
  }

  close(): void {
    this.#closed = true
    for (const line of this.#lines.values()) line.asking.stop()
    this.#lines.clear()
  }
}
