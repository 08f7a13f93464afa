import { callbackOrNone, optionsObject } from './address.js'
import { type ConnectOptions, Socket } from './socket.js'

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
