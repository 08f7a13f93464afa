import { once } from 'node:events'
import http from 'node:http'
import { Server } from 'socket.io'
import { io } from 'socket.io-client'
import { connect, createServer } from 'vmring/net'

export function serve(at) {
  const web = http.createServer()
  new Server(web, { maxHttpBufferSize: 2 ** 24 }).on('connection', (socket) => {
    socket.on('echo', (bytes, answer) => answer(bytes))
  })
  return new Promise((done) => createServer((socket) => web.emit('connection', socket)).listen(at, done))
}

export async function open(at) {
  const agent = new http.Agent()
  agent.createConnection = () => connect(at)
  const socket = io('http://web', { agent, transports: ['websocket'], forceNew: true, reconnection: false })
  await new Promise((done, fail) => socket.on('connect', done).on('connect_error', fail))
  const hang = async () => {
    socket.emit('hang')
    const [reason] = await once(socket, 'disconnect')
    throw new Error(reason)
  }
  return { echo: (bytes) => socket.emitWithAck('echo', bytes), hang, close: () => socket.close() }
}
