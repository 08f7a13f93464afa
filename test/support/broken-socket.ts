/** A Unix or virtio socket in front of another one that breaks what goes through it, at a byte that the test names. */
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { StreamAddress } from '../../src/native/socket-types.js'
import * as vsock from '../../src/vsock/index.js'

export interface Break {
  /** which way the bytes go that are counted */
  way: 'to' | 'from'
  /** so many go through whole, then it happens */
  at: number
  /** and, but for 'cut', again after so many bytes each; default never */
  every?: number
  /**
   * 'cut' ends the connection; 'split' lets a turn pass; 'stall' holds everything up for `ms`, and reads no further; 'delay' has
   * what is behind come `ms` later than what is before, and reads on
   */
  how: 'cut' | 'stall' | 'split' | 'delay'
  ms?: number
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))
const turn = (): Promise<void> => new Promise(setImmediate)

type Connection = net.Socket | vsock.Socket

export class BrokenSocket {
  /** what connects to this one instead of the target: a Unix socket before a Unix socket, a virtio socket before a virtio socket */
  address: StreamAddress
  /** of the connections to come, one each; when there is none left they are whole */
  readonly plans: Break[] = []
  /** bytes that have gone through, all connections together */
  readonly bytes = { to: 0, from: 0 }
  /** how often something was broken */
  breaks = 0
  readonly #folder = mkdtempSync(join(tmpdir(), 'vmring-broken-'))
  readonly #server: net.Server | vsock.Server
  readonly #open = new Set<Connection>()

  private constructor(target: StreamAddress) {
    const whole = { allowHalfOpen: true }
    if ('path' in target) {
      this.address = { path: join(this.#folder, 'socket') }
      this.#server = net.createServer(whole, (near) => this.#join(near, net.connect({ ...target, ...whole })))
    } else {
      this.address = target
      this.#server = vsock.createServer(whole, (near) =>
        this.#join(near, vsock.connect({ ...target, ...whole })),
      )
    }
  }

  static async before(target: StreamAddress): Promise<BrokenSocket> {
    const made = new BrokenSocket(target)
    const { address } = made
    const server = made.#server
    if (server instanceof vsock.Server) server.listen({ port: vsock.VMADDR_PORT_ANY })
    else server.listen(address)
    await once(server, 'listening')
    if ('cid' in address) made.address = { ...address, port: (server.address() as { port: number }).port }
    return made
  }

  #join(near: Connection, far: Connection): void {
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
      near.destroy()
      far.destroy()
    }
    void this.#carry(near, far, 'to', plan, cut)
    void this.#carry(far, near, 'from', plan, cut)
  }

  async #carry(
    from: Connection,
    to: Connection,
    way: 'to' | 'from',
    plan: Break | undefined,
    cut: () => void,
  ): Promise<void> {
    const {
      at,
      every,
      how,
      ms = 1,
    }: Break = plan?.way === way ? plan : { way, at: Number.POSITIVE_INFINITY, how: 'split' }
    let border = at
    let passed = 0
    // what has been read and is on its way
    let late = 0
    let line = Promise.resolve()
    const send = (bytes: Buffer): void => {
      if (bytes.length === 0 || to.destroyed) return
      this.bytes[way] += bytes.length
      to.write(bytes)
    }
    try {
      for await (const chunk of from as AsyncIterable<Buffer>) {
        const came = performance.now()
        for (let rest = chunk; rest.length > 0; ) {
          const piece = rest.subarray(0, Math.min(rest.length, border - passed))
          rest = rest.subarray(piece.length)
          passed += piece.length
          const due = came + late
          if (how === 'delay') line = line.then(() => sleep(due - performance.now())).then(() => send(piece))
          else send(piece)
          if (passed < border || rest.length === 0) continue
          this.breaks++
          border += every ?? Number.POSITIVE_INFINITY
          if (how === 'delay') late += ms
          else if (how === 'stall') await sleep(ms)
          // what has gone out is there before the end is
          else await turn()
          if (how !== 'cut') continue
          cut()
          return
        }
      }
      await line
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
