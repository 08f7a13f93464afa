import { once } from 'node:events'
import http2 from 'node:http2'
import { buffer } from 'node:stream/consumers'
import { connect, createServer } from 'vmring/net'
import { echo } from './shared.mjs'

export function serve(at) {
  const web = http2.createServer(echo)
  return new Promise((done) => createServer((socket) => web.emit('connection', socket)).listen(at, done))
}

export async function open(at) {
  const session = http2.connect('http://web', { createConnection: () => connect(at) })
  await once(session, 'connect')
  session.on('error', () => {})
  const post = (path, body) => {
    const stream = session.request({ ':method': 'POST', ':path': path })
    stream.end(body)
    return buffer(stream)
  }
  return {
    echo: (bytes) => post('/echo', bytes),
    hang: () => post('/hang', 'x'),
    close: () => session.destroy(),
  }
}
