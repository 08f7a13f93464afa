// vmring itself on both sides: the daemon on the host, and the command line in the guests.
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { attach } from '../../src/index.js'
import type { Guest, Job, JobOptions } from '../../src/vm/index.js'

export const MiB = 1 << 20
const root = resolve(import.meta.dirname, '../..')
/** In guests as on the host: they see its files. */
export const cli = [process.execPath, join(root, 'dist/cli/main.js')]

/** `vmring host` as a process of its own. */
export class Daemon implements AsyncDisposable {
  readonly socket: string
  readonly #args: string[]
  #child!: ChildProcess
  #said = ''

  private constructor(socket: string, args: string[]) {
    this.socket = socket
    this.#args = args
  }

  static async start(socket: string, ...args: string[]): Promise<Daemon> {
    const daemon = new Daemon(socket, args)
    await daemon.start()
    return daemon
  }

  async start(): Promise<void> {
    const [node, main] = cli
    const child = spawn(node!, [main!, 'host', '--socket', this.socket, ...this.#args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#child = child
    for (const stream of [child.stdout, child.stderr]) {
      stream!.on('data', (chunk: Buffer) => {
        this.#said += chunk
      })
    }
    const until = Date.now() + 30_000
    while (!existsSync(`${this.socket}.admin`)) {
      if (child.exitCode !== null || Date.now() > until) throw new Error(`vmring host: ${this.#said}`)
      await sleep(20)
    }
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exit = once(this.#child, 'exit')
    this.#child.kill(signal)
    await exit
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.kill('SIGTERM')
  }
}

/** A file of random bytes that guests can read, and its checksum. */
export function randomFile(path: string, size: number): { path: string; sum: string } {
  const bytes = randomBytes(size)
  writeFileSync(path, bytes)
  return { path, sum: checksum(bytes) }
}

export function checksum(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

export interface Device {
  address: string
  interrupts: boolean
}

/** The ivshmem devices of a guest, by address. */
export async function devices(guest: Guest): Promise<Device[]> {
  const { stdout } = await guest.sh(
    `for d in /sys/bus/pci/devices/*; do
      read vendor < $d/vendor; read device < $d/device
      [ $vendor$device = 0x1af40x1110 ] || continue
      echo \${d##*/} $(sed -n 2p $d/resource)
    done`,
  )
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.split(' '))
    .map(([address, start]) => ({ address: address!, interrupts: Number(start) !== 0 }))
}

/** Binds one device to vfio-pci, or leaves it without a driver. */
export async function setDriver(guest: Guest, address: string, driver: 'vfio-pci' | ''): Promise<void> {
  await guest.sh(
    `d=/sys/bus/pci/devices/${address}
    [ ! -e $d/driver ] || echo ${address} > $d/driver/unbind
    echo ${driver === '' ? "''" : driver} > $d/driver_override
    [ -z '${driver}' ] || echo ${address} > /sys/bus/pci/drivers_probe`,
  )
}

/** `vmring` in a guest. */
export function vmring(guest: Guest, args: string[], options: JobOptions = {}): Job {
  return guest.start([...cli, ...args], { timeout: 120_000, ...options })
}

export interface CatStats {
  path: string
  seconds: number
  channel: Record<string, number>
  peer: Record<string, number>
}

/** Receives by `vmring cat --listen` in a guest; `sum` resolves when everything has come. */
export function receiver(guest: Guest, service: string, region: string) {
  const name = `${service}.json`
  const script = `${cli.join(' ')} cat -l -r ${region} --stats /job/${name} ${service} > /tmp/${service}
    sha256sum < /tmp/${service}; rm /tmp/${service}`
  const job = guest.start(['/bin/sh', '-ec', script], { timeout: 180_000 })
  return {
    job,
    sum: () => job.success().then(({ stdout }) => stdout.split(' ')[0]),
    stats: () => stats(guest, name),
  }
}

/** Sends a file by `vmring cat` from a guest. */
export function sender(guest: Guest, service: string, region: string, file: string) {
  const name = `${service}-sent.json`
  const script = `${cli.join(' ')} cat -r ${region} --stats /job/${name} ${service} < ${file}`
  const job = guest.start(['/bin/sh', '-ec', script], { timeout: 180_000 })
  return { job, done: () => job.success(), stats: () => stats(guest, name) }
}

function stats(guest: Guest, name: string): CatStats {
  return JSON.parse(readFileSync(join(guest.share, name), 'utf8'))
}

type Peer = Awaited<ReturnType<typeof attach>>

/** Waits until somebody listens under that name. */
export async function untilThere(peer: Peer, service: string, timeout = 150_000): Promise<void> {
  const until = Date.now() + timeout
  while (!peer.peers().some(({ services }) => services.includes(service))) {
    if (Date.now() > until) throw new Error(`nobody listens under ${service} after ${timeout} ms`)
    await sleep(20)
  }
}

/** The host as a peer of its own, for as long as `use` runs. */
export async function withHost<T>(region: string, use: (peer: Peer) => Promise<T>): Promise<T> {
  const peer = await attach({ region })
  try {
    return await use(peer)
  } finally {
    await peer.close()
  }
}
