/**
 * AF_VSOCK for Node, in the manner of `node:net`: streams of bytes between a virtual machine and its host, or between machines on
 * one host, without a network. docs/guides/vsock.md says what each side needs.
 *
 * Addresses are a context id (CID) and a port, both unsigned 32-bit (vsock(7), linux/vm_sockets.h). On a host whose monitor is
 * Firecracker or Cloud Hypervisor there is no AF_VSOCK; the same calls take `uds`, the path of the monitor's Unix socket, in
 * place of the CID.
 */
import { native } from '../native/binding.js'
import { ownCid } from './failure.js'

export {
  type UdsAddress,
  VMADDR_CID_ANY,
  VMADDR_CID_HOST,
  VMADDR_CID_HYPERVISOR,
  VMADDR_CID_LOCAL,
  VMADDR_PORT_ANY,
  type VsockAddress,
} from './address.js'
export { type ConnectOptions, connect, connect as createConnection } from './connect.js'
export {
  createServer,
  type DroppedConnection,
  type ListenOptions,
  Server,
  type ServerEvents,
  type ServerOptions,
} from './server.js'
export { Socket, type StreamOptions } from './socket.js'

/**
 * The CID of this machine: that of a guest, 2 on a host. Throws ENODEV when no transport but loopback is loaded, EACCES when
 * /dev/vsock may not be opened.
 */
export function localCid(): number {
  return ownCid(() => native.vsockLocalCid())
}
