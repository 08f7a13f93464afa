/**
 * `vmring/net`: node:net over channels. 'vmring:SERVICE' and addresses that are routed to services go over vmring, every other
 * address is that of node:net.
 */
import net from 'node:net'
import { normalize, PlainServer, PlainSocket } from './internals.js'
import { Server as ServerClass } from './server.js'
import { Socket as SocketClass, type VmringConnectOptions } from './socket.js'

export { addRoute, type NetAddress, type Route, routeEverything } from './address.js'
export { install } from './install.js'
export type { VmringListenOptions } from './server.js'
export { usePeer } from './shared.js'
export type { VmringConnectOptions }

/** As net.Socket, also without `new`. */
export const Socket = callable<typeof SocketClass, (options?: net.SocketConstructorOpts) => SocketClass>(
  SocketClass,
  PlainSocket,
)
export type Socket = SocketClass
export const Stream = Socket
type Listener = (socket: net.Socket) => void
/** As net.Server, also without `new`. */
export const Server = callable<
  typeof ServerClass,
  (options?: net.ServerOpts | Listener, connectionListener?: Listener) => ServerClass
>(ServerClass, PlainServer)
export type Server = ServerClass

const { [Symbol.hasInstance]: isInstance } = Function.prototype

/**
 * The classes of node:net are functions: old programs call them on an object of their own, or leave `new` away. And whatever is a
 * socket of node:net, a TLSSocket or that of an http2 session, is one for who asks with this class in its place.
 */
function callable<C extends abstract new (...args: never[]) => object, F>(
  ours: C,
  base: new (...args: never[]) => object,
): C & F {
  // a subclass inherits it, and then `this` is the subclass
  function hasInstance(this: unknown, value: unknown): boolean {
    return this === proxy ? value instanceof base : isInstance.call(this as () => void, value)
  }
  const proxy = new Proxy(ours, {
    get: (target, key, receiver) =>
      key === Symbol.hasInstance ? hasInstance : Reflect.get(target, key, receiver),
    apply: (target, self, args) =>
      self instanceof base
        ? Reflect.apply(base as unknown as () => unknown, self, args)
        : Reflect.construct(target as unknown as new () => object, args, target),
  })
  return proxy as C & F
}

/** As net.createServer(). */
export function createServer(connectionListener?: (socket: net.Socket) => void): Server
export function createServer(
  options?: net.ServerOpts,
  connectionListener?: (socket: net.Socket) => void,
): Server
export function createServer(...args: unknown[]): Server {
  return new ServerClass(...(args as []))
}

/** As net.connect(); 'vmring:SERVICE' where a path can be. */
export function connect(
  options: net.NetConnectOpts & VmringConnectOptions,
  connectionListener?: () => void,
): Socket
export function connect(path: string, connectionListener?: () => void): Socket
export function connect(port: number, host?: string, connectionListener?: () => void): Socket
export function connect(port: number, connectionListener?: () => void): Socket
export function connect(...args: unknown[]): Socket {
  const normalized = normalize(args)
  const [options] = normalized
  const socket = new SocketClass(options as net.SocketConstructorOpts)
  if (options.timeout) socket.setTimeout(options.timeout as number)
  return socket.connect(normalized)
}

export const createConnection = connect

export const {
  BlockList,
  SocketAddress,
  isIP,
  isIPv4,
  isIPv6,
  getDefaultAutoSelectFamily,
  setDefaultAutoSelectFamily,
  getDefaultAutoSelectFamilyAttemptTimeout,
  setDefaultAutoSelectFamilyAttemptTimeout,
} = net
