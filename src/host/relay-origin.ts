import type { NativeStream } from '../native/socket-types.js'
import type { Policy, Rights } from './policy.js'
import { LOG_BURST, LOG_RATE } from './relay-limits.js'

/** A guest by its CID, or the processes of one user: what the kernel says about the other end of a connection. */
export class Origin {
  /** 'cid:3' or 'uid:1000' */
  readonly name: string
  rights: Rights
  connections = 0
  handshakes = 0
  peers = 0
  calls = 0
  services = 0
  #tokens = LOG_BURST
  #refilled = Date.now()
  #unsaid = 0

  constructor(name: string, policy: Policy) {
    this.name = name
    this.rights = policy.rights(name)
  }

  /** Whether this origin may have a line in the log now: null for no, else how many it was denied since the last one. */
  mayLog(now = Date.now()): number | null {
    this.#tokens = Math.min(LOG_BURST, this.#tokens + ((now - this.#refilled) / 1000) * LOG_RATE)
    this.#refilled = now
    if (this.#tokens < 1) {
      this.#unsaid++
      return null
    }
    this.#tokens--
    const unsaid = this.#unsaid
    this.#unsaid = 0
    return unsaid
  }
}

export function originName(stream: NativeStream): string {
  const { remote } = stream
  return 'cid' in remote ? `cid:${remote.cid}` : `uid:${remote.uid}`
}
