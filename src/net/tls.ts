/**
 * tls over a socket of ours. For tls a net.Socket without a handle is one that is not connected yet, and it waits for 'connect'; ours
 * have no handle when they are connected either. Node 20 to 26 decide it in the same place.
 */
import type net from 'node:net'
import tls from 'node:tls'

type Init = (this: tls.TLSSocket, socket: net.Socket | undefined, wrap: unknown) => void

export function teachTls(isConnected: (socket: net.Socket) => boolean): void {
  const prototype = tls.TLSSocket.prototype as unknown as { _init: Init }
  const { _init } = prototype
  prototype._init = function (socket, wrap) {
    _init.call(this, socket, wrap)
    if (socket !== undefined && isConnected(socket)) (this as { connecting: boolean }).connecting = false
  }
}
