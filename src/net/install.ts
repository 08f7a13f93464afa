/**
 * Redirects node:net in place, for programs that are not to be changed: http and tls keep what they took from it when they were
 * loaded, and the sockets that they make go through these two prototypes all the same.
 */
import net from 'node:net'
import { normalize } from './internals.js'
import { listen } from './server.js'
import { adopt, leadsToUs, Socket } from './socket.js'

let uninstall: (() => void) | null = null

/** From now on connect() and listen() of node:net and node:tls obey the routes too. Returns what undoes it. */
export function install(): () => void {
  if (uninstall !== null) return uninstall
  const tls = process.getBuiltinModule('tls')
  const { connect } = net.Socket.prototype
  const listenPlain = net.Server.prototype.listen
  const connectTls = tls.connect
  net.Socket.prototype.connect = function (this: net.Socket, ...args: unknown[]) {
    // our own class has decided already
    if (this instanceof Socket || Object.hasOwn(this, 'connect')) return Reflect.apply(connect, this, args)
    const normalized = normalize(args)
    if (!leadsToUs(this, normalized[0])) return Reflect.apply(connect, this, [normalized])
    return adopt(this).connect(normalized)
  } as typeof connect
  net.Server.prototype.listen = function (this: net.Server, ...args: unknown[]) {
    return listen(this, args) ? this : Reflect.apply(listenPlain, this, args)
  } as typeof listenPlain
  tls.connect = ((...args: unknown[]) => {
    const [options, callback] = normalize(args)
    // tls.connect(port, host, { … }, callback)
    const more = args.find((one, index) => index > 0 && typeof one === 'object' && one !== null)
    const all = { ...options, ...(more as object) }
    if (all.socket || !leadsToUs(null, all)) return Reflect.apply(connectTls, tls, args)
    // these are about the TLSSocket
    const { signal: _signal, onread: _onread, timeout, ...plain } = all
    const socket = net.connect(plain as unknown as net.NetConnectOpts)
    try {
      const secure = connectTls({ ...all, socket } as never, ...((callback === null ? [] : [callback]) as []))
      if (timeout) secure.setTimeout(timeout as number)
      // it knows no address but that of a handle
      for (const name of ['_getpeername', '_getsockname'] as const)
        Object.defineProperty(secure, name, { value: () => (socket as Socket)[name](), configurable: true })
      // one that is destroyed while it connects forgets the other
      secure.once('close', () => socket.destroy())
      return secure
    } catch (error) {
      socket.destroy()
      throw error
    }
  }) as typeof connectTls
  uninstall = () => {
    net.Socket.prototype.connect = connect
    net.Server.prototype.listen = listenPlain
    tls.connect = connectTls
    uninstall = null
  }
  return uninstall
}
