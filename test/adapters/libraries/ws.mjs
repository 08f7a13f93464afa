import { once } from 'node:events'
import http from 'node:http'
import { connect, createServer } from 'vmring/net'
import { WebSocket, WebSocketServer } from 'ws'
import { target } from './shared.mjs'

export function serve(at) {
  const web = http.createServer()
  new WebSocketServer({ server: web }).on('connection', (socket) => {
    socket.on('message', (bytes) => String(bytes) !== 'hang' && socket.send(bytes)).on('error', () => {})
  })
  return new Promise((done) => createServer((socket) => web.emit('connection', socket)).listen(at, done))
}

export async function open(path) {
  const at = target(path)
  const socket = new WebSocket('ws://web', { createConnection: () => connect(at) })
  await once(socket, 'open')
  const ask = async (message) => {
    const answer = once(socket, 'message')
    socket.send(message)
    return (await answer)[0]
  }
  const hang = async () => {
    socket.send('hang')
    const [code] = await once(socket, 'close')
    throw Object.assign(new Error('closed'), { code })
  }
  return { echo: ask, hang, close: () => socket.terminate() }
}
