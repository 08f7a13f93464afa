// vsock.mjs PHASE: vmring/vsock inside a guest, over AF_VSOCK. Prints one JSON object: for each check 'ok', what it measured, or what
// went wrong. PHASE says which modules are there: none, core (vsock alone), loopback.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import * as vsock from '../../../dist/vsock/index.js'

const { VMADDR_CID_LOCAL: LOCAL, VMADDR_PORT_ANY: ANY } = vsock
const MiB = 1024 * 1024
const LIMIT = 400_000

const dial = (port, options = {}) => vsock.connect({ cid: LOCAL, port, ...options })

async function serve(listener, options) {
  const server = vsock.createServer(options ?? {}, listener)
  server.listen({ port: ANY })
  await once(server, 'listening')
  return { server, port: server.address().port }
}

/** Code and message of the error that comes. */
async function failure(emitter) {
  const [error] = await once(emitter, 'error')
  const { code, errno, syscall, address, port, message } = error
  return { code, errno, syscall, address, port, message, cause: error.cause?.code }
}

async function text(socket) {
  let all = ''
  socket.on('data', (data) => {
    all += data
  })
  await once(socket, 'end')
  return all
}

async function until(condition, what) {
  const end = Date.now() + LIMIT
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`never: ${what}`)
    await sleep(10)
  }
}

function same(got, wanted, what) {
  if (JSON.stringify(got) !== JSON.stringify(wanted))
    throw new Error(`${what}: ${JSON.stringify(got)} in place of ${JSON.stringify(wanted)}`)
}

const descriptors = () => readdirSync('/proc/self/fd').length

function localCid() {
  try {
    return { cid: vsock.localCid() }
  } catch ({ code, syscall, message }) {
    return { code, syscall, message }
  }
}

const refused = {
  connectLocal: () => failure(dial(5000)),
  connectHost: () => failure(vsock.connect({ cid: 2, port: 5000 })),
  connectGuest: () => failure(vsock.connect({ cid: 77, port: 5000 })),
  listenElsewhere: () => failure(vsock.createServer().listen({ cid: 77, port: 5000 })),
  localCid,
}

const phases = {
  none: { ...refused, listenAny: () => failure(vsock.createServer().listen({ port: 5000 })) },
  core: { ...refused, listenLocal: () => failure(vsock.createServer().listen({ cid: LOCAL, port: 5000 })) },
  loopback: {
    ...refused,

    async addresses() {
      const accepted = []
      const { server, port } = await serve((socket) => {
        accepted.push(socket)
        socket.pipe(socket)
      })
      const socket = dial(port)
      await once(socket, 'connect')
      const { localCid, localPort, remoteCid, remotePort, readyState } = socket
      same([remoteCid, remotePort, readyState], [LOCAL, port, 'open'], 'the client')
      socket.end('echo')
      same(await text(socket), 'echo', 'the echo')
      same([accepted[0].remoteCid, accepted[0].remotePort], [localCid, localPort], 'the server sees')
      same([accepted[0].localPort, accepted[0].bytesRead, accepted[0].bytesWritten], [port, 4, 4], 'its side')
      await server[Symbol.asyncDispose]()
      return { cid: server.address(), listening: port > 1023, localCid }
    },

    async bothWays() {
      const size = 64 * MiB
      const block = randomBytes(MiB)
      async function talk(socket) {
        let [sent, received] = [0, 0]
        socket.on('data', (chunk) => {
          received = crc32(chunk, received)
        })
        const ended = once(socket, 'end')
        for (let at = 0; at < size; ) {
          const from = at % 4096
          const chunk = block.subarray(from, from + Math.min(size - at, 1 + (at % 300_000)))
          sent = crc32(chunk, sent)
          at += chunk.length
          if (!socket.write(chunk)) await once(socket, 'drain')
        }
        socket.end()
        await ended
        return [sent, received]
      }
      const accepted = Promise.withResolvers?.() ?? deferred()
      const { server, port } = await serve((socket) => accepted.resolve(talk(socket)), {
        allowHalfOpen: true,
      })
      const started = Date.now()
      const socket = dial(port, { allowHalfOpen: true })
      const [near, far] = await Promise.all([talk(socket), accepted.promise])
      same(near[1], far[0], 'what came')
      same(far[1], near[0], 'what went')
      same([socket.bytesRead, socket.bytesWritten], [size, size], 'the counters')
      await server[Symbol.asyncDispose]()
      return { bytes: size, seconds: (Date.now() - started) / 1000 }
    },

    async thousand() {
      const before = descriptors()
      const { server, port } = await serve((socket) => socket.pipe(socket))
      const sockets = []
      while (sockets.length < 1000) {
        const batch = Array.from({ length: 50 }, () => dial(port))
        await Promise.all(batch.map((socket) => once(socket, 'connect')))
        sockets.push(...batch)
      }
      const most = descriptors()
      const count = await new Promise((done) => server.getConnections((_, number) => done(number)))
      const answers = await Promise.all(
        sockets.map((socket, index) => {
          socket.end(`number ${index}`)
          return text(socket)
        }),
      )
      same(
        answers,
        sockets.map((_, index) => `number ${index}`),
        'the echoes',
      )
      await server[Symbol.asyncDispose]()
      await until(() => descriptors() <= before, 'all descriptors are closed')
      return { open: most - before, count, left: descriptors() - before }
    },

    async halfClose() {
      const log = []
      const { server, port } = await serve(
        (socket) => {
          void text(socket).then((heard) => {
            log.push(`server heard ${heard}, ${socket.readyState}`)
            setTimeout(() => socket.end('still here'), 100)
          })
        },
        { allowHalfOpen: true },
      )
      const socket = dial(port, { allowHalfOpen: true })
      socket.on('finish', () => log.push('finish'))
      socket.end('bye')
      const heard = await text(socket)
      log.push(`client heard ${heard}`)
      await server[Symbol.asyncDispose]()
      same(log, ['finish', 'server heard bye, writeOnly', 'client heard still here'], 'the order')
      // and without allowHalfOpen the other direction ends by itself
      const other = await serve((accepted) => accepted.end('all'))
      const closing = dial(other.port)
      same(await text(closing), 'all', 'the greeting')
      await other.server[Symbol.asyncDispose]()
      return 'ok'
    },

    async reset() {
      const events = []
      const { server, port } = await serve((socket) => {
        socket.resume()
        for (const name of ['end', 'close']) socket.on(name, () => events.push(name))
        socket.on('error', ({ code }) => events.push(code))
      })
      const socket = dial(port)
      await once(socket, 'connect')
      socket.write('x')
      socket.resetAndDestroy()
      await once(socket, 'close')
      await until(() => events.includes('close'), 'the server hears of the reset')
      await server[Symbol.asyncDispose]()
      return { events }
    },

    async writeToReset() {
      const { server, port } = await serve((socket) => setTimeout(() => socket.resetAndDestroy(), 50))
      const socket = dial(port, { allowHalfOpen: true })
      socket.resume()
      const timer = setInterval(() => socket.write(Buffer.alloc(1000)), 10)
      const { code } = await failure(socket)
      clearInterval(timer)
      await server[Symbol.asyncDispose]()
      return { code }
    },

    async timeouts() {
      const { server, port } = await serve((socket) => socket.setTimeout(100, () => socket.end('too late')))
      const socket = dial(port, { timeout: 30 })
      const started = Date.now()
      let own = 0
      socket.on('timeout', () => own++)
      same(await text(socket), 'too late', 'the server times out')
      const took = Date.now() - started
      await server[Symbol.asyncDispose]()
      if (took < 95) throw new Error(`after ${took} ms already`)
      if (own < 1) throw new Error('the client saw no timeout')
      return 'ok'
    },

    async slowReader() {
      const size = 64 * MiB
      let wrote = 0
      let writer
      const { server, port } = await serve((socket) => {
        writer = socket
        const chunk = Buffer.alloc(64 * 1024, 'x')
        const more = () => {
          for (;;) {
            if (wrote === size) {
              socket.end()
              return
            }
            wrote += chunk.length
            if (!socket.write(chunk)) break
          }
          socket.once('drain', more)
        }
        more()
      })
      global.gc?.()
      const before = process.memoryUsage.rss()
      const socket = dial(port)
      await once(socket, 'connect')
      socket.pause()
      await sleep(1000)
      const held = wrote
      let got = 0
      let [queue, buffer, rss] = [0, 0, 0]
      const slow = setInterval(() => {
        queue = Math.max(queue, writer.writableLength)
        buffer = Math.max(buffer, socket.readableLength)
        rss = Math.max(rss, process.memoryUsage.rss())
      }, 5)
      socket.on('data', (data) => {
        got += data.length
        if (got % MiB >= data.length) return
        socket.pause()
        setTimeout(() => socket.resume(), 10)
      })
      socket.resume()
      await once(socket, 'end')
      clearInterval(slow)
      await server[Symbol.asyncDispose]()
      same(got, size, 'bytes')
      return { held, queue, buffer, grown: rss - before }
    },

    async nobody() {
      const { server, port } = await serve(() => {})
      await server[Symbol.asyncDispose]()
      return { ...(await failure(dial(port))), free: port }
    },

    async inUse() {
      const { server, port } = await serve(() => {})
      const error = await failure(vsock.createServer().listen({ port }))
      await server[Symbol.asyncDispose]()
      const again = vsock.createServer().listen({ port })
      await once(again, 'listening')
      await again[Symbol.asyncDispose]()
      return error
    },

    async permission() {
      const root = vsock.createServer().listen({ port: 1023 })
      await once(root, 'listening')
      await root[Symbol.asyncDispose]()
      process.seteuid(65534)
      try {
        const error = await failure(vsock.createServer().listen({ port: 1023 }))
        const free = vsock.createServer().listen({ port: 1024 })
        await once(free, 'listening')
        await free[Symbol.asyncDispose]()
        return error
      } finally {
        process.seteuid(0)
      }
    },

    async aborted() {
      const { server, port } = await serve((socket) => socket.resume())
      const controller = new AbortController()
      const socket = dial(port, { signal: controller.signal })
      await once(socket, 'connect')
      controller.abort()
      const { code } = await failure(socket)
      await server[Symbol.asyncDispose]()
      return { code }
    },
  },
}

function deferred() {
  const result = {}
  result.promise = new Promise((resolve) => {
    result.resolve = resolve
  })
  return result
}

const results = {}
for (const [name, check] of Object.entries(phases[process.argv[2]])) {
  const late = sleep(LIMIT, undefined, { ref: false }).then(() => {
    throw new Error(`not done within ${LIMIT} ms`)
  })
  const started = Date.now()
  results[name] = await Promise.race([check(), late]).catch((error) => ({ failed: error.stack }))
  console.error(`${name}: ${Date.now() - started} ms`)
}
console.log(JSON.stringify(results))
// a check that hangs must not keep the others' results
process.exit()
