import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'

const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const support = fileURLToPath(new URL('.', import.meta.url))

/** A directory of this test alone, removed when it ends. */
export function temporaryDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), 'vmring-host-'))
  onTestFinished(() => rmSync(path, { recursive: true, force: true }))
  return path
}

export type Line = Record<string, unknown> & { event?: string }

/** A child process that speaks JSON lines; ended with the test. */
export class Lines {
  readonly child: ChildProcess
  /** what it wrote to standard error so far */
  errors = ''
  readonly #waiting: ((line: Line | null) => void)[] = []
  readonly #lines: Line[] = []
  #ended = false

  constructor(command: string, args: string[], env: NodeJS.ProcessEnv = process.env) {
    this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env })
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.errors += text
    })
    // it may have ended when we tell it something
    this.child.stdin!.on('error', () => {})
    const lines = createInterface({ input: this.child.stdout! })
    lines.on('line', (line) =>
      this.#push(line.startsWith('{') ? (JSON.parse(line) as Line) : { event: line }),
    )
    lines.on('close', () => {
      this.#ended = true
      for (const waiting of this.#waiting.splice(0)) waiting(null)
    })
    onTestFinished(async () => {
      if (this.child.exitCode === null && this.child.signalCode === null) {
        this.child.kill('SIGKILL')
        await once(this.child, 'exit')
      }
    })
  }

  get pid(): number {
    return this.child.pid!
  }

  say(line: Record<string, unknown> | string): void {
    this.child.stdin!.write(typeof line === 'string' ? `${line}\n` : `${JSON.stringify(line)}\n`)
  }

  /** The next line. */
  async next(): Promise<Line> {
    const line =
      this.#lines.shift() ??
      (this.#ended ? null : await new Promise<Line | null>((resolve) => this.#waiting.push(resolve)))
    if (line === null) throw new Error(`${this.child.spawnargs.join(' ')} ended\n${this.errors}`)
    return line
  }

  /** The next line with this `event`; those before it are dropped. */
  async event(name: string): Promise<Line> {
    for (;;) {
      const line = await this.next()
      if (line.event === name) return line
    }
  }

  /** Says something and waits for the answer. */
  async ask(line: Record<string, unknown> | string, answer: string): Promise<Line> {
    this.say(line)
    return this.event(answer)
  }

  async exit(signal?: NodeJS.Signals): Promise<number | NodeJS.Signals | null> {
    if (signal) this.child.kill(signal)
    if (this.child.exitCode === null && this.child.signalCode === null) await once(this.child, 'exit')
    return this.child.exitCode ?? this.child.signalCode
  }

  #push(line: Line): void {
    const waiting = this.#waiting.shift()
    if (waiting) waiting(line)
    else this.#lines.push(line)
  }
}

export interface Daemon {
  process: Lines
  socket: string
  directory: string
  pid: number
}

/** `vmring host` as a process of its own, listening. */
export async function startDaemon(...args: string[]): Promise<Daemon> {
  const directory = temporaryDirectory()
  const socket = join(directory, 'host.sock')
  const process = hostProcess('--socket', socket, '--size', '4M', '--json', ...args)
  await process.event('listening')
  return { process, socket, directory, pid: process.pid }
}

export function hostProcess(...args: string[]): Lines {
  return new Lines(process.execPath, [cli, 'host', ...args])
}

/** The independent client; see ivshmem_peer.py. */
export function pythonPeer(mode: 'talk' | 'crowd' | 'churn', ...args: (string | number)[]): Lines {
  return new Lines('python3', [join(support, 'ivshmem_peer.py'), mode, ...args.map(String)])
}

/** The independent server; see ivshmem_server.py. */
export async function pythonServer(
  mode: string,
  ...args: (string | number)[]
): Promise<{ process: Lines; socket: string }> {
  const socket = join(temporaryDirectory(), 'server.sock')
  const process = new Lines('python3', [
    join(support, 'ivshmem_server.py'),
    socket,
    mode,
    ...args.map(String),
  ])
  await process.event('listening')
  return { process, socket }
}

export function openDescriptors(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length
}

/** Resident memory in MiB. */
export function residentMemory(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024
}

/** Polls until it holds; `what` is for the error. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  what: string,
  ms = 10_000,
): Promise<void> {
  const end = Date.now() + ms
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
