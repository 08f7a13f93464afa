/** Who makes new ways to other processes: the relay's client. A hub without one uses the paths that it is given. */
import type { PeerRef } from '../path/path.js'

export interface Dialer {
  /** names of the paths that it may come up with, in the order in which they are tried */
  readonly names: readonly string[]
  /** Makes a path to one process that listens under `service`, and gives it to the hub. Rejects with what was in the way. */
  dialService(service: string): Promise<void>
  /**
   * Makes a path to that process. Rejects with ERR_VMRING_UNKNOWN_PEER when the relay does not know it (any more), or with what was in
   * the way. `atOnce`: does not wait until it has come back to a relay that was started again.
   */
  dialPeer(remote: PeerRef, atOnce: boolean): Promise<void>
  /** Says that this process listens. Rejects with ERR_VMRING_POLICY when it may not. */
  listen(service: string): Promise<void>
  unlisten(service: string): void
}

/** Rejects with the signal's reason as soon as it aborts; what was begun goes on. */
export function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason)
    if (signal.aborted) abort()
    signal.addEventListener('abort', abort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort))
  })
}
