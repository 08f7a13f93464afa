/** A MessagePort between two threads of one process. It has no bound of its own: the receiver says how far it is. */
import type { MessagePort } from 'node:worker_threads'
import type { Checker } from './content.js'
import type { Acceptor, Link, Transport } from './link.js'

const WINDOW_BYTES = 8 * 1024 * 1024
const MAX_WINDOW = 1024

class PortLink implements Link {
  onDrain = (): void => {}
  readonly #port: MessagePort
  readonly #window: number
  #ahead = 0
  #taken = 0
  #checker: Checker | null = null

  constructor(port: MessagePort, size: number) {
    this.#port = port
    this.#window = Math.max(2, Math.min(MAX_WINDOW, Math.floor(WINDOW_BYTES / size)))
    port.on('message', (message: Uint8Array | number) => {
      if (typeof message === 'number') {
        this.#ahead -= message
        this.onDrain()
        return
      }
      this.#checker?.whole(message)
      if (++this.#taken < this.#window / 2) return
      port.postMessage(this.#taken)
      this.#taken = 0
    })
  }

  send(bytes: Uint8Array): number {
    if (this.#ahead >= this.#window) return -1
    this.#ahead++
    this.#port.postMessage(bytes)
    return 1
  }

  pool(): number {
    return 1
  }

  receive(checker: Checker): void {
    this.#checker = checker
  }

  close(): void {
    this.#port.close()
  }
}

export function messagePort(port: MessagePort): Transport {
  return {
    listen: async ({ job }): Promise<Acceptor> => ({
      address: '',
      accept: async () => new PortLink(port, job.size),
      close: () => {},
    }),
    connect: async ({ job }) => new PortLink(port, job.size),
  }
}
