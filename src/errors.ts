/**
 * Every error that vmring raises, in one table: what raises it and what cures it. docs/errors.md is made from this table.
 *
 * Failures of the operating system, and the two that programs already handle for sockets (`ECONNREFUSED`, `EADDRINUSE`),
 * keep libuv's shape: `code`, `errno`, `syscall`, `address`.
 */
import { getSystemErrorMap } from 'node:util'

export interface ErrorEntry {
  /** what raises it */
  readonly raised: string
  /** what cures it */
  readonly cure: string
}

export const errorTable = {
  ERR_VMRING_REGION_MAGIC: {
    raised: 'the memory does not start with the vmring magic: it is no region, or nobody has formatted it',
    cure: 'check the path; format the file with `vmring format FILE`, or start `vmring host`',
  },
  ERR_VMRING_REGION_VERSION: {
    raised: 'the region was formatted by another major version of the protocol',
    cure: 'use the same major version of vmring on all sides, or format the region anew',
  },
  ERR_VMRING_REGION_FEATURE: {
    raised: 'the region uses a feature that this version does not know and must not ignore',
    cure: 'update vmring on this side, or format the region with the older version',
  },
  ERR_VMRING_REGION_GEOMETRY: {
    raised: 'the header describes tables or sections that do not fit in the memory',
    cure: 'the file is damaged or was made for another size: format it anew',
  },
  ERR_VMRING_REGION_SIZE: {
    raised: 'the region is no power of two, below 1 MiB, or too small for that many sections',
    cure: 'make the file a power of two of at least 1 MiB (`vmring format --size 64M FILE`)',
  },
  ERR_VMRING_REGION_EMPTY: {
    raised: 'the file has no bytes',
    cure: 'format it (`vmring format --size 64M FILE`), or wait for whoever is making it',
  },
  ERR_VMRING_REGION_TRUNCATED: {
    raised: 'the file is shorter than the region that its header describes',
    cure: 'it was cut off: format it anew with `vmring format --force`',
  },
  ERR_VMRING_REGION_LOST: {
    raised: 'the memory behind the region is gone: the file was truncated, or the device was unplugged',
    cure: 'attach again when the region is back; views of it read zeros from now on',
  },
  ERR_VMRING_REGION_ADDRESS: {
    raised: 'the region address has none of the known forms',
    cure: "use 'unix:SOCKET', 'file:PATH', 'pci:0000:00:02.0' or null",
  },
  ERR_VMRING_NO_REGION: {
    raised:
      'attach() without a region found none in any of the usual places; `attempts` lists what was tried',
    cure: 'start `vmring host`, or name a region in attach({ region }) or VMRING_REGION',
  },
  ERR_VMRING_TOO_MANY_PEERS: {
    raised: 'every section of the region has an owner',
    cure: 'start the daemon with more `--sections`, or free the section of a peer that is gone for good',
  },
  ERR_VMRING_DEVICE_BUSY: {
    raised: 'another process has the ivshmem device; `pid` names it',
    cure: 'one process owns the device: let that one talk, or use the relay',
  },
  ERR_VMRING_DEVICE_ABSENT: {
    raised: 'this guest has no ivshmem device at that address',
    cure: 'list the devices with `lspci -d 1af4:1110`; give the guest one with `-device ivshmem-doorbell,…`',
  },
  ERR_VMRING_SEVERAL_DEVICES: {
    raised: 'this guest has more than one ivshmem device, and none was named; `devices` lists them',
    cure: "name one: attach({ region: 'pci:ADDRESS' }) or VMRING_REGION=pci:ADDRESS",
  },
  ERR_VMRING_DEVICE_TYPE: {
    raised: 'the PCI device at that address is no ivshmem device (1af4:1110)',
    cure: 'list the devices with `lspci -d 1af4:1110`',
  },
  ERR_VMRING_DEVICE_DRIVER: {
    raised: 'a driver other than vfio-pci has the device; `driver` names it',
    cure: '`vmring bind ADDRESS` for use with interrupts, or `vmring unbind ADDRESS` for use through sysfs',
  },
  ERR_VMRING_NO_VFIO: {
    raised: 'the kernel has no vfio, or its modules are not loaded',
    cure: '`modprobe -a vfio-pci vfio_iommu_type1`; a kernel without them can use the device through sysfs, unbound',
  },
  ERR_VMRING_NO_IOMMU: {
    raised: 'the device is in no IOMMU group, without which vfio-pci cannot be used',
    cure: 'start QEMU with `-device intel-iommu,intremap=on` and the guest with `intel_iommu=on`; or unbind it: sysfs needs no IOMMU',
  },
  ERR_VMRING_DEVICE_GROUP: {
    raised: 'another device of the same IOMMU group has a driver of its own; `detail` names it',
    cure: 'put the ivshmem device on a PCIe root port of its own (`-device pcie-root-port,…`)',
  },
  ERR_VMRING_INTERRUPT_REMAPPING: {
    raised: 'the IOMMU of the guest does not remap interrupts, so vfio refuses',
    cure: 'start QEMU with `-M q35,kernel-irqchip=split -device intel-iommu,intremap=on`, or set vfio_iommu_type1.allow_unsafe_interrupts=1',
  },
  ERR_VMRING_DEVICE_PERMISSION: {
    raised: 'this user may not open the device; `path` names the file',
    cure: 'give the user access to that file (`chown USER /dev/vfio/GROUP`), or run as root',
  },
  ERR_VMRING_LOCKDOWN: {
    raised: 'kernel lockdown (Secure Boot) forbids mapping the device through sysfs',
    cure: 'bind it to vfio-pci (`vmring bind ADDRESS`), or boot without Secure Boot',
  },
  ERR_VMRING_NO_VECTORS: {
    raised: 'the device has no interrupts (ivshmem-plain)',
    cure: 'use ivshmem-doorbell with `vmring host`, or let vmring poll',
  },
  ERR_VMRING_DEVICE: {
    raised: 'a system call on the device failed; the message says which',
    cure: 'see the message and the log of the kernel (`dmesg`)',
  },
  ERR_VMRING_SERVER_VERSION: {
    raised: 'the ivshmem server speaks another protocol version than 0',
    cure: 'connect to `vmring host` or another server of the ivshmem-server protocol, version 0',
  },
  ERR_VMRING_SERVER_CLOSED: {
    raised:
      'the ivshmem server or the relay closed the connection before it had said everything, or the daemon went away',
    cure: 'look at the output of `vmring host`; start it again and attach again',
  },
  ERR_VMRING_SERVER_NO_FD: {
    raised: 'the ivshmem server announced memory or an interrupt without sending its descriptor',
    cure: 'check that the socket belongs to `vmring host`, and that nothing between (a proxy) drops descriptors',
  },
  ERR_VMRING_SERVER_PROTOCOL: {
    raised: 'the ivshmem server sent something that the protocol does not allow',
    cure: 'check that the socket belongs to `vmring host`',
  },
  ERR_VMRING_SECTION_FULL: {
    raised: 'the own section has no room for another channel ring',
    cure: 'close channels, ask for a smaller `ringSize`, or give the region more memory per section',
  },
  ERR_VMRING_PROTOCOL: {
    raised: 'the other side wrote something that the protocol does not allow; the channel was reset',
    cure: 'update both sides; if it stays, the other side is broken or hostile',
  },
  ERR_VMRING_PEER_GONE: {
    raised:
      'the process at the other end left or restarted; `sent`, `delivered` and `released` are its last known record counts',
    cure: 'connect again',
  },
  ERR_VMRING_PATH_LOST: {
    raised:
      'the path was torn away and the messages on it with it; records from `from` up to `to` are in doubt',
    cure: 'connect again, and send again what the other side confirms not to have',
  },
  ERR_VMRING_NO_PATH: {
    raised: 'none of the paths asked for leads to the peer; `attempts` lists what each one met',
    cure: 'allow another path, or set the missing one up',
  },
  ERR_VMRING_RESET: {
    raised: 'the other side ended the channel at once (destroy); the message gives its reason',
    cure: 'connect again',
  },
  ERR_VMRING_LIMIT: {
    raised:
      'a limit of the other process: channels with one process, channels that wait to be taken, bytes of a ring; or it has been moved off the path',
    cure: 'close channels or use smaller rings; the limits are `limits` of its attach() and `backlog` of its listen()',
  },
  ERR_VMRING_REFUSED: {
    raised:
      'the other side is there, but declined, for example because it did not understand a required option',
    cure: 'read the reason in the message; free channels or update the other side',
  },
  ERR_VMRING_RELAY_ADDRESS: {
    raised: 'the relay address is malformed',
    cure: "use 'unix:PATH', 'vsock:CID:PORT' (the host is CID 2), or 'none'",
  },
  ERR_VMRING_CLUSTER: {
    raised:
      'a worker of node:cluster listened at an address that leads to a service: the workers of a cluster cannot share one',
    cure: "start one process without cluster, or take the address out of VMRING_MAP; in a single worker, listen with { exclusive: true }: the service is that worker's alone",
  },
  ERR_VMRING_POLICY: {
    raised: 'the policy of the relay does not allow this peer to listen under or connect to that service',
    cure: 'ask whoever runs `vmring host`: a rule in its --policy file must name this origin (cid:N or uid:N) and the service',
  },
  ERR_VMRING_POLICY_FILE: {
    raised: 'the policy file cannot be read or has an error; `field` names the place',
    cure: 'correct the file (docs/guides/relay.md has its form); a running daemon keeps the policy that it had',
  },
  ERR_VMRING_UNKNOWN_PEER: {
    raised: 'no such process has a connection to the relay, or it did not answer the call',
    cure: '`vmring ls` lists who is there; start the other process, or let it use the relay',
  },
  ERR_VMRING_IDENTITY: {
    raised: 'a process claimed to be a peer that the relay knows from another guest or user',
    cure: 'run both from the same guest or user; if nobody did this on purpose, look at the log of the daemon',
  },
  ERR_VMRING_RELAY_BUSY: {
    raised: 'the relay has no room: too many connections, services or calls of this guest or user',
    cure: 'close some, or try again later; docs/protocol.md lists the limits',
  },
  ERR_VMRING_RELAY_VERSION: {
    raised: 'the relay speaks another version of the protocol',
    cure: 'use the same major version of vmring on all sides',
  },
  ERR_VMRING_RELAY_PROTOCOL: {
    raised: 'the relay did not understand this side, or this side took too long',
    cure: 'check that the address is that of a `vmring host` relay (SOCKET.relay), and update both sides',
  },
  ERR_VMRING_TIMEOUT: {
    raised: 'the other side did not answer in time',
    cure: 'see whether its event loop is blocked; try again',
  },
  ERR_VMRING_CLOSED: {
    raised: 'the channel, server or peer is closed, or its sending direction has ended',
    cure: 'use a new one; messages cannot follow end() or close()',
  },
  ERR_VMRING_TOO_LARGE: {
    raised:
      'trySend() or reserve() above the inline limit of the ring, or any message above what the receiver takes',
    cure: 'use send(), ask for a larger `ringSize`, or raise `maxMessageSize` on the receiving side',
  },
  ERR_VMRING_LEASE: {
    raised: 'a send lease was used twice, or a second one was asked for while one is open',
    cure: 'commit or abort each lease exactly once before the next send',
  },
  ERR_VMRING_RELEASED: {
    raised: 'a message was looked at after it had been released',
    cure: 'call retain() to keep a message after its handler, or copy() what you need',
  },
  ERR_VMRING_RECEIVE_MODE: {
    raised: "receive(), 'message' and iteration were mixed on one channel",
    cure: 'keep to the way of receiving that was used first',
  },
  ERR_VMRING_ARGUMENT: {
    raised: 'an argument is of the wrong type or out of range',
    cure: 'the message names the argument and what is allowed',
  },
  ERR_VMRING_NOT_SUPPORTED: {
    raised: 'this version cannot do it here',
    cure: 'the message names what can be used instead',
  },
  ERR_VMRING_ADDON: {
    raised: 'the native addon is missing or does not fit this machine',
    cure: 'install on Linux x64 or arm64 with the prebuilt binary, or run `npm ci && npm run build`',
  },
  ERR_VMRING_NO_EXTERNAL_BUFFERS: {
    raised:
      'this runtime forbids buffers over foreign memory (Electron does), so ring memory cannot be shown',
    cure: 'run the part of the program that uses vmring in Node itself',
  },
  ERR_VMRING_MAP: {
    raised: 'VMRING_MAP, which vmring/register reads, has an error; `column` is its place, counted from 1',
    cure: "write ADDRESS=SERVICE, separated by commas: '/tmp/app.sock=orders,127.0.0.1:6379=cache'",
  },
  ERR_VMRING_VSOCK_HANDSHAKE: {
    raised: 'the Unix socket given as `uds` did not answer CONNECT with OK and a port',
    cure: 'see that it is the vsock socket of Firecracker or Cloud Hypervisor',
  },
  ERR_SERVER_ALREADY_LISTEN: {
    raised: 'listen() on a virtio socket server that listens already',
    cure: 'close it first, or make another server',
  },
  ERR_SERVER_NOT_RUNNING: {
    raised: 'close() on a virtio socket server that does not listen',
    cure: 'there is nothing to close',
  },
  ERR_SOCKET_CLOSED: {
    raised: 'a virtio socket was used after its end',
    cure: 'make a new connection',
  },
  ERR_SOCKET_CLOSED_BEFORE_CONNECTION: {
    raised: 'a virtio socket was destroyed while it was connecting',
    cure: 'connect again',
  },
  ERR_VMRING_VM_MISSING: {
    raised: '`vmring demo --vm` boots guests, and QEMU, busybox, kmod or a kernel for that is not here',
    cure: 'run the command in the message (on Debian or Ubuntu `sudo apt-get install qemu-system-x86 busybox-static kmod`)',
  },
  ERR_VMRING_VM_GUEST: {
    raised: 'a guest that was booted for `vmring demo --vm` did not come up, died, or a program in it failed',
    cure: 'read what it said last, in the message; on a machine that is busy with other things try again later',
  },
  ECONNREFUSED: {
    raised: 'nobody listens under that service name (within `wait`), or at that virtio socket port',
    cure: 'start the listener, or give connect() a longer `wait`',
  },
  EADDRINUSE: {
    raised:
      'this peer already listens under that service name (with vmring/net: another process of the region too), or somebody at that virtio socket port or path',
    cure: 'close the other server first, or use another name or port',
  },
  ENODEV: {
    raised: 'no virtio socket transport leads to that CID, or this machine has no CID of its own',
    cure: '`modprobe vmw_vsock_virtio_transport` in a guest with a vsock device, `modprobe vhost_vsock` on the host, `modprobe vsock_loopback` for CID 1',
  },
  EAFNOSUPPORT: {
    raised: 'the kernel has no virtio sockets, or their module is not loaded',
    cure: '`modprobe vsock`, and the transport as for ENODEV; for a container, on the machine outside',
  },
  EADDRNOTAVAIL: {
    raised: 'listen() at a CID that is not one of this machine',
    cure: 'leave `cid` out, use localCid(), or load the transport that brings the CID, as for ENODEV',
  },
  EACCES: {
    raised: 'a virtio socket port below 1024, /dev/vsock or a socket file that this user may not use',
    cure: 'use a port from 1024 on, or give the program CAP_NET_BIND_SERVICE or the user access to the file',
  },
  EPERM: {
    raised: 'something forbids virtio sockets: the seccomp profile of a container, mostly',
    cure: 'allow AF_VSOCK in that profile, or run outside the container',
  },
  ENOENT: {
    raised: 'there is no such socket file, or the directory for it is missing',
    cure: 'start what makes it first, or check the path',
  },
  EPIPE: {
    raised: 'a virtio socket was written to after the other side had ended the connection',
    cure: 'stop at `end`, or use allowHalfOpen',
  },
  ETIMEDOUT: {
    raised: 'nobody with that CID answered in time, or the monitor of a `uds` did not',
    cure: 'see that the virtual machine runs and has that CID, or give a longer connectTimeout',
  },
} as const satisfies Record<string, ErrorEntry>

export type ErrorCode = keyof typeof errorTable

export interface VmringErrorOptions {
  cause?: unknown
  /** what each attempt met, for errors that sum up several */
  attempts?: string[]
  errno?: number
  syscall?: string
  address?: string
  /** record counts or ranges, where the code says so */
  details?: Record<string, unknown>
}

/** An error with a stable `code`; the message says what happened and what to do. */
export class VmringError extends Error {
  readonly code: string
  declare readonly errno?: number
  declare readonly syscall?: string
  declare readonly address?: string
  declare readonly attempts?: string[]

  constructor(code: ErrorCode, message: string, options: VmringErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    for (const key of ['errno', 'syscall', 'address', 'attempts'] as const) {
      if (options[key] !== undefined) this.#set(key, options[key])
    }
    for (const [key, value] of Object.entries(options.details ?? {})) this.#set(key, value)
  }

  override get name(): string {
    return 'VmringError'
  }

  #set(key: string, value: unknown): void {
    Object.defineProperty(this, key, { value, enumerable: true, configurable: true, writable: true })
  }
}

/** The record counts that errors about a lost peer or path carry. */
export interface RecordCounts {
  sent: number
  delivered: number
  released: number
}

const errnos = new Map([...getSystemErrorMap()].map(([errno, [name]]) => [name, errno]))

/** libuv's number of a failure of the system by its name ('ENOENT' → -2), or undefined. */
export function errnoOf(code: string): number | undefined {
  return errnos.get(code)
}

export function asError(value: unknown): Error {
  return value instanceof Error ? value : new Error(String(value))
}

export function connectionRefused(service: string, attempts: string[] = []): VmringError {
  const met = attempts.length > 0 ? ` (${attempts.join('; ')})` : ''
  return new VmringError(
    'ECONNREFUSED',
    `connect ECONNREFUSED ${service}: nobody listens under this name${met}; start the listener or wait longer`,
    { errno: errnoOf('ECONNREFUSED')!, syscall: 'connect', address: service, attempts },
  )
}

export function addressInUse(service: string, who = 'this peer'): VmringError {
  return new VmringError(
    'EADDRINUSE',
    `listen EADDRINUSE ${service}: ${who} already listens under this name`,
    {
      errno: errnoOf('EADDRINUSE')!,
      syscall: 'listen',
      address: service,
    },
  )
}
