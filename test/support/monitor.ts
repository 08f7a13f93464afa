/**
 * A STAND-IN for the vsock device of Firecracker and Cloud Hypervisor, as the host sees it; no such monitor runs here. Written from
 * their published protocol (docs/vsock.md of both projects):
 *
 * - the monitor listens at `uds_path`; a host program writes `CONNECT PORT\n`; when the guest listens at that port the monitor
 *   answers `OK HOSTPORT\n`, HOSTPORT being the port it gave the host's end, and from there on passes bytes on; else it closes;
 * - when the guest connects to CID 2 at PORT, the monitor connects to the Unix socket `uds_path_PORT`, without a handshake.
 *
 * The guest's ends of the connections are plain net.Sockets.
 */
import { once } from 'node:events'
import { connect, createServer, type Server, type Socket } from 'node:net'

export class StandInMonitor {
  readonly uds: string
  /** ports that the guest listens at */
  readonly guest = new Map<number, (socket: Socket) => void>()
  /** how CONNECT is answered; bytes in one array element go out in one piece, with a pause between pieces */
  answer: (port: number, hostPort: number) => string[] = (_port, hostPort) => [`OK ${hostPort}\n`]
  /** lines that came */
  readonly asked: string[] = []
  readonly sockets = new Set<Socket>()
  readonly #server: Server
  #nextHostPort = 1 << 30

  private constructor(uds: string) {
    this.uds = uds
    this.#server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) =>
      this.#accept(socket),
    )
  }

  static async start(uds: string): Promise<StandInMonitor> {
    const monitor = new StandInMonitor(uds)
    monitor.#server.listen(uds)
    await once(monitor.#server, 'listening')
    return monitor
  }

  /** What the guest gets when it connects to CID 2 at that port. */
  async guestConnect(port: number): Promise<Socket> {
    const socket = connect({ path: `${this.uds}_${port}`, allowHalfOpen: true })
    this.#keep(socket)
    await once(socket, 'connect')
    return socket
  }

  async close(): Promise<void> {
    for (const socket of this.sockets) socket.destroy()
    this.#server.close()
    await once(this.#server, 'close')
  }

  #keep(socket: Socket): void {
    this.sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => this.sockets.delete(socket))
  }

  #accept(socket: Socket): void {
    this.#keep(socket)
    let line = ''
    const read = () => {
      for (;;) {
        // a byte at a time: what follows the line is the guest's
        const byte: Buffer | null = socket.read(1)
        if (byte === null) return
        line += byte.toString('latin1')
        if (!line.endsWith('\n')) continue
        socket.removeListener('readable', read)
        void this.#connect(socket, line)
        return
      }
    }
    socket.on('readable', read)
  }

  async #connect(socket: Socket, line: string): Promise<void> {
    this.asked.push(line)
    const port = Number(/^CONNECT (\d+)\n$/.exec(line)?.[1] ?? Number.NaN)
    const listener = this.guest.get(port)
    if (listener === undefined) {
      socket.destroy()
      return
    }
    for (const piece of this.answer(port, this.#nextHostPort++)) {
      socket.write(piece)
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    listener(socket)
  }
}
