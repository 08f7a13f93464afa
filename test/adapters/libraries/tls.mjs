import { once } from 'node:events'
import tls from 'node:tls'
import { connect, createServer } from 'vmring/net'
import { identity, trust } from './shared.mjs'

export function serve(at) {
  const server = tls.createServer(identity(), (socket) => socket.on('error', () => {}).pipe(socket))
  return new Promise((done) => createServer((socket) => server.emit('connection', socket)).listen(at, done))
}

export async function open(at) {
  const socket = tls.connect({ socket: connect(at), ...trust() })
  await once(socket, 'secureConnect')
  const echo = (bytes) =>
    new Promise((resolve, reject) => {
      const chunks = []
      let left = bytes.length
      const more = (chunk) => {
        chunks.push(chunk)
        left -= chunk.length
        if (left > 0) return
        socket.off('data', more).off('error', reject)
        resolve(Buffer.concat(chunks))
      }
      socket.on('data', more).on('error', reject).write(bytes)
    })
  return { echo, hang: () => once(socket, 'close'), close: () => socket.destroy() }
}
