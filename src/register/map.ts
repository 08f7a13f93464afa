/**
 * VMRING_MAP: which addresses of a program lead to which services, 'ADDRESS=SERVICE' separated by commas:
 *
 *     /tmp/app.sock=orders,127.0.0.1:6379=cache,localhost:3000=web,*:8080=metrics
 *
 * An address is a path (it begins with '/' or '.') or HOST:PORT, and is compared as the program writes it: 'localhost' and
 * '127.0.0.1' are two addresses. IPv6 addresses stand in brackets; '*' is every host. A program that names no host means
 * localhost when it connects and every address when it listens: entries for localhost, 0.0.0.0, [::] and * match.
 * A backslash takes ',', '=', '\' and spaces at the ends of a name literally. Spaces around entries do not count.
 */
import { VmringError } from '../errors.js'
import type { NetAddress } from '../net/address.js'
import { MAX_TEXT_BYTES } from '../path/frames.js'

export interface MapEntry {
  /** a path, or 'host:port' in lower case */
  readonly address: string
  readonly service: string
}

const MAX_TEXT = 64 * 1024
const MAX_ENTRIES = 1024
const HOST_PORT = /^(?:\[([0-9a-f:.%\w]+)\]|([^:[\]/\s]*)):(\d{1,5})$/i
/** hosts that a program means which names none */
const UNNAMED = ['*', 'localhost', '0.0.0.0', '::']

export class AddressMap {
  readonly entries: readonly MapEntry[]
  readonly #services: ReadonlyMap<string, string>

  constructor(entries: readonly MapEntry[]) {
    this.entries = entries
    this.#services = new Map(entries.map(({ address, service }) => [address, service]))
  }

  /** The service for an address, or null. */
  lookup({ path, port, host }: NetAddress): string | null {
    if (path !== undefined) return this.#services.get(path) ?? null
    if (port === undefined) return null
    for (const name of host === undefined ? UNNAMED : [host.toLowerCase(), '*']) {
      const service = this.#services.get(`${name}:${port}`)
      if (service !== undefined) return service
    }
    return null
  }
}

/** Throws ERR_VMRING_MAP with `column`, counted from 1. */
export function parseMap(text: string): AddressMap {
  if (text.length > MAX_TEXT) throw wrong(MAX_TEXT, `a map has at most ${MAX_TEXT} characters`)
  const entries = new Map<string, MapEntry>()
  let at = 0
  while (at < text.length) {
    const address = token(text, at, ',=')
    if (text[address.end] !== '=') {
      if (address.text !== '')
        throw wrong(address.end, `'=' and the name of a service are missing after ${quoted(address.text)}`)
      if (address.end < text.length || entries.size > 0)
        throw wrong(address.end, 'an entry is empty: take the comma away, or write ADDRESS=SERVICE')
      break
    }
    const service = token(text, address.end + 1, ',=')
    if (text[service.end] === '=')
      throw wrong(service.end, "a second '='; one that belongs to a name is written '\\='")
    const key = addressKey(address.text, address.start)
    const bytes = Buffer.byteLength(service.text)
    if (bytes === 0 || bytes > MAX_TEXT_BYTES)
      throw wrong(service.start, `the name of a service has 1 to ${MAX_TEXT_BYTES} bytes, this one ${bytes}`)
    if (entries.has(key)) throw wrong(address.start, `${quoted(address.text)} stands in the map already`)
    if (entries.size === MAX_ENTRIES) throw wrong(address.start, `a map has at most ${MAX_ENTRIES} entries`)
    entries.set(key, { address: key, service: service.text })
    if (service.end === text.length - 1)
      throw wrong(service.end, 'an entry is empty: take the comma away, or write ADDRESS=SERVICE')
    at = service.end + 1
  }
  return new AddressMap([...entries.values()])
}

interface Token {
  text: string
  /** where its first character is, and where what follows it is */
  start: number
  end: number
}

/** Up to one of `stops` or the end; without spaces around it. */
function token(source: string, from: number, stops: string): Token {
  let start = from
  while (start < source.length && isSpace(source[start]!)) start++
  let text = ''
  // characters of `text` that are there to stay: all but spaces at the end
  let kept = 0
  let end = start
  for (; end < source.length && !stops.includes(source[end]!); end++) {
    const escaped = source[end] === '\\'
    if (escaped && ++end === source.length) throw wrong(end - 1, "a '\\' stands before nothing")
    const letter = source[end]!
    if (letter === '\0') throw wrong(end, 'a zero character is part of no name')
    text += letter
    if (escaped || !isSpace(letter)) kept = text.length
  }
  return { text: text.slice(0, kept), start, end }
}

const isSpace = (letter: string) => letter === ' ' || letter === '\t' || letter === '\n' || letter === '\r'

function addressKey(text: string, column: number): string {
  if (/^[/.]/.test(text)) return text
  const match = HOST_PORT.exec(text)
  if (match === null)
    throw wrong(
      column,
      `${quoted(text)} is no address: write HOST:PORT, [IPV6]:PORT, or a path that begins with '/'`,
    )
  const host = (match[1] ?? match[2]!).toLowerCase()
  const port = Number(match[3])
  if (host === '') throw wrong(column, `${quoted(text)} names no host; '*:${port}' is every host`)
  if (port < 1 || port > 65_535) throw wrong(column, `${quoted(text)}: a port is a number from 1 to 65535`)
  return `${host}:${port}`
}

/** `index` from 0 */
function wrong(index: number, what: string): VmringError {
  const column = index + 1
  return new VmringError('ERR_VMRING_MAP', `VMRING_MAP, column ${column}: ${what}`, { details: { column } })
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 80)}…` : text)
}
