// The server is Redis itself, behind `vmring proxy --listen ioredis --to unix:…`.
import { randomUUID } from 'node:crypto'
import { AbstractConnector, Redis } from 'ioredis'
import { connect } from 'vmring/net'

const connector = (at) =>
  class extends AbstractConnector {
    async connect() {
      this.stream = connect(at)
      return this.stream
    }
  }

export function open(at) {
  const redis = new Redis({ Connector: connector(at), retryStrategy: null, maxRetriesPerRequest: 0 })
  redis.on('error', () => {})
  const echo = async (bytes) => {
    const key = randomUUID()
    await redis.set(key, bytes)
    return redis.getBuffer(key)
  }
  return { echo, hang: () => redis.blpop('nothing', 0), close: () => redis.disconnect() }
}
