/**
 * Processes for tests: every one has a deadline, is killed by its own pid when the test ends, and shows what it wrote to
 * standard error when something fails. Names, sockets and files live in fresh directories.
 */
import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterEach } from 'vitest'

export const root = resolve(import.meta.dirname, '../..')
export const cli = join(root, 'dist/cli/main.js')

/** What a step usually takes at most, in milliseconds, on a machine that does nothing else; deadlines are five times that. */
export const SLACK = 5

export interface Ended {
  code: number | null
  signal: NodeJS.Signals | null
}

export interface Output extends Ended {
  stdout: Buffer
  stderr: string
}

const running = new Set<Process>()
const directories = new Set<string>()

/** A directory that goes when the test ends. */
export function scratch(): string {
  const path = mkdtempSync(join(tmpdir(), 'vmring-test-'))
  directories.add(path)
  return path
}

/** The environment without what would lead a child to a region of somebody else, or into another test. */
export function environment(extra: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const { VMRING_REGION, VMRING_SOCKET, NODE_OPTIONS, ...rest } = process.env
  // whatever looks for a relay by itself must not find that of the machine that runs the tests
  return { ...rest, VMRING_RELAY: 'none', ...extra }
}

export interface StartOptions {
  env?: NodeJS.ProcessEnv
  cwd?: string
  /** how each of the three streams is connected; all pipes unless told */
  stdio?: SpawnOptions['stdio']
  execArgv?: string[]
  /** what the program is told that its name is */
  argv0?: string
}

export class Process {
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
  readonly #stdout: Buffer[] = []
  #stderr = ''

  constructor(command: string, args: string[], options: StartOptions = {}) {
    this.child = spawn(command, args, {
      env: environment(options.env),
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.argv0 === undefined ? {} : { argv0: options.argv0 }),
      stdio: options.stdio ?? 'pipe',
      serialization: 'advanced',
    })
    running.add(this)
    this.child.stdout?.on('data', (chunk: Buffer) => this.#stdout.push(chunk))
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-100_000)
    })
    this.child.stdin?.on('error', () => {})
    this.ended = new Promise((done, fail) => {
      this.child.once('error', fail)
      // 'close' comes when the streams have been read too
      this.child.once('close', (code, signal) => {
        running.delete(this)
        done({ code, signal })
      })
    })
    this.ended.catch(() => running.delete(this))
  }

  get pid(): number {
    return this.child.pid!
  }

  get alive(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null
  }

  get stderr(): string {
    return this.#stderr
  }

  get stdout(): Buffer {
    return Buffer.concat(this.#stdout)
  }

  signal(name: NodeJS.Signals): void {
    if (this.alive) this.child.kill(name)
  }

  /** Waits for the end. After the deadline the process is killed, and what it said is in the error. */
  async finish(deadline = 60_000): Promise<Output> {
    const ended = await within(this.ended, deadline, () => {
      this.signal('SIGKILL')
      return `process ${this.pid} did not end in time; standard error:\n${this.#stderr}`
    })
    return { ...ended, stdout: this.stdout, stderr: this.#stderr }
  }

  /** SIGTERM, then SIGKILL. A stopped process is continued first. */
  async stop(grace = 5000): Promise<void> {
    if (!this.alive) return
    this.signal('SIGCONT')
    this.signal('SIGTERM')
    const timer = setTimeout(() => this.signal('SIGKILL'), grace)
    await this.ended.catch(() => {})
    clearTimeout(timer)
  }
}

/** Node with a script. */
export function startNode(args: string[], options: StartOptions = {}): Process {
  return new Process(process.execPath, [...(options.execArgv ?? []), ...args], options)
}

/** `vmring …` */
export function startCli(args: string[], options: StartOptions = {}): Process {
  return startNode([cli, ...args], options)
}

/** `vmring …` from start to end. Standard input is empty unless given. */
export async function vmring(
  args: string[],
  options: StartOptions & { input?: Uint8Array; deadline?: number } = {},
): Promise<Output & { text: string }> {
  const process_ = startCli(args, options)
  process_.child.stdin?.end(options.input)
  const output = await process_.finish(options.deadline)
  return { ...output, text: output.stdout.toString('utf8') }
}

export interface Daemon {
  socket: string
  /** for attach() and --region */
  region: string
  process: Process
}

/** `vmring host` on a socket in a fresh directory; answers when this resolves. */
export async function startDaemon(args: string[] = [], directory = scratch()): Promise<Daemon> {
  const socket = join(directory, 'host.sock')
  const process_ = startCli(['host', '--socket', socket, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  await until(async () => {
    if (!process_.alive) throw new Error(`the daemon ended:\n${process_.stderr}`)
    return await answers(`${socket}.admin`)
  }, 20_000)
  return { socket, region: `unix:${socket}`, process: process_ }
}

export function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path)
    probe.on('connect', () => {
      probe.destroy()
      resolve(true)
    })
    probe.on('error', () => resolve(false))
  })
}

export const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

/** Rejects after `deadline` ms with the text. */
export async function within<T>(
  promise: Promise<T>,
  deadline: number,
  text: string | (() => string),
): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new Error(typeof text === 'string' ? text : text())), deadline)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

/** Waits until the condition holds, and says which one did not. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  deadline = 10_000,
  what = String(condition),
): Promise<void> {
  const end = Date.now() + deadline
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`not within ${deadline} ms: ${what}`)
    await sleep(20)
  }
}

/** Direct and indirect children of a process that are alive, by what /proc says. */
export function descendants(pid: number): number[] {
  const parents = new Map<number, number>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      const fields = readFileSync(`/proc/${name}/stat`, 'utf8')
        .replace(/^.*\) /, '')
        .split(' ')
      if (fields[0] !== 'Z') parents.set(Number(name), Number(fields[1]))
    } catch {
      // ended meanwhile
    }
  }
  const found = [pid]
  for (let i = 0; i < found.length; i++) {
    for (const [child, parent] of parents) if (parent === found[i]) found.push(child)
  }
  return found.slice(1)
}

export const exists = (pid: number) => existsSync(`/proc/${pid}/stat`)

process.on('exit', () => {
  for (const left of running) left.signal('SIGKILL')
})

afterEach(async () => {
  await Promise.all([...running].map((process_) => process_.stop()))
  for (const path of directories) rmSync(path, { recursive: true, force: true })
  directories.clear()
})
