/** What is known about one other process: the paths to it, and the services it listens under. */
import { encodeFrame, type Frame, FrameType } from '../path/frames.js'
import type { Path, PeerRef } from '../path/path.js'
import { Repeat, type Timing } from './repeat.js'
import type { Session } from './session.js'

const MAX_SERVICES = 4096

export class Remote {
  readonly ref: PeerRef
  readonly key: string
  readonly paths: Path[] = []
  /** in regions of former daemons, of a process that has left the later one: they prove nothing any more */
  readonly outlived = new Set<Path>()
  readonly services = new Set<string>()
  readonly sessions = new Set<Session>()
  /** when it last told all its services, by performance.now(); 0: not yet */
  toldAt = 0
  /** when it last accepted or refused a channel, by performance.now() */
  answeredAt = 0
  /** 'cid:3' or 'uid:1000' by the relay's word; once known it cannot change */
  origin: string | null = null
  /** a path to it is being made */
  reaching: Promise<void> | null = null
  readonly #hello: Repeat
  #parts: { serial: number; names: (string[] | undefined)[] } | null = null

  constructor(ref: PeerRef, key: string, timing: Timing) {
    this.ref = ref
    this.key = key
    this.#hello = new Repeat(timing)
  }

  get known(): boolean {
    return this.toldAt > 0
  }

  get stalled(): boolean {
    return this.paths.every((path) => path.stalled)
  }

  /** No path is left, or none that says anything about now. */
  get unreachable(): boolean {
    return this.paths.every((path) => this.outlived.has(path))
  }

  /** It has left there, or the path is lost. Leaving a region is final for the regions before it. */
  drop(path: Path, left: boolean): void {
    const at = this.paths.indexOf(path)
    if (at < 0) return
    this.paths.splice(at, 1)
    this.outlived.delete(path)
    const newest = this.paths.findIndex(({ name }) => name === path.name) >= at
    if (left && newest) for (const one of this.paths) if (one.name === path.name) this.outlived.add(one)
  }

  /** In the region where it is reached now. */
  get section(): number {
    return (this.livePath()?.remote ?? this.ref).section
  }

  /** First living path, but not `except`. */
  livePath(except: Path | null = null): Path | null {
    return this.paths.find((path) => !path.lost && path !== except) ?? null
  }

  pathNamed(name: string): Path | null {
    return this.paths.find((path) => !path.lost && path.name === name) ?? null
  }

  pathNames(): string[] {
    return [...new Set(this.paths.filter((path) => !path.lost).map((path) => path.name))]
  }

  send(frame: Uint8Array): void {
    this.livePath()?.send(frame)
  }

  /** Asks for the services, until they are told. */
  greet(): void {
    this.#hello.start(() => this.send(encodeFrame({ type: FrameType.HELLO })))
  }

  /** Asks once more, unless an answer is awaited already: it tells as much, and a wire that is slow is not flooded. */
  remind(): void {
    if (!this.#hello.running) this.greet()
  }

  /** True when the set of services may have changed. */
  onHelloAck(frame: Frame): boolean {
    const { part, services } = frame
    if (part === undefined || services === undefined) return false
    if (part.count < 1 || part.count > MAX_SERVICES || part.index >= part.count) return false
    if (this.#parts?.serial !== part.serial || this.#parts.names.length !== part.count) {
      this.#parts = { serial: part.serial, names: new Array(part.count).fill(undefined) }
    }
    this.#parts.names[part.index] = services
    if (this.#parts.names.includes(undefined)) return false
    this.services.clear()
    for (const names of this.#parts.names) for (const name of names!) this.#add(name)
    this.#parts = null
    this.toldAt = performance.now()
    this.#hello.stop()
    return true
  }

  onAnnounce(service: string): void {
    this.#add(service)
  }

  #add(name: string): void {
    if (this.services.size < MAX_SERVICES) this.services.add(name)
  }

  stop(): void {
    this.#hello.stop()
  }
}

/** HELLO_ACK frames that together list all services. */
export function helloAcks(services: Iterable<string>, serial: number, maxFrame: number): Uint8Array[] {
  const groups: string[][] = [[]]
  let room = maxFrame - 64
  for (const name of services) {
    const bytes = Buffer.byteLength(name) + 8
    if (bytes > room) {
      groups.push([])
      room = maxFrame - 64
    }
    groups.at(-1)!.push(name)
    room -= bytes
  }
  return groups.map((names, index) =>
    encodeFrame({
      type: FrameType.HELLO_ACK,
      part: { serial, index, count: groups.length },
      services: names,
    }),
  )
}
