import fastify from 'fastify'
import { createServer } from 'vmring/net'
import { patient } from './shared.mjs'

export { open } from './http.mjs'

export async function serve(at) {
  const app = fastify({ ...patient, bodyLimit: 2 ** 24 })
  app.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
  app.post('/echo', (request, reply) => reply.send(request.body))
  app.post('/hang', () => new Promise(() => {}))
  await app.ready()
  await new Promise((done) =>
    createServer((socket) => app.server.emit('connection', socket)).listen(at, done),
  )
}
