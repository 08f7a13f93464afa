/** The parts of node:net that its own subclasses use and that its types do not show; the same in Node 20 to 26. */
import net from 'node:net'

/** As they were when this module was loaded: others replace what the module object holds, and so do we. */
export const PlainSocket = net.Socket
export const PlainServer = net.Server

export interface SocketInternals {
  _handle: unknown
  _parent: net.Socket | null
  _server: net.Server | null
  server: net.Server | null
  _peername: unknown
  _sockname: unknown
  _pendingData: unknown
  _pendingEncoding: string
  _host: string | null
  _aborted?: boolean
  connecting: boolean
  _undestroy(): void
  _unrefTimer(): void
}

export interface ServerInternals {
  _handle: unknown
  _unref: boolean
  _pipeName?: string
  _connectionKey?: string
  _connections: number
  _listeningId: number
  allowHalfOpen: boolean
  pauseOnConnect: boolean
  highWaterMark?: number
  _emitCloseIfDrained(): void
}

export function inner(socket: net.Socket): SocketInternals {
  return socket as unknown as SocketInternals
}

export function innerServer(server: net.Server): ServerInternals {
  return server as unknown as ServerInternals
}

export interface ConnectOptions {
  path?: string
  port?: number | string
  host?: string
  [name: string]: unknown
}

export type Normalized = [options: ConnectOptions, callback: ((...args: never[]) => void) | null]

const { _normalizeArgs } = net as unknown as { _normalizeArgs(args: unknown[]): Normalized }

/** The arguments of connect() and listen() in one form: node:net hands them on so, marked by a symbol of its own. */
export function normalize(args: unknown[]): Normalized {
  const [first] = args
  const done = Array.isArray(first) && Object.getOwnPropertySymbols(first).length > 0
  return done ? (first as unknown as Normalized) : _normalizeArgs(args)
}

export const tlsFile = /^node:(_tls_wrap|internal\/tls\/wrap)$/
/** what http2 and tls put around a stream that is no system socket */
export const wrapperFile = /^node:internal\/js_stream_socket$/

/** Whether the function that calls this was called by that part of node. */
export function calledBy(file: RegExp): boolean {
  const { prepareStackTrace, stackTraceLimit } = Error
  Error.stackTraceLimit = 5
  Error.prepareStackTrace = (_error, sites) => sites.some((site) => file.test(site.getFileName() ?? ''))
  try {
    return (new Error().stack as unknown) === true
  } finally {
    Error.stackTraceLimit = stackTraceLimit
    Error.prepareStackTrace = prepareStackTrace
  }
}
