/** ZeroMQ's PAIR sockets (npm package `zeromq`, 6 or later), over ipc:// on one machine and tcp:// between two. */
import { join } from 'node:path'
import { VmringError } from '../../errors.js'
import type { Checker } from './content.js'
import type { Link, Transport } from './link.js'
import { ownAddress } from './stream-link.js'

interface Pair extends AsyncIterable<Uint8Array[]> {
  linger: number
  bind(address: string): Promise<void>
  connect(address: string): void
  send(message: Uint8Array): Promise<void>
  close(): void
  readonly lastEndpoint: string | null
}

/** bytes; larger ones are copied, instead of a thousand of them held */
const MOST_POOLED = 4096

/** A name that the compiler does not look for: the package is there only where somebody installed it. */
const PACKAGE: string = 'zeromq'

export async function loadZeromq(): Promise<{ Pair: new () => Pair; version: string }> {
  try {
    return (await import(PACKAGE)) as { Pair: new () => Pair; version: string }
  } catch (cause) {
    throw new VmringError(
      'ERR_VMRING_NOT_SUPPORTED',
      `transport 'zeromq' needs the package of that name, which is not here (or does not load): npm install zeromq@6`,
      { cause },
    )
  }
}

class ZeromqLink implements Link {
  onDrain = (): void => {}
  readonly #pair: Pair
  #busy = false

  constructor(pair: Pair) {
    pair.linger = 0
    this.#pair = pair
  }

  // It takes one message at a time.
  send(bytes: Uint8Array): number {
    if (this.#busy) return -1
    this.#busy = true
    this.#pair.send(bytes.length > MOST_POOLED ? bytes.slice() : bytes).then(
      () => {
        this.#busy = false
        this.onDrain()
      },
      () => {},
    )
    return 0
  }

  // It holds on to what it was given until that has gone out, up to its high-water mark of 1000 messages.
  pool(size: number): number {
    return size > MOST_POOLED ? 1 : 1001
  }

  receive(checker: Checker): void {
    const loop = async () => {
      for await (const [message] of this.#pair) checker.whole(message!)
    }
    loop().catch(() => {})
  }

  close(): void {
    this.#pair.close()
  }
}

export const zeromq: Transport = {
  async listen({ directory }) {
    const { Pair } = await loadZeromq()
    const pair = new Pair()
    await pair.bind(
      directory === null
        ? `tcp://${ownAddress(null)}:*`
        : `ipc://${join(directory, `zeromq-${process.pid}`)}`,
    )
    return { address: pair.lastEndpoint!, accept: async () => new ZeromqLink(pair), close: () => {} }
  },
  async connect(_site, address) {
    const { Pair } = await loadZeromq()
    const pair = new Pair()
    pair.connect(address)
    return new ZeromqLink(pair)
  },
}
