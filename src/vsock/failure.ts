import { asError, errnoOf, errorTable, VmringError } from '../errors.js'
import {
  type Address,
  addressText,
  listenPath,
  VMADDR_CID_ANY,
  VMADDR_CID_HOST,
  VMADDR_CID_LOCAL,
} from './address.js'

const TRANSPORTS =
  '`modprobe vmw_vsock_virtio_transport` in a guest, `modprobe vhost_vsock` on the host, `modprobe vsock_loopback` for CID 1'

/** A failure of the operating system, in libuv's shape, with a sentence that cures it. */
export function failure(
  code: KnownCode,
  syscall: string,
  at: Address | null,
  cure: string,
  cause?: unknown,
): VmringError {
  const place = at === null ? '' : ` ${addressText(at)}`
  return new VmringError(code, `${syscall} ${code}${place}: ${cure}`, {
    errno: errnoOf(code)!,
    syscall,
    ...(at === null ? {} : { address: 'uds' in at ? at.uds : String(at.cid), details: { port: at.port } }),
    ...(cause === undefined ? {} : { cause }),
  })
}

const codes = [
  'EACCES',
  'EADDRINUSE',
  'EADDRNOTAVAIL',
  'EAFNOSUPPORT',
  'ECONNREFUSED',
  'ENODEV',
  'ENOENT',
  'EPERM',
  'EPIPE',
  'ETIMEDOUT',
] as const
type KnownCode = (typeof codes)[number]

function isKnown(code: string | undefined): code is KnownCode {
  return codes.includes(code as never)
}

function codeOf(error: Error): string | undefined {
  return (error as NodeJS.ErrnoException).code
}

function withPort(error: Error, at: Address): Error {
  const address = 'uds' in at ? at.uds : String(at.cid)
  return Object.assign(error, { address, port: at.port })
}

/** What connect() met, with its cure. A reset while connecting is a refusal: that is how virtio sockets say that nobody listens. */
export function connectFailure(raw: unknown, at: Address): Error {
  const error = asError(raw)
  let code = codeOf(error)
  if (code === 'ECONNRESET' || code === 'EPIPE') code = 'ECONNREFUSED'
  if (!isKnown(code)) return error instanceof VmringError ? error : withPort(error, at)
  return failure(code, 'connect', at, connectCure(code, at), error)
}

function connectCure(code: KnownCode, at: Address): string {
  if ('uds' in at) {
    switch (code) {
      case 'ENOENT':
        return 'there is no such socket; start the virtual machine with a vsock device at this path'
      case 'ECONNREFUSED':
        return 'nobody listens: start the listener in the guest, and see that the virtual machine runs'
      case 'EACCES':
      case 'EPERM':
        return 'not allowed; run as the user of the virtual machine, or give this one access to the socket'
      case 'ETIMEDOUT':
        return 'no answer to CONNECT in time; see that the guest is not paused, or give a longer connectTimeout'
      default:
        return errorTable[code].cure
    }
  }
  switch (code) {
    case 'ECONNREFUSED':
      return 'nobody listens at this port; start the listener first'
    case 'ETIMEDOUT':
      return 'no machine with this CID answered; see that it runs and has a vsock device with this CID'
    case 'ENODEV':
      if (at.cid === VMADDR_CID_LOCAL) return 'loopback is not loaded: `modprobe vsock_loopback`'
      if (at.cid <= VMADDR_CID_HOST)
        return 'this guest has no vsock device or driver: `modprobe vmw_vsock_virtio_transport`; QEMU: `-device vhost-vsock-pci,guest-cid=N`'
      return 'no guest with this CID runs here, or the host driver is missing: `modprobe vhost_vsock`'
    case 'EPERM':
    case 'EACCES':
      return 'not allowed; inside a container its seccomp profile may forbid virtio sockets'
    case 'EAFNOSUPPORT':
      return `no virtio sockets in this kernel: \`modprobe vsock\`, and ${TRANSPORTS}`
    default:
      return errorTable[code].cure
  }
}

/** What listen() met, with its cure. */
export function listenFailure(raw: unknown, at: Address): Error {
  const error = asError(raw)
  const code = codeOf(error)
  if (!isKnown(code)) return error instanceof VmringError ? error : withPort(error, at)
  return failure(code, 'listen', at, listenCure(code, at), error)
}

function listenCure(code: KnownCode, at: Address): string {
  if ('uds' in at) {
    const path = listenPath(at)
    switch (code) {
      case 'EADDRINUSE':
        return `somebody listens at ${path}; stop that one, or use another port`
      case 'ENOENT':
        return `the directory of ${path} does not exist; create it`
      case 'EACCES':
      case 'EPERM':
        return `${path} may not be created; run as a user who may write there`
      default:
        return errorTable[code].cure
    }
  }
  switch (code) {
    case 'EADDRINUSE':
      return 'another socket listens at this port; use another one, or VMADDR_PORT_ANY'
    case 'EACCES':
    case 'EPERM':
      return at.port < 1024
        ? 'ports below 1024 need the capability CAP_NET_BIND_SERVICE; use a port from 1024 on'
        : 'not allowed; inside a container its seccomp profile may forbid virtio sockets'
    case 'EADDRNOTAVAIL':
    case 'ENODEV':
      return at.cid === VMADDR_CID_LOCAL
        ? 'loopback is not loaded: `modprobe vsock_loopback`'
        : `this machine does not have this CID; leave cid out, use localCid(), or load its driver: ${TRANSPORTS}`
    case 'EAFNOSUPPORT':
      return `no virtio sockets in this kernel: \`modprobe vsock\`, and ${TRANSPORTS}`
    default:
      return errorTable[code].cure
  }
}

/** What asking for the own CID met. */
export function localCidFailure(raw?: unknown): Error {
  const code = raw === undefined ? 'ENODEV' : codeOf(asError(raw))
  const missing = code === 'ENOENT' || code === 'ENXIO' || code === 'ENODEV' || code === 'EAFNOSUPPORT'
  if (missing)
    return failure('ENODEV', 'ioctl', null, `this machine has no CID of its own: ${TRANSPORTS}`, raw)
  if (code === 'EACCES' || code === 'EPERM')
    return failure(code, 'ioctl', null, 'not allowed to open /dev/vsock; `chmod a+r /dev/vsock`', raw)
  return asError(raw)
}

/** The CID as IOCTL_VM_SOCKETS_GET_LOCAL_CID gives it; "any" means that no transport but loopback is there. */
export function ownCid(read: () => number): number {
  let cid: number
  try {
    cid = read()
  } catch (error) {
    throw localCidFailure(error)
  }
  if (cid === VMADDR_CID_ANY) throw localCidFailure()
  return cid
}
