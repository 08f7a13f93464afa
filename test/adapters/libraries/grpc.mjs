import grpc from '@grpc/grpc-js'
import { createServer } from 'vmring/net'

const bytes = {
  requestSerialize: (b) => b,
  requestDeserialize: (b) => b,
  responseSerialize: (b) => b,
  responseDeserialize: (b) => b,
}
const unary = (path) => ({ path, requestStream: false, responseStream: false, ...bytes })
const definition = { echo: unary('/test.Echo/echo'), hang: unary('/test.Echo/hang') }
const limits = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 }

export function serve(at) {
  const server = new grpc.Server(limits)
  server.addService(definition, { echo: ({ request }, done) => done(null, request), hang: () => {} })
  const injector = server.createConnectionInjector(grpc.ServerCredentials.createInsecure())
  return new Promise((done) => createServer((socket) => injector.injectConnection(socket)).listen(at, done))
}

const Client = grpc.makeGenericClientConstructor(definition, 'Echo')

/** It has no hook: this process runs under vmring/register. */
export function open(at) {
  const client = new Client(at, grpc.credentials.createInsecure(), {
    ...limits,
    'grpc.use_local_subchannel_pool': 1,
  })
  const call = (method, body) =>
    new Promise((resolve, reject) =>
      client[method](body, (error, answer) => (error ? reject(error) : resolve(answer))),
    )
  return {
    echo: (b) => call('echo', b),
    hang: () => call('hang', Buffer.from('x')),
    close: () => client.close(),
  }
}
