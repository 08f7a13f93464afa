/** A Unix socket in front of another one that breaks what goes through it, at a byte that the test names. */
import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface Break {
  /** which way the bytes go that are counted */
  way: 'to' | 'from'
  /** so many go through whole, then it happens */
  at: number
  /** 'cut' ends the connection; 'stall' holds everything up for `ms`; 'split' sends each byte from there on by itself, a turn apart */
  how: 'cut' | 'stall' | 'split'
  ms?: number
}

export class BrokenSocket {
  readonly path: string
  /** of the connections to come, one each; when there is none left they are whole */
  readonly plans: Break[] = []
  /** bytes that have gone through, all connections together */
  readonly bytes = { to: 0, from: 0 }
  cuts = 0
  readonly #folder = mkdtempSync(join(tmpdir(), 'vmring-broken-'))
  readonly #server: net.Server
  readonly #open = new Set<net.Socket>()

  private constructor(target: string) {
    this.path = join(this.#folder, 'socket')
    this.#server = net.createServer({ allowHalfOpen: true }, (near) => this.#join(near, target))
  }

  static async before(target: string): Promise<BrokenSocket> {
    const made = new BrokenSocket(target)
    await new Promise<void>((resolve) => made.#server.listen(made.path, resolve))
    return made
  }

  #join(near: net.Socket, target: string): void {
    const far = net.connect({ path: target, allowHalfOpen: true })
    const plan = this.plans.shift()
    for (const socket of [near, far]) {
      this.#open.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => {
        this.#open.delete(socket)
        near.destroy()
        far.destroy()
      })
    }
    const cut = () => {
      this.cuts++
      near.destroy()
      far.destroy()
    }
    void this.#carry(near, far, 'to', plan, cut)
    void this.#carry(far, near, 'from', plan, cut)
  }

  async #carry(
    from: net.Socket,
    to: net.Socket,
    way: 'to' | 'from',
    plan: Break | undefined,
    cut: () => void,
  ): Promise<void> {
    const broken = plan?.way === way ? plan : undefined
    let passed = 0
    const send = (bytes: Buffer): void => {
      if (bytes.length === 0 || to.destroyed) return
      this.bytes[way] += bytes.length
      to.write(bytes)
    }
    try {
      for await (const chunk of from as AsyncIterable<Buffer>) {
        const left =
          broken === undefined ? chunk.length : Math.min(chunk.length, Math.max(0, broken.at - passed))
        send(chunk.subarray(0, left))
        const reached = broken !== undefined && passed <= broken.at && passed + chunk.length > broken.at
        passed += chunk.length
        if (reached && broken.how === 'cut') {
          // what has gone out is there before the end is
          await new Promise(setImmediate)
          cut()
          return
        }
        if (reached && broken.how === 'stall')
          await new Promise((resolve) => setTimeout(resolve, broken.ms ?? 1))
        const rest = chunk.subarray(left)
        if (broken?.how !== 'split') send(rest)
        else
          for (let at = 0; at < rest.length; at++) {
            send(rest.subarray(at, at + 1))
            await new Promise(setImmediate)
          }
      }
      to.end()
    } catch {
      // the other direction has ended it
    }
  }

  close(): void {
    this.#server.close()
    for (const socket of this.#open) socket.destroy()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
