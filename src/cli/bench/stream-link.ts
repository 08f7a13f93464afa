/** node:net, and whatever has its face: Unix sockets, TCP, vmring/net, virtio sockets. */
import { once } from 'node:events'
import net from 'node:net'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import { VmringError } from '../../errors.js'
import type { Checker } from './content.js'
import { type Acceptor, type Link, Queue, type Transport } from './link.js'
import { type PeerSource, ShmLink } from './shm-link.js'

const RELAY_MS = 30_000

type Stream = Duplex & { setNoDelay?(on?: boolean): unknown }

class StreamLink implements Link {
  onDrain = (): void => {}
  readonly #stream: Stream

  constructor(stream: Stream) {
    this.#stream = stream
    stream.setNoDelay?.(true)
    stream.on('drain', () => this.onDrain())
    // what breaks it shows in what is missing
    stream.on('error', () => {})
  }

  send(bytes: Uint8Array): number {
    return this.#stream.write(bytes) ? 1 : 0
  }

  pool(size: number): number {
    return Math.ceil(this.#stream.writableHighWaterMark / size) + 2
  }

  receive(checker: Checker): void {
    this.#stream.on('data', (chunk: Buffer) => checker.piece(chunk))
  }

  close(): void {
    this.#stream.destroy()
  }
}

interface Listening {
  close(callback?: () => void): unknown
  address(): unknown
  on(event: string, listener: (...args: never[]) => void): unknown
}

async function acceptor(
  make: (onStream: (stream: Stream) => void) => Listening,
  address: (server: Listening) => string,
): Promise<Acceptor> {
  const links = new Queue<Link>()
  const server = make((stream) => links.push(new StreamLink(stream)))
  await once(server as never, 'listening')
  return {
    address: address(server),
    accept: () => links.next(),
    close: () => {
      server.close()
    },
  }
}

async function connected(stream: Stream): Promise<Link> {
  await once(stream, 'connect')
  return new StreamLink(stream)
}

export const unix: Transport = {
  listen: ({ directory }) => {
    const path = join(directory!, `socket-${process.pid}`)
    return acceptor(
      (onStream) => net.createServer(onStream).listen({ path, backlog: 4096 }),
      () => path,
    )
  },
  connect: (_site, address) => connected(net.connect(address)),
}

/** Between machines the first address that others can reach. */
export function ownAddress(directory: string | null): string {
  if (directory !== null) return '127.0.0.1'
  for (const addresses of Object.values(networkInterfaces())) {
    const one = addresses?.find(({ internal, family }) => !internal && family === 'IPv4')
    if (one !== undefined) return one.address
  }
  throw new VmringError(
    'ERR_VMRING_NOT_SUPPORTED',
    'the listening machine has no network address: tcp and zeromq cannot be measured between these machines',
  )
}

export const tcp: Transport = {
  listen: async ({ directory }) => {
    const host = ownAddress(directory)
    return acceptor(
      (onStream) => net.createServer({ noDelay: true }, onStream).listen({ host, port: 0, backlog: 4096 }),
      (server) => `${host} ${(server.address() as net.AddressInfo).port}`,
    )
  },
  connect: (_site, address) => {
    const [host, port] = address.split(' ')
    return connected(net.connect({ host: host!, port: Number(port), noDelay: true }))
  },
}

/** vmring/net over the side's own peer. */
export function socket(source: PeerSource): Transport {
  const load = async () => {
    const { usePeer, ...net } = await import('../../net/index.js')
    usePeer(await source.get())
    return net
  }
  return {
    async listen({ prefix }) {
      const { createServer } = await load()
      const path = `vmring:${prefix}data`
      return acceptor(
        (onStream) => createServer(onStream).listen(path),
        () => path,
      )
    },
    async connect(_site, address) {
      const { connect } = await load()
      return connected(connect(address))
    },
  }
}

const HOST_CID = 2

/**
 * Virtio sockets. Between a guest and its host they are connected; two guests cannot connect to each other, so between them it is
 * a channel of vmring on this path, through the host's relay.
 */
export function vsock(source: PeerSource): Transport {
  return {
    async listen({ job, prefix }) {
      const { createServer, localCid, VMADDR_PORT_ANY } = await import('../../vsock/index.js')
      const cid = localCid()
      const server = await (await source.get()).listen(`${prefix}data`)
      const own = await acceptor(
        (onStream) =>
          createServer((stream) => onStream(stream as unknown as Stream)).listen({ port: VMADDR_PORT_ANY }),
        (listening) => `${cid} ${(listening.address() as { port: number }).port} ${prefix}data`,
      )
      const relayed = new Promise<Link>((resolve) => {
        server.once('channel', (channel) => resolve(new ShmLink(channel, job)))
      })
      const close = async () => {
        await own.close()
        await server.close()
      }
      return { address: own.address, accept: () => Promise.race([own.accept(), relayed]), close }
    },
    async connect({ job }, address) {
      const { connect, localCid } = await import('../../vsock/index.js')
      const [cid, port, service] = address.split(' ') as [string, string, string]
      const direct = Number(cid) === HOST_CID || localCid() === HOST_CID || Number(cid) === localCid()
      if (direct) return connected(connect({ cid: Number(cid), port: Number(port) }) as unknown as Stream)
      const peer = await source.get()
      return new ShmLink(await peer.connect(service, { wait: RELAY_MS, paths: ['vsock'] }), job)
    },
  }
}
