// A Unix socket that carries lines: QMP and the agent in the guest both speak so.
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

export class LineSocket {
  #socket: Socket
  #rest = ''
  closed = false

  private constructor(socket: Socket, onLine: (line: string) => void, onClose: () => void) {
    this.#socket = socket
    socket.setEncoding('utf8')
    socket.on('data', (text: string) => {
      const lines = (this.#rest + text).split('\n')
      this.#rest = lines.pop() ?? ''
      for (const line of lines) onLine(line.trimEnd())
    })
    socket.on('error', () => {}) // 'close' follows
    socket.on('close', () => {
      this.closed = true
      onClose()
    })
  }

  /** Connects to a socket that may not be there yet. `alive` false: its owner is dead, stop trying. */
  static async open(
    path: string,
    limit: number,
    alive: () => boolean,
    onLine: (line: string) => void,
    onClose: () => void,
  ): Promise<LineSocket> {
    const until = Date.now() + limit
    for (;;) {
      const socket = await attempt(path)
      if (socket instanceof Error) {
        if (!alive() || Date.now() > until) throw socket
        await sleep(20)
      } else {
        return new LineSocket(socket, onLine, onClose)
      }
    }
  }

  send(line: string): void {
    if (!this.closed) this.#socket.write(`${line}\n`)
  }

  close(): void {
    this.#socket.destroy()
  }
}

function attempt(path: string): Promise<Socket | Error> {
  return new Promise((resolve) => {
    const socket = connect(path)
    socket.once('connect', () => {
      socket.removeAllListeners()
      resolve(socket)
    })
    socket.once('error', resolve)
  })
}
