import { createServer, type Server, type Socket } from 'node:net'
import type { Log } from './log.js'
import type { SocketFile } from './socket-file.js'

const MAX_LINE = 64 * 1024
const MAX_CONNECTIONS = 32
const IDLE_MS = 30_000

/** Answers one request; what it throws is sent back as an error. */
export type AdminHandler = (request: Record<string, unknown>) => unknown

/** An error with a stable code for whoever asked. */
export class AdminError extends Error {
  readonly code: string
  constructor(code: string, message: string) {
    super(message)
    this.code = code
  }
}

/**
 * The administration socket: one JSON object per line in, one per line out, in order:
 * `{"op":"status"}` → `{"ok":true,"result":{…}}` or `{"ok":false,"error":{"code":"…","message":"…"}}`.
 * Lines are at most 64 KiB, connections at most 32, silence at most 30 s.
 */
export class AdminServer {
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  readonly #handler: AdminHandler
  readonly #log: Log

  constructor(file: SocketFile, handler: AdminHandler, log: Log) {
    this.#handler = handler
    this.#log = log
    this.#server = createServer((socket) => this.#accept(socket))
    this.#server.on('error', (error) => log('warn', 'administration socket', { error: error.message }))
    this.#server.listen({ fd: file.fd })
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
  }

  #accept(socket: Socket): void {
    socket.on('error', () => socket.destroy())
    if (this.#sockets.size >= MAX_CONNECTIONS) {
      socket.write(reply(new AdminError('ERR_BUSY', 'too many connections to the administration socket')))
      socket.destroySoon()
      return
    }
    this.#sockets.add(socket)
    socket.on('close', () => this.#sockets.delete(socket))
    socket.setTimeout(IDLE_MS, () => socket.destroy())
    socket.on('drain', () => socket.resume())

    let parts: Buffer[] = []
    let length = 0
    socket.on('data', (chunk: Buffer) => {
      let rest = chunk
      for (;;) {
        const end = rest.indexOf(10)
        const piece = end === -1 ? rest : rest.subarray(0, end)
        length += piece.length
        if (length > MAX_LINE) {
          socket.removeAllListeners('data')
          socket.write(reply(new AdminError('ERR_LINE', 'a request is one line of at most 64 KiB')))
          socket.destroySoon()
          this.#log('warn', 'administration request too long')
          return
        }
        parts.push(piece)
        if (end === -1) return
        const line = Buffer.concat(parts).toString('utf8')
        parts = []
        length = 0
        rest = rest.subarray(end + 1)
        // An asker who does not read is not read from either.
        if (line.trim() !== '' && !socket.write(this.#answer(line))) {
          socket.pause()
          if (rest.length > 0) socket.unshift(rest)
          return
        }
      }
    })
  }

  #answer(line: string): string {
    try {
      const request: unknown = JSON.parse(line)
      if (typeof request !== 'object' || request === null || Array.isArray(request)) {
        throw new AdminError('ERR_REQUEST', 'a request is a JSON object with "op"')
      }
      return `${JSON.stringify({ ok: true, result: this.#handler(request as Record<string, unknown>) })}\n`
    } catch (error) {
      return reply(error as Error)
    }
  }
}

function reply(error: Error & { code?: string }): string {
  const code = error instanceof SyntaxError ? 'ERR_JSON' : (error.code ?? 'ERR_INTERNAL')
  return `${JSON.stringify({ ok: false, error: { code, message: error.message } })}\n`
}
