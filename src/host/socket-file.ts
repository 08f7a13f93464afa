import { lstatSync, mkdirSync, unlinkSync } from 'node:fs'
import { dirname } from 'node:path'
import { DEFAULT_SOCKET } from '../default-socket.js'
import { VmringError } from '../errors.js'
import { native } from '../native/binding.js'

/** A listening Unix socket and the file that it put into the file system. */
export class SocketFile {
  readonly path: string
  /** belongs to whoever listens on it */
  readonly fd: number
  readonly #identity: string

  /** Throws EADDRINUSE with what to do, or the system's error. Group id −1 keeps the group. `option` chooses the path. */
  constructor(path: string, mode: number, gid: number, option = '--socket') {
    this.path = path
    if (path === DEFAULT_SOCKET) mkdirSync(dirname(path), { recursive: true, mode: 0o755 })
    try {
      this.fd = native.unixListen(path, mode, gid)
    } catch (error) {
      throw explained(error as NodeJS.ErrnoException, path, option)
    }
    this.#identity = identity(path) ?? ''
  }

  /** Removes the file, unless another one stands in its place by now. */
  unlink(): void {
    if (identity(this.path) !== this.#identity) return
    try {
      unlinkSync(this.path)
    } catch {
      // the directory may have gone before us
    }
  }
}

function identity(path: string): string | undefined {
  const stat = lstatSync(path, { throwIfNoEntry: false, bigint: true })
  return stat && `${stat.dev}:${stat.ino}`
}

function explained(error: NodeJS.ErrnoException, path: string, option: string): Error {
  const shape = { errno: error.errno ?? 0, syscall: error.syscall ?? 'bind', address: path, cause: error }
  switch (error.code) {
    case 'EADDRINUSE':
      return new VmringError(
        'EADDRINUSE',
        `listen EADDRINUSE ${path}: a daemon already answers there; stop it first, or choose another ${option}`,
        { ...shape, syscall: 'listen' },
      )
    case 'EEXIST':
      error.message += `: a file that is no socket is in the way; remove it, or choose another ${option}`
      return error
    case 'ENAMETOOLONG':
      error.message +=
        ': the path of a Unix socket has at most 107 bytes (100 here, for SOCKET.admin); choose a shorter one'
      return error
    case 'ENOENT':
      error.message += `: the directory does not exist; create it, or choose another ${option}`
      return error
    case 'EACCES':
    case 'EPERM':
      error.message += `: not allowed; run as a user who may write there, or choose another ${option}`
      return error
    default:
      return error
  }
}
