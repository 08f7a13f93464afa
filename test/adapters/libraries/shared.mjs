// What several libraries share: certificates, and an echo over node:http.
import { readFileSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'

const pem = (name) => readFileSync(join(process.env.CERTIFICATES, name))
export const identity = () => ({ key: pem('key.pem'), cert: pem('cert.pem') })
export const trust = () => ({ ca: pem('cert.pem'), servername: 'web' })

/** The address as connect() takes it; PATIENCE is how many ms to wait for a server and its answers, if not as usual. */
export const patience = process.env.PATIENCE === undefined ? null : Number(process.env.PATIENCE)
export const target = (path) => (patience === null ? path : { path, wait: patience })

/** For servers: a busy machine may leave a connection alone for long. */
export const patient = { keepAliveTimeout: 120_000 }

/** A listener of requests: gives the body back, or never answers. */
export function echo(question, answer) {
  if (question.url === '/hang') question.resume()
  else question.pipe(answer)
}

/** A connection by an agent. */
export function httpClient(agent, send = request, more = {}) {
  const post = (path, body) =>
    new Promise((resolve, reject) => {
      const question = send({ method: 'POST', host: 'web', path, agent, ...more })
      question.on('response', (answer) => buffer(answer).then(resolve, reject)).on('error', reject)
      question.setHeader('content-type', 'application/octet-stream')
      question.end(body)
    })
  return {
    echo: (bytes) => post('/echo', bytes),
    hang: () => post('/hang', 'x'),
    close: () => agent.destroy(),
  }
}
