/** The processes and the directory of a bench: whatever happens, nothing of it stays. */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { VmringError } from '../../errors.js'
import { answering, daemonArguments, endProcess } from '../child-process.js'
import type { Note } from './job.js'
import type { Said, Start } from './worker.js'

const WORKER = fileURLToPath(new URL('./worker.js', import.meta.url))
const START_MS = 30_000
const GRACE_MS = 2000
const MAX_STDERR = 16 * 1024

export class Child {
  readonly process: ChildProcess
  readonly ended: Promise<void>
  readonly #name: string
  readonly #said: Said[] = []
  #stderr = ''
  #asker: (() => void) | null = null
  #error: Error | null = null
  /** set by whoever relays */
  onNote: (note: Note) => void = () => {}

  constructor(name: string, args: string[]) {
    this.#name = name
    this.process = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] })
    this.ended = new Promise((resolve) => {
      this.process.once('close', (code, signal) => {
        const why = signal ?? `exit code ${code}`
        const said = this.#stderr === '' ? '' : `:\n${this.#stderr.trimEnd()}`
        this.#fail(new Error(`the process for ${name} ended early (${why})${said}`))
        resolve()
      })
      this.process.once('error', (error) => {
        this.#fail(error)
        resolve()
      })
    })
    this.process.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-MAX_STDERR)
    })
    this.process.on('message', (said: Said) => {
      if (said.type === 'note') this.onNote(said.note)
      else if (said.type === 'failed') {
        const message = `${name}: ${said.message}`
        this.#fail(Object.assign(new Error(message), said.code !== undefined && { code: said.code }))
      } else {
        this.#said.push(said)
        this.#asker?.()
      }
    })
  }

  #fail(error: Error): void {
    this.#error ??= error
    this.#asker?.()
  }

  start(start: Start): void {
    this.process.send({ start })
  }

  note(note: Note): void {
    if (this.process.connected) this.process.send({ note }, () => {})
  }

  /** The next that it has to say; rejects when it fails, ends, or says nothing for so long. */
  async hear<T extends Said['type']>(type: T, timeout: number): Promise<Extract<Said, { type: T }>> {
    const timer = setTimeout(
      () =>
        this.#fail(
          new VmringError(
            'ERR_VMRING_TIMEOUT',
            `the process for ${this.#name} has not ended after ${timeout / 1000} s`,
          ),
        ),
      timeout,
    )
    try {
      for (;;) {
        const index = this.#said.findIndex((said) => said.type === type)
        if (index >= 0) return this.#said.splice(index, 1)[0] as Extract<Said, { type: T }>
        if (this.#error !== null) throw this.#error
        await new Promise<void>((resolve) => {
          this.#asker = resolve
        })
        this.#asker = null
      }
    } finally {
      clearTimeout(timer)
    }
  }

  end(): Promise<void> {
    return endProcess(this.process, this.ended, GRACE_MS)
  }
}

export class Crew {
  readonly directory = mkdtempSync(join(tmpdir(), 'vmring-bench-'))
  readonly #children = new Set<Child>()
  #daemon: Child | null = null
  #cleared: Promise<void> | null = null

  #add(name: string, args: string[]): Child {
    if (this.#cleared !== null) throw new Error('the bench is ending')
    return new Child(name, args)
  }

  /** The daemon of the bench alone; the address of its region. */
  async daemon(size: number, sections: number): Promise<string> {
    const socket = join(this.directory, 'host.sock')
    const options = ['--size', String(size), '--sections', String(sections)]
    const daemon = this.#add('the daemon', daemonArguments(socket, ...options))
    this.#daemon = daemon
    const failed = daemon.hear('ended', START_MS)
    failed.catch(() => {})
    await answering(socket, START_MS, () => daemon.process.exitCode !== null && failed)
    return `unix:${socket}`
  }

  start(name: string, start: Start): Child {
    const child = this.#add(name, [WORKER])
    this.#children.add(child)
    void child.ended.then(() => this.#children.delete(child))
    child.start(start)
    return child
  }

  /** Ends the workers, then the daemon, waits for them, and removes the directory. Once. */
  clear(): Promise<void> {
    this.#cleared ??= (async () => {
      await Promise.all([...this.#children].map((child) => child.end()))
      await this.#daemon?.end()
      rmSync(this.directory, { recursive: true, force: true })
    })()
    return this.#cleared
  }
}
