/** Errors as users of node:net know them (libuv's shape: code, errno, syscall, address, port), with the vmring error as `cause`. */
import { asError, errnoOf } from '../errors.js'
import { addressText, type NetAddress } from './address.js'

/** `code` is one of libuv's: 'ECONNREFUSED', … */
export function systemError(
  code: string,
  syscall: string,
  at: NetAddress | null,
  cause?: unknown,
): NodeJS.ErrnoException {
  const where = at === null ? '' : ` ${addressText(at)}`
  const error = new Error(`${syscall} ${code}${where}`, cause === undefined ? undefined : { cause })
  return Object.assign(error, {
    errno: errnoOf(code),
    code,
    syscall,
    ...(at?.path !== undefined && { address: at.path }),
    ...(at?.port !== undefined && { address: at.host, port: at.port }),
  })
}

/** What a failed attach, connect or listen is called at a socket. */
const SETUP: Record<string, string> = {
  ERR_VMRING_POLICY: 'EACCES',
  ERR_VMRING_CLUSTER: 'ENOTSUP',
  ERR_VMRING_TIMEOUT: 'ETIMEDOUT',
  ERR_VMRING_SECTION_FULL: 'ENOBUFS',
  ERR_VMRING_TOO_MANY_PEERS: 'ENOBUFS',
  ERR_VMRING_RELAY_BUSY: 'ENOBUFS',
  ERR_VMRING_NO_PATH: 'EHOSTUNREACH',
  ERR_VMRING_PEER_GONE: 'ECONNREFUSED',
  ERR_VMRING_PATH_LOST: 'ECONNREFUSED',
  ERR_VMRING_RESET: 'ECONNREFUSED',
  ERR_VMRING_LIMIT: 'ECONNREFUSED',
  ERR_VMRING_REFUSED: 'ECONNREFUSED',
  ERR_VMRING_CLOSED: 'ECONNREFUSED',
}

/** What connect() met. A path where nobody listens is ENOENT, as the file of a server that has ended; everything else ECONNREFUSED. */
export function connectFailure(cause: unknown, at: NetAddress): Error {
  const code = codeOf(cause)
  const refused = at.path !== undefined && !at.path.startsWith('vmring:') ? 'ENOENT' : 'ECONNREFUSED'
  if (code === 'ECONNREFUSED') return systemError(refused, 'connect', at, cause)
  return systemError(SETUP[code] ?? (errnoOf(code) !== undefined ? code : refused), 'connect', at, cause)
}

/** What listen() met. */
export function listenFailure(cause: unknown, at: NetAddress): Error {
  const code = codeOf(cause)
  if (code === 'EADDRINUSE') return systemError(code, 'listen', at, cause)
  const known = SETUP[code]
  return systemError(
    known === undefined || known === 'ECONNREFUSED' ? 'EADDRNOTAVAIL' : known,
    'listen',
    at,
    cause,
  )
}

/** What ended a connection that stood: always a reset. */
export function brokenConnection(cause: Error): Error {
  return systemError('ECONNRESET', 'read', null, cause)
}

export function brokenPipe(cause?: unknown): Error {
  return systemError('EPIPE', 'write', null, cause)
}

function codeOf(error: unknown): string {
  return (asError(error) as NodeJS.ErrnoException).code ?? ''
}
