// The areas of a region by docs/protocol.md, sections 1 to 8, and the lies that are written there. Numbers stand here once more
// on purpose: a scribbler that asked the code where things are would believe its mistakes.

/** splitmix32: small, seeded, the same everywhere; below(n) is a number from 0 to n − 1 */
export class Random {
  #state
  constructor(seed) {
    this.#state = seed >>> 0
  }
  next() {
    this.#state = (this.#state + 0x9e3779b9) >>> 0
    let z = this.#state
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad)
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97)
    return (z ^ (z >>> 15)) >>> 0
  }
  below(limit) {
    return Math.floor((this.next() / 2 ** 32) * limit)
  }
  oneIn(n) {
    return this.below(n) === 0
  }
  pick(list) {
    return list[this.below(list.length)]
  }
}

export const AREAS = [
  'header',
  'table',
  'identity',
  'bells',
  'control',
  'indices',
  'records',
  'descriptors',
  'payloads',
]

const CONTROL_STRIDE = 128 + 32 * 64
const READER_BLOCK = 768

export class Liar {
  #random
  #words
  #geometry
  #sizes
  /** rings that members have told of: { section, ringOffset, capacity, readerOffset } */
  #rings = []
  /** what stood in a word earlier */
  #seen = new Map()
  lies = 0

  constructor(buffer, random) {
    this.#random = random
    this.#words = new Uint32Array(buffer)
    const count = this.#words[16]
    const offset = Math.ceil((4096 + 128 * count) / 4096) * 4096
    const size = Math.floor((buffer.byteLength - offset) / count / 4096) * 4096
    const control = 1024 + 256 * count
    this.#geometry = { count, offset, size, control, heap: control + CONTROL_STRIDE * count }
    this.#sizes = [0, 32, 48, 64, 256, 1024, 4096, 2 ** 27 - 1, 2 ** 30, 2 ** 31, 2 ** 32]
    this.#sizes.push(buffer.byteLength, offset, size, this.#geometry.heap, count)
  }

  /** Somebody has told of a ring. */
  ring(offer) {
    this.#rings.push(offer)
    this.#sizes.push(offer.capacity)
    if (this.#rings.length > 8) this.#rings.shift()
    if (this.#sizes.length > 32) this.#sizes.splice(16, 1)
  }

  lie(area) {
    const at = this.#place(area)
    if (at === null) return
    this.lies++
    const word = at >>> 2
    const whole = this.#random.oneIn(3)
    const from = whole ? word & ~1 : word
    for (let i = from; i <= (whole ? word | 1 : word); i++) this.#words[i] = this.#value(area, i)
  }

  #section(section) {
    return this.#geometry.offset + section * this.#geometry.size
  }

  #place(area) {
    const { below } = this
    const { count, size, control, heap } = this.#geometry
    const section = this.#section(below(count))
    const ring = this.#random.pick(this.#rings)
    const base = ring === undefined ? 0 : this.#section(ring.section)
    switch (area) {
      case 'header':
        return below(this.#random.oneIn(8) ? 4096 : 192)
      case 'table':
        return 4096 + below(count * 128)
      case 'identity':
        return section + below(1024)
      case 'bells':
        return section + 1024 + below(256 * count)
      case 'control':
        return section + control + below(CONTROL_STRIDE * count)
      case 'indices':
        if (ring === undefined) return null
        if (this.#random.oneIn(4)) return base + ring.ringOffset + below(16)
        return base + ring.readerOffset + below(this.#random.oneIn(2) ? 24 : READER_BLOCK)
      case 'records':
        return ring === undefined
          ? null
          : this.#record(base + ring.ringOffset + 128, ring.capacity, [1, 2, 3, 4, 5, 6])
      case 'descriptors': {
        if (ring === undefined) return null
        if (this.#random.oneIn(8)) return base + ring.readerOffset + 256 + below(512)
        const at = this.#record(base + ring.ringOffset + 128, ring.capacity, [3])
        return at === null ? null : at + 8 + below(24)
      }
      case 'payloads':
        if (ring === undefined || this.#random.oneIn(2)) return section + heap + below(size - heap)
        return base + ring.ringOffset + 128 + below(ring.capacity)
      default:
        throw new Error(`no area ${area}`)
    }
  }

  below = (limit) => this.#random.below(limit)

  /** Where something stands that looks like the header of a record of such a kind. */
  #record(data, capacity, kinds) {
    let at = this.below(capacity) & ~7
    for (let i = 0; i < 256; i++, at = (at + 8) % capacity) {
      const low = this.#words[(data + at) >>> 2]
      if (kinds.includes(low >>> 28) && (low & 0x7ffffff) <= capacity / 2) return data + at
    }
    return null
  }

  #value(area, word) {
    const now = this.#words[word]
    const seen = this.#seen.get(word)
    if (seen === undefined || this.#random.oneIn(4)) {
      if (this.#seen.size > 4096) this.#seen.clear()
      this.#seen.set(word, now)
    }
    switch (this.below(area === 'records' ? 9 : 7)) {
      case 0:
        return this.#random.next()
      case 1:
      case 2:
        return this.#random.pick(this.#sizes) + this.below(3) - 1
      case 3:
        return seen ?? 0
      case 4:
        return now ^ (1 << this.below(32))
      case 5:
        return now + 8 - 16 * this.below(2)
      case 6:
        return now + this.below(3) - 1
      default: // a header of another kind and length, its sequence number is right
        return (
          ((1 + this.below(7)) << 28) |
          (this.below(2) << 27) |
          (this.below(2) ? this.below(256) : this.below(65536))
        )
    }
  }
}
