// The server is Redis itself, behind `vmring proxy --listen ioredis --to unix:…`.
import { randomUUID } from 'node:crypto'
import { AbstractConnector, Redis } from 'ioredis'
import { connect } from 'vmring/net'
import { patience, target } from './shared.mjs'

const connector = (at) =>
  class extends AbstractConnector {
    async connect() {
      this.stream = connect(at)
      return this.stream
    }
  }

export function open(path) {
  const at = target(path)
  const redis = new Redis({
    Connector: connector(at),
    retryStrategy: null,
    maxRetriesPerRequest: 0,
    ...(patience !== null && { connectTimeout: patience }),
  })
  // 'Connection is closed.' says no more; why it was stands in the event
  let why
  redis.on('error', (error) => {
    why ??= error
  })
  const told = (error) => {
    throw Object.assign(error, { cause: why })
  }
  const echo = async (bytes) => {
    const key = randomUUID()
    await redis.set(key, bytes)
    return redis.getBuffer(key)
  }
  return {
    echo: (bytes) => echo(bytes).catch(told),
    hang: () => redis.blpop('nothing', 0).catch(told),
    close: () => redis.disconnect(),
  }
}
