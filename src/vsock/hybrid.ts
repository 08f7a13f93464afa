import { VmringError } from '../errors.js'
import { type Address, addressText } from './address.js'

/**
 * The line protocol of Firecracker and Cloud Hypervisor for connections from the host (Firecracker docs/vsock.md,
 * "Host-Initiated Connections"): the host writes `CONNECT PORT\n` and reads `OK HOSTPORT\n`; from there on the connection
 * is the guest's. When nobody listens in the guest the monitor closes it.
 */

/** The longest valid answer has 14 bytes. */
const MOST_BYTES = 32

export const connectLine = (port: number) => Buffer.from(`CONNECT ${port}\n`)

export interface Accepted {
  /** what the monitor calls the host's end */
  hostPort: number
  /** what the guest has said already: copied, at most a few bytes */
  rest: Buffer
}

/** Collects the answer, and keeps whatever was read behind it. */
export class Reply {
  readonly #bytes = Buffer.alloc(MOST_BYTES)
  #length = 0

  get target(): Uint8Array {
    return this.#bytes.subarray(this.#length)
  }

  get empty(): boolean {
    return this.#length === 0
  }

  /** `length` more bytes stand in `target`. */
  read(length: number): Accepted | 'more' | 'wrong' {
    this.#length += length
    const bytes = this.#bytes.subarray(0, this.#length)
    const end = bytes.indexOf(0x0a)
    if (end < 0 && this.#length < MOST_BYTES) return 'more'
    const line = bytes.toString('latin1', 0, end < 0 ? bytes.length : end)
    const hostPort = Number(/^OK (\d{1,10})$/.exec(line)?.[1] ?? Number.NaN)
    if (end < 0 || !(hostPort <= 0xffffffff)) return 'wrong'
    return { hostPort, rest: bytes.subarray(end + 1) }
  }

  /** ERR_VMRING_VSOCK_HANDSHAKE with what came instead. */
  fault(at: Address): VmringError {
    const said = JSON.stringify(this.#bytes.toString('latin1', 0, this.#length))
    return new VmringError(
      'ERR_VMRING_VSOCK_HANDSHAKE',
      `${addressText(at)}: the answer to CONNECT was ${said}, not OK; see that uds is the vsock socket of Firecracker or Cloud Hypervisor`,
      { syscall: 'connect', details: { port: at.port } },
    )
  }
}
