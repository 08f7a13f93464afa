/** Where the daemon is when nobody says otherwise. Needs no addon, so that `vmring doctor` works without one. */
export const DEFAULT_SOCKET = '/run/vmring/default.sock'

/** The socket that commands and attach() use when none is named. */
export function defaultSocket(): string {
  return process.env.VMRING_SOCKET || DEFAULT_SOCKET
}
