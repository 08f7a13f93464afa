/** Sockets of the addon (native/linux): of an ivshmem server and its clients, and byte streams that are Unix or virtio sockets. */

/** The daemon's end of a connection in the ivshmem-server protocol. It only sends: a client that says anything is closed. */
export interface FdSocket {
  /**
   * Sends 8 bytes little endian and at most one descriptor (−1: none; it stays the caller's).
   * False: not sent, because the socket is full (ask with wantWritable) or broken (onClose follows).
   */
  send(value: number, fd: number): boolean
  /** Arms one onWritable. */
  wantWritable(): void
  /** Credentials of the process at the other end, as of its connect. */
  readonly uid: number
  readonly pid: number
  ref(): void
  unref(): void
  /** No handler is called for this socket after it. */
  close(): void
}

export interface FdListenHandlers {
  onConnection(socket: FdSocket): void
  /** A connection had to be turned away (out of descriptors or memory); listening goes on. */
  onRefused(error: NodeJS.ErrnoException): void
  onWritable(socket: FdSocket): void
  /** The last call; the socket is closed. `error`: libuv shape (EPROTO: the client sent something), or null for an orderly end. */
  onClose(socket: FdSocket, error: NodeJS.ErrnoException | null): void
}

export interface FdListener {
  close(): void
  ref(): void
  unref(): void
}

/** The client's end of the ivshmem-server protocol. */
export interface IvshmemSocket {
  /** What the handshake waits for next; 'ready' once id, memory and an own vector have come. */
  stage(): 'version' | 'id' | 'memory' | 'vector' | 'ready' | 'broken'
  ref(): void
  unref(): void
  /** No handler is called after it. */
  close(): void
}

/** Descriptors that arrive belong to the handler. */
export interface IvshmemHandlers {
  onId(peerId: number): void
  onMemory(fd: number): void
  /** One vector of a peer that is there or has just come (`own`: of this client), counted from 0 in order of arrival. */
  onVector(peerId: number, vector: number, fd: number, own: boolean): void
  onLeave(peerId: number): void
  /** The last call. `error`: ERR_VMRING_SERVER_…, libuv shape, or null when the server closed in an orderly way. */
  onClose(socket: IvshmemSocket, error: NodeJS.ErrnoException | null): void
}

/** A Unix socket by its path, or a virtio socket. CIDs and ports are unsigned 32-bit (vsock(7)). */
export type StreamAddress = { path: string } | { cid: number; port: number }

export interface StreamHandlers {
  /** streamConnect only */
  onConnect?(): void
  /** `length` bytes stand at the start of the target; reading goes on into the same target unless it is changed or paused here */
  onRead(length: number): void
  /** The other side ended its direction. */
  onEnd(): void
  /** What a write() left over is out. */
  onDrain(): void
  /** The own end() has been carried out: the queue written, the direction shut. */
  onFinish?(): void
  /**
   * The last call, never made before the call that caused it returns. `error`: libuv shape (`code`, `errno`, `syscall`,
   * `address`, and `port` of a virtio socket), or null when both directions ended in order.
   */
  onClose(error: NodeJS.ErrnoException | null): void
}

/** A byte stream over a Unix or virtio socket, on the event loop. */
export interface NativeStream {
  readonly family: 'unix' | 'vsock'
  /** Who is at the other end by the kernel's word: SO_PEERCRED as of its connect (−1 before), or its address. */
  readonly remote: { uid: number; gid: number; pid: number } | { cid: number; port: number }
  /** the path is '' at the connecting side */
  readonly local: { path: string } | { cid: number; port: number }
  /** bytes written but not taken by the socket yet */
  readonly queued: number
  readonly bytesRead: number
  readonly bytesWritten: number
  /** Sets the handlers of an accepted stream, or puts others in the place of those there. */
  start(handlers: StreamHandlers): void
  /** Reads at most `target.length` bytes at a time, straight into it, until pause(). It may be ring memory. */
  readInto(target: Uint8Array): void
  pause(): void
  /**
   * Writes the chunks in one call of the system. What the socket does not take is queued by reference: those bytes must
   * stay as they are until onDrain. Returns the bytes queued. After end() or close() it takes nothing and returns 0.
   */
  write(chunks: Uint8Array[]): number
  /** Ends the own direction behind what is queued. */
  end(): void
  /** At once, and silently: no handler is called after it. */
  close(): void
  /** As close(), with SO_LINGER 0. */
  reset(): void
  ref(): void
  unref(): void
}

export interface StreamListenHandlers {
  /** It reads nothing before start() and readInto(). */
  onConnection(stream: NativeStream): void
  /** A connection had to be turned away (out of descriptors or memory); listening goes on. */
  onRefused(error: NodeJS.ErrnoException): void
}

export interface NativeStreamListener {
  /** what it is bound to: with port VMADDR_PORT_ANY, the port that the system chose */
  readonly local: { path: string } | { cid: number; port: number }
  /** Removes the file that it made, when it still stands there. */
  close(): void
  ref(): void
  unref(): void
}

/** Any port, any CID (linux/vm_sockets.h: VMADDR_PORT_ANY, VMADDR_CID_ANY). */
export const VSOCK_ANY = 0xffffffff

export interface StreamFunctions {
  /**
   * Never throws but for wrong arguments: failures go to onClose. `timeout`: ms, by default none for a Unix socket and
   * the kernel's two seconds for a virtio socket (ETIMEDOUT). `buffer`: bytes of the kernel's buffers.
   */
  streamConnect(
    address: StreamAddress,
    handlers: StreamHandlers,
    options?: { timeout?: number; buffer?: number },
  ): NativeStream
  /**
   * Throws EADDRINUSE, EACCES, … in libuv's shape. A path is made as unixListen makes it (`mode` 0600 unless given);
   * `fd`: a descriptor from unixListen instead, taken over.
   */
  streamListen(
    address: StreamAddress,
    options: { backlog?: number; mode?: number; buffer?: number; fd?: number },
    handlers: StreamListenHandlers,
  ): NativeStreamListener
  /** The CID of this machine. Throws ENODEV without virtio sockets, EACCES without permission for /dev/vsock. */
  vsockLocalCid(): number
}
