// One program in a guest. Its input and output are files in the guest's job folder, so they can be read while it runs
// and after QEMU has died.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { JobError, within } from './errors.js'

export interface JobOptions {
  /** ms until the job is killed and `done` rejects; default 2 minutes */
  timeout?: number
  env?: Record<string, string>
  /** folder inside the guest; default /job */
  cwd?: string
  /** standard input; default empty */
  input?: Buffer | string
}

export interface JobResult {
  /** exit code; 128 + number for a signal, as shells say it */
  code: number
  stdout: string
  stderr: string
}

/** What a guest offers its jobs. */
export interface JobHost {
  send(line: string): void
  console(): string
}

export class Job {
  /** Resolves at the end of the program, whatever its exit code; rejects when it ran too long or the guest went away. */
  readonly done: Promise<JobResult>
  /** process id inside the guest, once it has started */
  pid = 0
  #resolve!: (result: JobResult) => void
  #reject!: (error: Error) => void
  #ended = false

  constructor(
    readonly id: number,
    readonly title: string,
    /** the job's folder on the host: files stdin, stdout, stderr and run */
    readonly folder: string,
    private readonly host: JobHost,
    private readonly timeout: number,
  ) {
    const end = new Promise<JobResult>((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
    this.done = this.#limited(end)
    this.done.catch(() => {}) // a job that nobody awaits must not end the process; whoever does sees the rejection
  }

  get ended(): boolean {
    return this.#ended
  }

  stdout(): string {
    return this.#read('stdout')
  }

  stderr(): string {
    return this.#read('stderr')
  }

  /** Sends a signal to the program and all that it started. */
  kill(signal: 'TERM' | 'KILL' | 'INT' | 'STOP' | 'CONT' | 'USR1' = 'KILL'): void {
    this.host.send(`KILL ${this.id} ${signal}`)
  }

  /** Waits until the output matches; the match. Rejects when the job ends without it or after `timeout` ms. */
  async until(
    pattern: RegExp,
    timeout = 30_000,
    stream: 'stdout' | 'stderr' = 'stdout',
  ): Promise<RegExpExecArray> {
    const limit = Date.now() + timeout
    for (;;) {
      const ended = this.#ended
      const match = pattern.exec(this.#read(stream))
      if (match) return match
      if (ended) throw this.error(`${this.title} ended without ${pattern}`)
      if (Date.now() > limit)
        throw this.error(`${this.title} did not say ${pattern} within ${timeout / 1000} s`)
      await sleep(30)
    }
  }

  /** The result if the exit code is 0, else an error with all that was said. */
  async success(): Promise<JobResult> {
    const result = await this.done
    if (result.code !== 0) throw this.error(`${this.title} ended with code ${result.code}`, result.code)
    return result
  }

  error(message: string, code = -1): JobError {
    return new JobError(message, code, this.stdout(), this.stderr(), this.host.console())
  }

  /** @internal the agent says that it has ended */
  finish(code: number): void {
    this.#ended = true
    this.#resolve({ code, stdout: this.stdout(), stderr: this.stderr() })
  }

  /** @internal the guest was reset or died */
  lose(why: string): void {
    if (this.#ended) return
    this.#ended = true
    this.#reject(this.error(`${this.title}: ${why}`))
  }

  async #limited(end: Promise<JobResult>): Promise<JobResult> {
    return within(end, this.timeout, () => {
      this.#ended = true
      this.kill('KILL')
      return this.error(`${this.title} did not end within ${this.timeout / 1000} s`)
    })
  }

  #read(name: string): string {
    try {
      return readFileSync(join(this.folder, name), 'utf8')
    } catch {
      return ''
    }
  }
}

/** Text for a POSIX shell that means exactly this string. */
export function quote(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`
}

export function jobScript(argv: string[], options: JobOptions): string {
  const lines = ['#!/bin/sh', `cd ${quote(options.cwd ?? '/job')} || exit 126`]
  for (const [name, value] of Object.entries(options.env ?? {})) lines.push(`export ${name}=${quote(value)}`)
  lines.push(`exec ${argv.map(quote).join(' ')}`, '')
  return lines.join('\n')
}
