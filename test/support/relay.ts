import { randomBytes } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { type Line, Lines } from './host.js'

const script = fileURLToPath(new URL('relay_client.py', import.meta.url))

/** The independent relay client; see relay_client.py. */
export function pythonRelay(mode: 'churn' | 'echo', ...args: (string | number)[]): Lines {
  return new Lines('python3', [script, mode, ...args.map(String)])
}

/** 'UUID:INCARNATION' of a process that nobody has heard of */
export const somebody = () => `${randomBytes(16).toString('hex')}:${randomBytes(4).readUInt32LE() || 1}`

/** One Python process with any number of connections, each with its events in order. */
export class Talk {
  readonly #lines = new Lines('python3', [script, 'talk'])
  readonly #kept: Line[] = []

  /** @param uid the user that the kernel is to see; the own one unless given */
  async connect(id: string, path: string, uid?: number): Promise<void> {
    this.#lines.say({ op: 'connect', id, path, ...(uid !== undefined && { uid }) })
    await this.next(id, 'connected')
  }

  do(op: string, id: string, more: Record<string, unknown> = {}): void {
    this.#lines.say({ op, id, ...more })
  }

  frame(id: string, type: string | number, fields: Record<string, unknown> = {}): void {
    this.do('frame', id, { type, ...fields })
  }

  /** The next event of this connection, which must be the one named; what has come for others is kept for them. */
  async next(id: string, event?: string): Promise<Line> {
    const at = this.#kept.findIndex((line) => line.id === id)
    let line = at === -1 ? undefined : this.#kept.splice(at, 1)[0]!
    while (line === undefined) {
      const found = await this.#lines.next()
      if (found.id === id) line = found
      else this.#kept.push(found)
    }
    // the daemon asks whoever has been silent for a while; nobody who waits for something else means that
    if (event !== undefined && event !== 'PING' && line.event === 'PING') return this.next(id, event)
    if (event !== undefined && line.event !== event)
      throw new Error(`${id}: ${event} was to come, and this came: ${JSON.stringify(line)}`)
    return line
  }

  /** The connection ends, in whatever way: a reset is as good as an end. */
  async over(id: string): Promise<void> {
    const { event } = await this.next(id)
    if (event !== 'end' && event !== 'closed') throw new Error(`${id}: an end was to come, not ${event}`)
  }

  /** A control connection that has been welcomed; the name is its id. */
  async hello(id: string, path: string, peer: string, uid?: number): Promise<Line> {
    await this.connect(id, path, uid)
    this.frame(id, 'HELLO', { peer })
    return this.next(id, 'WELCOME')
  }

  async listen(id: string, service: string): Promise<void> {
    this.frame(id, 'LISTEN', { service })
    await this.next(id, 'OK')
  }

  async dial(id: string, path: string, fields: Record<string, unknown>, uid?: number): Promise<void> {
    await this.connect(id, path, uid)
    this.frame(id, 'DIAL', fields)
  }

  async take(id: string, path: string, fields: Record<string, unknown>, uid?: number): Promise<void> {
    await this.connect(id, path, uid)
    this.frame(id, 'TAKE', fields)
  }

  /** Sends and expects it at the other connection. */
  async carry(from: string, to: string, text: string): Promise<void> {
    const hex = Buffer.from(text).toString('hex')
    this.do('send', from, { hex })
    const found = await this.next(to, 'data')
    if (found.hex !== hex) throw new Error(`${to} got ${JSON.stringify(found)}`)
  }
}
