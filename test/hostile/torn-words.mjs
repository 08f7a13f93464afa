// What the writer writes and the reader finds, for each way to decode a message.

/** versions that can be told apart */
export const VERSIONS = 3 * 1024
/** where the clock begins again */
export const ROUND = VERSIONS * 500_000

/** words of eight bytes that change, in each message */
export const LENGTHS = { text: 8, 'long text': 1024, json: 8, clone: 8 }

const table = (word) => {
  const bytes = new Uint8Array(VERSIONS * 8)
  for (let version = 0; version < VERSIONS; version++) {
    const encoded = Buffer.from(word(version), 'utf8')
    if (encoded.length !== 8) throw new Error(`${word(version)} has ${encoded.length} bytes`)
    bytes.set(encoded, version * 8)
  }
  return bytes
}
const digits = (version) => String(10_000 + version)
/** eight, four or two characters: a decoder that has measured one and writes the other would write too much */
const texts = table((version) => {
  if (version % 3 === 0) return `abc${digits(version)}`
  const [a, b] = [version >> 6, version & 63]
  if (version % 3 === 1) return String.fromCodePoint(0x400, 0x400 + a, 0x400 + b, 0x401)
  return String.fromCodePoint(0x10000 + a, 0x10000 + b)
})
const values = table(
  (version) => [`,10${digits(version)}`, `,"${digits(version)}"`, `,[${digits(version)}]`][version % 3],
)
const strings = table((version) => `abc${digits(version)}`)
export const FORMS = { text: texts, 'long text': texts, json: values, clone: strings }

/** The message before anything changes: its bytes, where the words begin, how many. */
export function frameOf(kind, encode) {
  const count = LENGTHS[kind]
  const words = Buffer.concat(Array(count).fill(Buffer.from(FORMS[kind].subarray(0, 8))))
  if (kind === 'json')
    return { bytes: Buffer.concat([Buffer.from('["stars"'), words, Buffer.from(']       ')]), from: 8, count }
  if (kind !== 'clone') return { bytes: words, from: 0, count }
  // a first string as long as it takes for the second to begin at a whole word
  for (let length = 0; length < 8; length++) {
    const bytes = Buffer.from(encode(['x'.repeat(length), words.toString()]))
    const from = bytes.indexOf(words)
    if (from % 8 === 0)
      return { bytes: Buffer.concat([bytes, Buffer.alloc((8 - (bytes.length % 8)) % 8)]), from, count }
  }
  throw new Error('no place for a string at a whole word')
}

/** The versions in what was decoded; throws when it is not made of words that somebody wrote. */
export const versionsIn = {
  text(text, found) {
    for (let at = 0; at < text.length; ) {
      const code = text.charCodeAt(at)
      let version
      if (code < 0x80) {
        version = Number(text.slice(at + 3, at + 8)) - 10_000
        at += 8
      } else if (code < 0x800) {
        version = ((text.charCodeAt(at + 1) - 0x400) << 6) | (text.charCodeAt(at + 2) - 0x400)
        at += 4
      } else {
        version = ((text.codePointAt(at) - 0x10000) << 6) | (text.codePointAt(at + 2) - 0x10000)
        at += 4
      }
      found.push(version)
    }
  },
  json(value, found) {
    if (value[0] !== 'stars') throw new Error('the beginning has changed')
    for (let i = 1; i < value.length; i++) {
      const one = value[i]
      found.push(
        typeof one === 'number' ? one - 1_010_000 : Number(Array.isArray(one) ? one[0] : one) - 10_000,
      )
    }
  },
  clone([, text], found) {
    for (let at = 0; at < text.length; at += 8) found.push(Number(text.slice(at + 3, at + 8)) - 10_000)
  },
}
versionsIn['long text'] = versionsIn.text
