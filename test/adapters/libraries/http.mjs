import http from 'node:http'
import { connect, createServer } from 'vmring/net'
import { echo, httpClient, patient, target } from './shared.mjs'

export function serve(at) {
  const web = http.createServer(patient, echo)
  return new Promise((done) => createServer((socket) => web.emit('connection', socket)).listen(at, done))
}

export function open(path) {
  const at = target(path)
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  agent.createConnection = () => connect(at)
  return httpClient(agent)
}
