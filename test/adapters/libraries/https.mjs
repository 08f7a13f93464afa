import https from 'node:https'
import tls from 'node:tls'
import { connect, createServer } from 'vmring/net'
import { echo, httpClient, identity, patient, trust } from './shared.mjs'

export function serve(at) {
  const web = https.createServer({ ...patient, ...identity() }, echo)
  return new Promise((done) => createServer((socket) => web.emit('connection', socket)).listen(at, done))
}

export function open(at) {
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1 })
  agent.createConnection = (options) => tls.connect({ ...options, socket: connect(at) })
  return httpClient(agent, https.request, trust())
}
