import { Client } from 'undici'
import { connect } from 'vmring/net'

export { serve } from './http.mjs'

const connectTo = (at) => (_options, done) => {
  const socket = connect(at)
  socket.once('connect', () => done(null, socket)).once('error', done)
}

export function open(at) {
  const client = new Client('http://web', { connect: connectTo(at) })
  const post = async (path, body) => {
    const answer = await client.request({ method: 'POST', path, body })
    return answer.body.arrayBuffer()
  }
  return {
    echo: (bytes) => post('/echo', bytes),
    hang: () => post('/hang', 'x'),
    close: () => client.destroy(),
  }
}
