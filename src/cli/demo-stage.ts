/** What `vmring demo` puts into the world and takes out of it again. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { answering, daemonArguments, endProcess } from './child-process.js'
import type { Note } from './demo-child.js'

const START_MS = 15_000
const GRACE_MS = 1500
const MAX_STDERR = 16 * 1024

interface Child {
  name: string
  process: ChildProcess
  /** resolves when it has ended */
  ended: Promise<void>
  stderr: string
}

/** Everything that the demo puts into the world: processes and one directory. */
export class Stage {
  readonly directory = mkdtempSync(join(tmpdir(), 'vmring-demo-'))
  readonly failure: Promise<never>
  readonly #ending = new AbortController()
  readonly #children: Child[] = []
  readonly #undo: (() => Promise<void>)[] = []
  #fail!: (error: Error) => void
  #cleared: Promise<void> | null = null

  constructor() {
    this.failure = new Promise((_resolve, reject) => {
      this.#fail = reject
    })
    this.failure.catch(() => {})
  }

  get clearing(): boolean {
    return this.#cleared !== null
  }

  /** aborted when it is being cleared */
  get ending(): AbortSignal {
    return this.#ending.signal
  }

  fail(error: Error): void {
    this.#fail(error)
  }

  /** Something else that has to be ended. */
  add(undo: () => Promise<void>): void {
    if (this.clearing) void undo()
    else this.#undo.push(undo)
  }

  /** Starts the daemon and waits for its answer; the socket. */
  async daemon(...args: string[]): Promise<string> {
    const socket = join(this.directory, 'demo.sock')
    this.start('daemon', daemonArguments(socket, ...args))
    await answering(socket, START_MS)
    return socket
  }

  start(name: string, args: string[]): Child {
    if (this.clearing) throw new Error('the demo is ending')
    const process_ = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] })
    const child: Child = { name, process: process_, stderr: '', ended: Promise.resolve() }
    child.ended = new Promise((done) => {
      process_.once('exit', () => done())
      process_.once('error', () => done())
    })
    process_.stderr!.setEncoding('utf8').on('data', (text: string) => {
      child.stderr = (child.stderr + text).slice(-MAX_STDERR)
    })
    process_.once('error', (error) => this.#fail(error))
    process_.once('exit', (code, signal) => {
      if (this.clearing || (code === 0 && name === 'sender')) return
      const said = child.stderr === '' ? '' : `:\n${child.stderr.trimEnd()}`
      this.#fail(new Error(`the ${name} ended early (${signal ?? `exit code ${code}`})${said}`))
    })
    process_.on('message', (note: Note) => {
      if (note.type !== 'failed') return
      this.#fail(Object.assign(new Error(`the ${name} failed: ${note.message}`), { code: note.code }))
    })
    this.#children.push(child)
    return child
  }

  /** The next note of that type; rejects when anything on the stage fails. */
  hear<T extends Note['type']>(child: Child, type: T): Promise<Extract<Note, { type: T }>> {
    const note = new Promise<Extract<Note, { type: T }>>((resolve) => {
      child.process.on('message', (note: Note) => {
        if (note.type === type) resolve(note as Extract<Note, { type: T }>)
      })
    })
    return Promise.race([note, this.failure])
  }

  /** Ends the processes, the daemon last, waits for them, and removes the directory. Once. */
  clear(): Promise<void> {
    this.#cleared ??= (async () => {
      this.#ending.abort()
      const [daemon, ...others] = this.#children
      await Promise.all([...others.map(end), ...this.#undo.map((undo) => undo())])
      if (daemon !== undefined) await end(daemon)
      rmSync(this.directory, { recursive: true, force: true })
    })()
    return this.#cleared
  }
}

function end({ process, ended }: Child): Promise<void> {
  return endProcess(process, ended, GRACE_MS)
}
