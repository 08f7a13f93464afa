import { callbackOrNone, optionsObject, type UdsAddress, type VsockAddress } from './address.js'
import { Socket, type StreamOptions } from './socket.js'

export type ConnectOptions = (VsockAddress | UdsAddress) &
  StreamOptions & {
    /** destroys the socket, at any time, with an AbortError */
    signal?: AbortSignal | undefined
    /** milliseconds without traffic after which 'timeout' is emitted, as setTimeout() does; nothing else happens by itself */
    timeout?: number | undefined
    /** milliseconds until connecting fails with ETIMEDOUT; default the kernel's 2 s, 10 s with `uds` */
    connectTimeout?: number | undefined
  }

/**
 * Connects to a virtio socket, or to a guest of Firecracker or Cloud Hypervisor through the monitor's Unix socket. Returns at once;
 * 'connect' or 'error' follows. Throws ERR_VMRING_ARGUMENT for a CID, port, path or option that cannot be.
 *
 * Errors keep libuv's shape (`code`, `errno`, `syscall` 'connect', `address` the CID or path, `port`) and say what cures them:
 * ECONNREFUSED, ENODEV, ETIMEDOUT, EAFNOSUPPORT, EPERM, ENOENT, or ERR_VMRING_VSOCK_HANDSHAKE.
 */
export function connect(options: ConnectOptions, listener?: () => void): Socket {
  optionsObject('connect()', options)
  callbackOrNone('listener', listener)
  const socket = new Socket(options)
  if (listener !== undefined) socket.once('connect', listener)
  return socket
}
