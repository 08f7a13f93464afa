// QEMU's machine protocol: one JSON object a line, answers by id, events in between.
import { within } from './errors.js'
import { LineSocket } from './lines.js'

export interface QmpEvent {
  event: string
  data?: Record<string, unknown>
}

interface Waiting {
  resolve(value: unknown): void
  reject(error: Error): void
}

export class Qmp {
  #socket!: LineSocket
  #next = 1
  #limit: number
  #waiting = new Map<number, Waiting>()
  #watching = new Set<{ matches(event: QmpEvent): boolean } & Waiting>()

  private constructor(limit: number) {
    this.#limit = limit
  }

  /** `limit`: ms until QEMU must greet; where that takes long, as in a guest inside a guest, answers may take long too. */
  static async open(path: string, limit: number, alive: () => boolean): Promise<Qmp> {
    const qmp = new Qmp(Math.max(10_000, limit / 4))
    qmp.#socket = await LineSocket.open(
      path,
      limit,
      alive,
      (line) => qmp.#line(line),
      () => qmp.#end(),
    )
    await qmp.command('qmp_capabilities', undefined, limit)
    return qmp
  }

  /** Rejects with QEMU's words, or when there is no answer within `limit` ms. */
  command(name: string, args?: Record<string, unknown>, limit = this.#limit): Promise<unknown> {
    if (this.#socket.closed) return Promise.reject(new Error(`${name}: QEMU is gone`))
    const id = this.#next++
    const answer = new Promise<unknown>((resolve, reject) => this.#waiting.set(id, { resolve, reject }))
    this.#socket.send(JSON.stringify({ execute: name, ...(args && { arguments: args }), id }))
    const late = () => new Error(`QEMU did not answer ${name} within ${limit / 1000} s`)
    return within(answer, limit, late).finally(() => this.#waiting.delete(id))
  }

  /** The next event of that name which passes the test. Ask before the command that causes it. */
  event(
    name: string,
    limit: number,
    test: (data: Record<string, unknown>) => boolean = () => true,
  ): Promise<QmpEvent> {
    let entry: ({ matches(event: QmpEvent): boolean } & Waiting) | undefined
    const seen = new Promise<unknown>((resolve, reject) => {
      entry = { matches: (event) => event.event === name && test(event.data ?? {}), resolve, reject }
      this.#watching.add(entry)
    })
    const late = () => new Error(`QEMU reported no ${name} within ${limit / 1000} s`)
    const result = within(seen as Promise<QmpEvent>, limit, late).finally(
      () => entry && this.#watching.delete(entry),
    )
    result.catch(() => {}) // the command may fail first; whoever awaits this still sees the rejection
    return result
  }

  close(): void {
    this.#socket.close()
  }

  #line(line: string): void {
    let message: { id?: number; return?: unknown; error?: { desc: string } } & Partial<QmpEvent>
    try {
      message = JSON.parse(line)
    } catch {
      return // the greeting of another protocol, or a line cut short at QEMU's death
    }
    if (message.event !== undefined) {
      for (const entry of this.#watching) if (entry.matches(message as QmpEvent)) entry.resolve(message)
    } else if (message.id !== undefined) {
      const waiting = this.#waiting.get(message.id)
      if (message.error) waiting?.reject(new Error(`QEMU: ${message.error.desc}`))
      else waiting?.resolve(message.return)
    }
  }

  #end(): void {
    const gone = new Error('QEMU is gone')
    for (const one of [...this.#waiting.values(), ...this.#watching]) one.reject(gone)
  }
}
