// The server is PostgreSQL itself, behind `vmring proxy --listen pg --to unix:…`.
import pg from 'pg'
import { Socket } from 'vmring/net'

class Stream extends Socket {
  constructor(at) {
    super()
    this.at = at
  }

  connect() {
    return super.connect(this.at)
  }
}

export async function open(at) {
  const client = new pg.Client({ user: 'me', database: 'postgres', stream: () => new Stream(at) })
  client.on('error', () => {})
  await client.connect()
  const echo = async (bytes) => (await client.query('select $1::bytea as bytes', [bytes])).rows[0].bytes
  return { echo, hang: () => client.query('select pg_sleep(600)'), close: () => client.end() }
}
