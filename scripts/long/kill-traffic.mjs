// Numbered, checksummed messages, and who checks them: for the processes of the killer.
import { crc32 } from 'node:zlib'

const HEAD = 12
export const now = () => Number(process.hrtime.bigint() / 1000n) / 1000 // ms of the machine's own clock, the same in every process

/** u32 whose, u32 number, u32 checksum, then bytes that follow from both. */
export function message(whose, number, length) {
  const bytes = Buffer.alloc(Math.max(HEAD, length), (whose * 31 + number * 7) & 255)
  bytes.writeUInt32LE(whose, 0)
  bytes.writeUInt32LE(number, 4)
  bytes.writeUInt32LE((crc32(bytes.subarray(HEAD)) ^ number) >>> 0, 8)
  return bytes
}

/** { whose, number }, or null when a byte is not as it was sent. */
export function read(view) {
  if (view.length < HEAD) return null
  const bytes = Buffer.from(view.buffer, view.byteOffset, view.length)
  const number = bytes.readUInt32LE(4)
  return bytes.readUInt32LE(8) === (crc32(bytes.subarray(HEAD)) ^ number) >>> 0
    ? { whose: bytes.readUInt32LE(0), number }
    : null
}

/** One channel's inbox: whole messages, 0, 1, 2, …, and nothing else. Some stay lent, and must still say the same later. */
export class Inbox {
  whose = null
  received = 0
  wrong = 0
  #kept = []
  take(found, keep) {
    const one = read(found.copy())
    if (one === null || one.number !== this.received || (this.whose !== null && this.whose !== one.whose))
      this.wrong++
    this.whose ??= one?.whose ?? null
    this.received++
    if (keep && this.#kept.length < 3 && this.received % 16 === 1)
      this.#kept.push({ found: found.retain(), number: this.received - 1 })
  }
  /** What was kept is looked at once more and given back. */
  letGo() {
    for (const { found, number } of this.#kept.splice(0)) {
      if (read(found.view)?.number !== number) this.wrong++
      found.release()
    }
  }
}
