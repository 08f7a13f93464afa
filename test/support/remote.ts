/**
 * A peer in a process of its own. Tests hand it functions; they run there, so they may use their parameters only:
 *
 *   const reader = await remote<State>()
 *   await reader.run(async ({ vmring, state }, region) => { state.peer = await vmring.attach({ region }) }, region)
 */

import type { once } from 'node:events'
import { join } from 'node:path'
import { Process, root, type StartOptions, within } from './processes.js'

export interface RemoteContext<State> {
  vmring: typeof import('../../src/index.js')
  once: typeof once
  /** survives from one function to the next */
  state: State
  sleep(ms: number): Promise<void>
  /** reaches the test through next() */
  tell(note: unknown): void
}

/** An error from the other process: the same message and code. */
export interface RemoteError extends Error {
  code?: string
}

interface Answer {
  id?: number
  value?: unknown
  error?: { message: string }
  note?: unknown
  crash?: { message: string }
}

export class Remote<State> extends Process {
  readonly #calls = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>()
  readonly #notes: unknown[] = []
  #wanting: (() => void)[] = []
  #count = 0
  /** what nobody handled there, if anything */
  crash: Error | null = null

  constructor(options: StartOptions = {}) {
    super(
      process.execPath,
      ['--expose-gc', ...(options.execArgv ?? []), join(root, 'test/support/peer.mjs')],
      { ...options, stdio: ['ignore', 'inherit', 'pipe', 'ipc'] },
    )
    this.child.on('message', (answer: Answer) => this.#hear(answer))
    void this.ended
      .catch(() => {})
      .then(() => {
        const why = this.crash ?? new Error(`process ${this.pid} is gone:\n${this.stderr}`)
        for (const call of this.#calls.values()) call.reject(why)
        this.#calls.clear()
        for (const wake of this.#wanting.splice(0)) wake()
      })
  }

  /** Runs a function there and brings its result back. */
  run<A extends unknown[], R>(
    work: (context: RemoteContext<State>, ...args: A) => R | Promise<R>,
    ...args: A
  ): Promise<Awaited<R>> {
    return this.start(work, args, 60_000)
  }

  /** As run(), with a deadline of one's own. */
  start<A extends unknown[], R>(
    work: (context: RemoteContext<State>, ...args: A) => R | Promise<R>,
    args: A,
    deadline: number,
  ): Promise<Awaited<R>> {
    const id = this.#count++
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#calls.set(id, { resolve, reject })
    })
    if (!this.alive || !this.child.connected)
      return Promise.reject(this.crash ?? new Error('the process is gone'))
    this.child.send({ id, source: String(work), args })
    return within(
      answer,
      deadline,
      () => `no answer within ${deadline} ms from:\n${work}\n${this.stderr}`,
    ) as Promise<Awaited<R>>
  }

  /** The next thing that was told there. */
  async next<T = unknown>(deadline = 30_000): Promise<T> {
    while (this.#notes.length === 0) {
      if (!this.alive) throw this.crash ?? new Error(`process ${this.pid} is gone:\n${this.stderr}`)
      const news = new Promise<void>((resolve) => this.#wanting.push(resolve))
      await within(
        news,
        deadline,
        () => `nothing told within ${deadline} ms; standard error:\n${this.stderr}`,
      )
    }
    return this.#notes.shift() as T
  }

  #hear({ id, value, error, note, crash }: Answer): void {
    if (crash !== undefined) this.crash = Object.assign(new Error(crash.message), crash)
    else if (id === undefined) {
      this.#notes.push(note)
      for (const wake of this.#wanting.splice(0)) wake()
    } else {
      const call = this.#calls.get(id)
      this.#calls.delete(id)
      if (error === undefined) call?.resolve(value)
      else call?.reject(Object.assign(new Error(error.message), error))
    }
  }
}

export async function remote<State = Record<string, never>>(
  options: StartOptions = {},
): Promise<Remote<State>> {
  const peer = new Remote<State>(options)
  await peer.next()
  return peer
}
