/** The libraries, and the error that each reports when its server dies in the middle of a request. */
import { type Backend, postgres, redis } from './backends.js'

export interface Library {
  name: string
  /** an ordinary server behind `vmring proxy`; without it server.mjs */
  backend?: () => Promise<Backend>
  /** the client has no hook: it runs under vmring/register, and connects to this address */
  mapped?: string
  error: Record<string, unknown>
}

const reset = { code: 'ECONNRESET' }

export const libraries: Library[] = [
  { name: 'http', error: reset },
  { name: 'https', error: reset },
  { name: 'http2', error: reset },
  { name: 'tls', error: reset },
  { name: 'undici', error: reset },
  { name: 'fastify', error: reset },
  { name: 'express', error: reset },
  // closed without a close frame
  { name: 'ws', error: { code: 1006 } },
  { name: 'socket.io', error: { message: 'transport close' } },
  { name: 'mqtt', error: reset },
  { name: 'grpc', mapped: '127.0.0.1:50051', error: { code: 14 } },
  { name: 'ioredis', backend: redis, error: { message: 'Connection is closed.' } },
  { name: 'pg', backend: postgres, error: { message: 'Connection terminated unexpectedly' } },
]
