/**
 * Which addresses lead over vmring.
 *
 * 'vmring:SERVICE' always does. Beyond that a process can route addresses of its choice (paths, ports) to services; whatever no
 * rule covers is left to node:net.
 */
import { isIP, isIPv6 } from 'node:net'
import { VmringError } from '../errors.js'
import { MAX_TEXT_BYTES } from '../path/frames.js'

const SCHEME = 'vmring:'

/** An address as programs give it to node:net: a path, or a port with or without a host. */
export interface NetAddress {
  path?: string
  port?: number
  /** as given: a name or an IP address; without it every address of the machine */
  host?: string
}

/** Names the service for an address, or null: not ours. */
export type Route = (address: NetAddress) => string | null

/** Where a socket or server of ours is. */
export interface Target {
  readonly service: string
  /** the address in the terms of the program */
  readonly at: NetAddress
}

let routes: Route[] = []

/** Adds a rule, asked before those added earlier. Returns what takes it away again. */
export function addRoute(route: Route): () => void {
  routes = [route, ...routes]
  return () => {
    routes = routes.filter((one) => one !== route)
  }
}

/** Null: an address of node:net. Throws ERR_VMRING_ARGUMENT for 'vmring:' with a name that no service can have. */
export function targetOf(at: NetAddress): Target | null {
  const { path } = at
  if (path?.startsWith(SCHEME)) {
    const service = path.slice(SCHEME.length)
    const bytes = Buffer.byteLength(service)
    if (bytes === 0 || bytes > MAX_TEXT_BYTES)
      throw new VmringError(
        'ERR_VMRING_ARGUMENT',
        `${JSON.stringify(path)} names no service: 'vmring:' is followed by a name of 1 to ${MAX_TEXT_BYTES} bytes`,
      )
    return { service, at }
  }
  for (const route of routes) {
    const service = route(at)
    if (service !== null) return { service, at }
  }
  return null
}

/** How node:net prints it: a path, or host:port. */
export function addressText({ path, port, host }: NetAddress): string {
  return path ?? (host === undefined ? String(port) : `${host}:${port}`)
}

// ---- a port space of our own -----------------------------------------------------------------------------------------

const FIRST_FREE = 49152
const LAST_FREE = 65535
const PORT_SERVICE = 'net.port.'
const PATH_SERVICE = 'net.path.'

let portSpace = false
let nextFree = 0

/**
 * Routes every port and every path: port N is service 'net.port.N' (whatever the host), a path is 'net.path.PATH'. Then listen(0) and
 * connect(port) work between all processes of a region. Returns what ends it.
 */
export function routeEverything(): () => void {
  portSpace = true
  const remove = addRoute(({ path, port }) => {
    if (port !== undefined) return PORT_SERVICE + port
    return path === undefined || path === '' ? null : PATH_SERVICE + path
  })
  return () => {
    portSpace = false
    remove()
  }
}

/** A port for listen(0), begun at random so that processes rarely meet; undefined when ports are not routed. */
export function freePort(taken: (service: string) => boolean): number | undefined {
  if (!portSpace) return undefined
  const count = LAST_FREE - FIRST_FREE + 1
  if (nextFree === 0) nextFree = Math.floor(Math.random() * count)
  for (let tries = 0; tries < count; tries++) {
    nextFree = (nextFree + 1) % count
    const port = FIRST_FREE + nextFree
    if (!taken(PORT_SERVICE + port)) return port
  }
  return undefined
}

/** What socket.address() says of one side of a routed port. */
export interface SocketName {
  address: string
  family: 'IPv4' | 'IPv6'
  port: number
}

export function socketName(host: string | undefined, port: number): SocketName {
  const address = host !== undefined && isIP(host) !== 0 ? host : '127.0.0.1'
  return { address, family: isIPv6(address) ? 'IPv6' : 'IPv4', port }
}
