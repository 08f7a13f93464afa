/**
 * Message ports that go along with a message of channel.port(), as comlink's callbacks do. The port itself stays in its process; its
 * messages travel on the same channel, each marked with the number of the port:
 *
 *     message of channel.port()         what v8.serialize() made; begins with 0xFF
 *     the same, with ports              0x01, 16 random bytes, what v8 made: there the bytes, then u32 number, stand for a port
 *     message of a port                 0x02 or 0x03, u32 number, one of the two above
 *     a port was closed                 0x04 or 0x05, u32 number
 *
 * Each side numbers the ports that it sends: 0x02 and 0x04 are about ports that whoever sends the message has numbered, 0x03 and
 * 0x05 about ports of the receiver. Little-endian.
 */
import { randomBytes } from 'node:crypto'
import { DefaultDeserializer, DefaultSerializer, deserialize } from 'node:v8'
import { MessageChannel, MessagePort } from 'node:worker_threads'
import { VmringError } from '../errors.js'

/** what v8.serialize() writes first */
const V8 = 0xff
const WITH_PORTS = 1
const MESSAGE = 2
const CLOSED = 4
/** added to the two above: the number is one of the receiver's */
const YOURS = 1
const NONCE_BYTES = 16
const HEADER_BYTES = 5
/** at a time, and of each side */
const MAX_PORTS = 4096

interface Relay {
  readonly port: MessagePort
  readonly number: number
  readonly mine: boolean
}

export class PortTransfer {
  readonly #send: (bytes: Uint8Array) => void
  readonly #mine = new Map<number, Relay>()
  readonly #theirs = new Map<number, Relay>()
  #next = 0

  constructor(send: (bytes: Uint8Array) => void) {
    this.#send = send
  }

  /** The bytes of a value, in which ports out of `allowed` may be (null: any). Throws what v8 throws for what cannot be cloned. */
  encode(value: unknown, allowed: ReadonlySet<unknown> | null): Uint8Array {
    const writer = new Writer(allowed, this.#next, MAX_PORTS - this.#mine.size)
    writer.writeHeader()
    writer.writeValue(value)
    const body = writer.releaseBuffer()
    if (writer.ports.length === 0) return body
    for (const port of writer.ports) this.#relay(port, this.#next++, true)
    return Buffer.concat([Buffer.of(WITH_PORTS), writer.nonce, body])
  }

  /** The value of a message, or undefined: it was one of a port and is dealt with. Throws when the bytes are none of the forms. */
  decode(bytes: Uint8Array): { value: unknown; ports: MessagePort[] } | undefined {
    const ports: MessagePort[] = []
    const kind = bytes[0] ?? 0
    if (kind === WITH_PORTS || kind === V8) return { value: this.#value(bytes, ports), ports }
    if (kind < MESSAGE || kind > (CLOSED | YOURS) || bytes.length < HEADER_BYTES)
      throw new Error('no message of a port')
    const number = new DataView(bytes.buffer, bytes.byteOffset).getUint32(1, true)
    const relay = ((kind & YOURS) === 0 ? this.#theirs : this.#mine).get(number)
    // closed here, and the other side does not know yet
    if (relay === undefined) return undefined
    if (kind >= CLOSED) {
      this.#forget(relay)
      relay.port.close()
      return undefined
    }
    const inside = bytes.subarray(HEADER_BYTES)
    relay.port.postMessage(this.#value(inside, ports), ports)
    return undefined
  }

  close(): void {
    for (const relay of [...this.#mine.values(), ...this.#theirs.values()]) {
      this.#forget(relay)
      relay.port.close()
    }
  }

  #value(bytes: Uint8Array, ports: MessagePort[]): unknown {
    if (bytes[0] !== WITH_PORTS) return deserialize(bytes)
    const nonce = Buffer.from(bytes.subarray(1, 1 + NONCE_BYTES))
    const reader = new Reader(bytes.subarray(1 + NONCE_BYTES), nonce, (number) => {
      const known = this.#theirs.get(number)
      if (known !== undefined || this.#theirs.size >= MAX_PORTS)
        throw new VmringError('ERR_VMRING_PROTOCOL', 'the other side sent a port twice, or too many')
      const { port1, port2 } = new MessageChannel()
      this.#relay(port1, number, false)
      ports.push(port2)
      return port2
    })
    reader.readHeader()
    return reader.readValue()
  }

  #relay(port: MessagePort, number: number, mine: boolean): void {
    const relay: Relay = { port, number, mine }
    ;(mine ? this.#mine : this.#theirs).set(number, relay)
    gone.add(port)
    port.on('message', (value) => {
      try {
        this.#send(this.#about(relay, MESSAGE, this.encode(value, null)))
      } catch {
        // as a MessagePort does with what does not arrive: nothing
      }
    })
    port.on('close', () => {
      if (this.#forget(relay)) this.#send(this.#about(relay, CLOSED, new Uint8Array(0)))
    })
    // the channel decides whether the process goes on
    port.unref()
  }

  #forget({ number, mine }: Relay): boolean {
    return (mine ? this.#mine : this.#theirs).delete(number)
  }

  #about({ number, mine }: Relay, kind: number, rest: Uint8Array): Uint8Array {
    const bytes = Buffer.alloc(HEADER_BYTES + rest.length)
    bytes[0] = kind | (mine ? 0 : YOURS)
    bytes.writeUInt32LE(number, 1)
    bytes.set(rest, HEADER_BYTES)
    return bytes
  }
}

// v8's documentation has the two methods that are called for host objects, its types do not
const SerializerWithHosts = DefaultSerializer as unknown as new () => DefaultSerializer & {
  _writeHostObject(object: unknown): void
}
const DeserializerWithHosts = DefaultDeserializer as unknown as new (
  bytes: Uint8Array,
) => DefaultDeserializer & { _readHostObject(): unknown }

/** Ports that have gone to another process: they can go once only. */
const gone = new WeakSet<MessagePort>()

class Writer extends SerializerWithHosts {
  readonly nonce = randomBytes(NONCE_BYTES)
  readonly ports: MessagePort[] = []
  readonly #allowed: ReadonlySet<unknown> | null
  readonly #first: number
  readonly #room: number

  constructor(allowed: ReadonlySet<unknown> | null, first: number, room: number) {
    super()
    this.#allowed = allowed
    this.#first = first
    this.#room = room
  }

  /** Called for what v8 does not know: views of buffers, and ports. */
  override _writeHostObject(port: unknown): void {
    if (!(port instanceof MessagePort) || this.#allowed?.has(port) === false || gone.has(port)) {
      super._writeHostObject(port)
      return
    }
    if (this.ports.length === this.#room)
      throw new RangeError(`more than ${MAX_PORTS} ports of this channel are open`)
    const mark = Buffer.alloc(NONCE_BYTES + 4)
    this.nonce.copy(mark)
    mark.writeUInt32LE(this.#first + this.ports.length, NONCE_BYTES)
    this.ports.push(port)
    super._writeHostObject(mark)
  }
}

class Reader extends DeserializerWithHosts {
  readonly #nonce: Buffer
  readonly #take: (number: number) => MessagePort

  constructor(bytes: Uint8Array, nonce: Buffer, take: (number: number) => MessagePort) {
    super(bytes)
    this.#nonce = nonce
    this.#take = take
  }

  override _readHostObject(): unknown {
    const object = super._readHostObject()
    const isMark =
      Buffer.isBuffer(object) &&
      object.length === NONCE_BYTES + 4 &&
      object.compare(this.#nonce, 0, NONCE_BYTES, 0, NONCE_BYTES) === 0
    return isMark ? this.#take((object as Buffer).readUInt32LE(NONCE_BYTES)) : object
  }
}
