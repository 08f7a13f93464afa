/**
 * Host names and ports of connect() are checked and resolved by node:net itself, with everything that it emits on the way: a socket
 * of node:net connects to a handle that goes nowhere, and tells ours what it has found.
 */
import net from 'node:net'
import type { ConnectOptions } from './internals.js'

const EVENTS = ['lookup', 'connectionAttempt'] as const

class Nowhere {
  readonly #onAddress: (address: string, port: number) => void
  reading = false
  onread: unknown

  constructor(onAddress: (address: string, port: number) => void) {
    this.#onAddress = onAddress
  }

  connect(_request: unknown, address: string, port: number): number {
    this.#onAddress(address, port)
    return 0
  }

  connect6(request: unknown, address: string, port: number): number {
    return this.connect(request, address, port)
  }

  bind(): number {
    return 0
  }

  bind6(): number {
    return 0
  }

  readStart(): number {
    return 0
  }

  readStop(): number {
    return 0
  }

  ref(): void {}

  unref(): void {}

  close(done: () => void): void {
    setImmediate(done)
  }
}

/** Throws what node:net says of the options. A failed look-up destroys `socket`. */
export function probe(
  socket: net.Socket,
  options: ConnectOptions,
  signal: AbortSignal,
  onAddress: (address: string, port: number) => void,
): void {
  const scout = new net.Socket({
    handle: new Nowhere((address, port) => {
      onAddress(address, port)
      process.nextTick(() => scout.destroy())
    }),
    manualStart: true,
  } as net.SocketConstructorOpts)
  for (const name of EVENTS) scout.on(name, (...values: unknown[]) => socket.emit(name, ...values))
  scout.on('error', (error) => socket.destroy(error))
  signal.addEventListener('abort', () => scout.destroy(), { once: true })
  // a second address would be tried over a handle that leads somewhere
  const { connect } = net.Socket.prototype as unknown as { connect(options: ConnectOptions): void }
  connect.call(scout, { ...options, autoSelectFamily: false })
}
