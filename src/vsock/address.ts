import { VmringError } from '../errors.js'

/** Listen on every CID of this machine (linux/vm_sockets.h). */
export const VMADDR_CID_ANY = 0xffffffff
/** Reserved for the hypervisor itself; Linux has nobody there. */
export const VMADDR_CID_HYPERVISOR = 0
/** This machine, through the module vsock_loopback. */
export const VMADDR_CID_LOCAL = 1
/** The host, as its guests see it. */
export const VMADDR_CID_HOST = 2
/** Listen on whatever port is free. Port 0 is an ordinary port here, not "any" as with TCP. */
export const VMADDR_PORT_ANY = 0xffffffff

/** An end of a virtio socket. */
export interface VsockAddress {
  /** context id of the machine, unsigned 32-bit */
  cid: number
  /** unsigned 32-bit; below 1024 only for those with CAP_NET_BIND_SERVICE */
  port: number
}

/** A port that the virtual machine monitor (Firecracker, Cloud Hypervisor) maps to a Unix socket of the host. */
export interface UdsAddress {
  /** path of the device's socket: `uds_path` of Firecracker, `--vsock socket=` of Cloud Hypervisor */
  uds: string
  /** unsigned 32-bit; in the guest for connect(), on the host's side for listen() */
  port: number
}

export type Address = VsockAddress | UdsAddress

/** Most bytes that fit in the path of a Unix socket (sockaddr_un, with its final zero). */
const PATH_BYTES = 107

export function argumentError(message: string): VmringError {
  return new VmringError('ERR_VMRING_ARGUMENT', message)
}

function number(name: string, value: unknown, max: number, hint = ''): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= max) return value
  throw argumentError(`${name} is a whole number from 0 to ${max}${hint}; not ${show(value)}`)
}

function show(value: unknown): string {
  if (typeof value === 'string') return `'${value.slice(0, 60)}'`
  return typeof value === 'object' && value !== null ? 'an object' : String(value)
}

export function milliseconds(name: string, value: unknown): number {
  if (typeof value === 'number' && value >= 0 && Number.isFinite(value)) return Math.min(value, 0x7fffffff)
  throw argumentError(`${name} is a number of milliseconds, 0 or more; not ${show(value)}`)
}

export function callbackOrNone(name: string, value: unknown): void {
  if (value !== undefined && typeof value !== 'function')
    throw argumentError(`${name} is a function; not ${show(value)}`)
}

export function optionsObject(name: string, value: unknown): void {
  if (typeof value !== 'object' || value === null)
    throw argumentError(`${name} takes an object such as { cid: 2, port: 5000 }; not ${show(value)}`)
}

export function signalOrNone(value: unknown): void {
  if (value !== undefined && !(value instanceof AbortSignal))
    throw argumentError(`signal is an AbortSignal; not ${show(value)}`)
}

function udsPath(value: unknown, suffix = ''): string {
  if (typeof value !== 'string' || value === '' || value.includes('\0'))
    throw argumentError(`uds is the path of a Unix socket; not ${show(value)}`)
  const path = value + suffix
  if (Buffer.byteLength(path) > PATH_BYTES)
    throw argumentError(
      `${path}: the path of a Unix socket has at most ${PATH_BYTES} bytes; use a shorter one`,
    )
  return value
}

/** As callers without types may write it. */
interface Given {
  cid?: unknown
  port?: unknown
  uds?: unknown
}

function oneOf(options: Given): void {
  if (options.cid !== undefined && options.uds !== undefined)
    throw argumentError('give cid or uds, not both: uds stands for one virtual machine already')
}

/** Checks where connect() is to go. Throws ERR_VMRING_ARGUMENT. */
export function connectAddress(options: Given): Address {
  oneOf(options)
  const hint = ' (4294967295 means "any", and only for listen)'
  if (options.uds !== undefined)
    return { uds: udsPath(options.uds), port: number('port', options.port, VMADDR_PORT_ANY - 1, hint) }
  return {
    cid: number('cid', options.cid, VMADDR_CID_ANY - 1, hint),
    port: number('port', options.port, VMADDR_PORT_ANY - 1, hint),
  }
}

/** Checks where listen() is to be. Throws ERR_VMRING_ARGUMENT. */
export function listenAddress(options: Given): Address {
  oneOf(options)
  if (options.uds !== undefined) {
    const port = number('port', options.port, VMADDR_PORT_ANY - 1)
    return { uds: udsPath(options.uds, `_${port}`), port }
  }
  return {
    cid: number('cid', options.cid ?? VMADDR_CID_ANY, VMADDR_CID_ANY),
    port: number('port', options.port, VMADDR_PORT_ANY, ' (4294967295, VMADDR_PORT_ANY: any)'),
  }
}

/** Where the monitor looks for the host's listener when its guest connects to CID 2 at that port. */
export function listenPath({ uds, port }: UdsAddress): string {
  return `${uds}_${port}`
}

export function addressText(address: Address): string {
  return 'uds' in address ? `${address.uds} port ${address.port}` : `${address.cid}:${address.port}`
}
