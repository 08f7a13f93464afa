/** Frames over a byte stream. Each payload is copied once into the inbox. */
import type { NativeStream } from '../native/types.js'
import type { Wire, WireEvents } from './pump.js'
import { FrameReader } from './relay-frames.js'

export class StreamWire implements Wire {
  readonly name: string
  readonly reliable = true
  events: WireEvents | null = null
  readonly #stream: NativeStream
  readonly #reader = new FrameReader(1 << 24)

  constructor(stream: NativeStream, options: { name: string; buffered?: Uint8Array }) {
    this.#stream = stream
    this.name = options.name
    const chunk = new Uint8Array(65536)
    if (options.buffered) this.#reader.push(options.buffered)
    stream.start({
      onRead: (n) => {
        this.#reader.push(chunk.subarray(0, n))
        this.#deliver()
      },
      onEnd: () => this.#lost(new Error('the other side closed')),
      onDrain: () => this.events?.onWritable(),
      onClose: (error) => this.#lost(error ?? new Error('closed')),
    })
    queueMicrotask(() => {
      this.#deliver()
      stream.readInto(chunk)
    })
    stream.unref()
  }
  #deliver(): void {
    for (;;) {
      const frame = this.#reader.next()
      if (frame === null) return
      this.events?.onFrame(frame)
    }
  }
  #lost(error: Error): void {
    this.#stream.close()
    this.events?.onLost(error)
  }
  send(head: Uint8Array, payload: Uint8Array | null): boolean {
    return this.#stream.write(payload === null ? [head] : [head, payload]) === 0
  }
  close(): void {
    this.#stream.close()
  }
}
