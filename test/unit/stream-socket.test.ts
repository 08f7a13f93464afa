/** The native byte stream over Unix sockets. Virtio sockets are opened in guests only (test/vm); here, their arguments. */
import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { native } from '../../src/native/binding.js'
import type { NativeStream, NativeStreamListener, StreamHandlers } from '../../src/native/socket-types.js'
import { addonPath, runProgram, until } from '../support/addon.js'

let directory: string
let path: string
let listener: NativeStreamListener | null
const open: NativeStream[] = []

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vmring-test-'))
  path = join(directory, 'stream')
  listener = null
})
afterEach(() => {
  for (const stream of open.splice(0)) stream.close()
  listener?.close()
  rmSync(directory, { recursive: true, force: true })
})

/** Keeps what a stream tells. */
class Log implements StreamHandlers {
  readonly events: string[] = []
  readonly target = new Uint8Array(64 * 1024)
  chunks: Buffer[] = []
  bytes = 0
  error: NodeJS.ErrnoException | null | undefined
  onConnect(): void {
    this.events.push('connect')
  }
  onRead(length: number): void {
    this.bytes += length
    this.chunks.push(Buffer.from(this.target.subarray(0, length)))
  }
  onEnd(): void {
    this.events.push('end')
  }
  onDrain(): void {
    this.events.push('drain')
  }
  onFinish(): void {
    this.events.push('finish')
  }
  onClose(error: NodeJS.ErrnoException | null): void {
    this.error = error
    this.events.push('close')
  }
  get text(): string {
    return Buffer.concat(this.chunks).toString('latin1')
  }
}

const bytes = (text: string): Uint8Array => Buffer.from(text, 'latin1')

async function pair(): Promise<[NativeStream, Log, NativeStream, Log]> {
  const accepted = new Log()
  let other: NativeStream | undefined
  listener = native.streamListen(
    { path },
    {},
    {
      onConnection(stream) {
        other = stream
        stream.start(accepted)
        stream.readInto(accepted.target)
      },
      onRefused(error) {
        throw error
      },
    },
  )
  const log = new Log()
  const stream = native.streamConnect({ path }, log)
  expect(log.events).toEqual([])
  stream.readInto(log.target)
  await until(() => other !== undefined && log.events.length > 0, 'a connection')
  open.push(stream, other!)
  return [stream, log, other!, accepted]
}

describe('a connection', () => {
  test('carries bytes both ways, and knows who is there', async () => {
    const [a, logA, b, logB] = await pair()
    expect(a.write([bytes('he'), bytes(''), bytes('llo')])).toBe(0)
    expect(b.write([bytes('world')])).toBe(0)
    await until(() => logB.bytes === 5 && logA.bytes === 5, 'both texts')
    expect([logA.text, logB.text]).toEqual(['world', 'hello'])
    const self = { uid: process.getuid!(), gid: process.getgid!(), pid: process.pid }
    expect([a.remote, b.remote]).toEqual([self, self])
    expect([a.local, b.local, listener!.local]).toEqual([{ path: '' }, { path }, { path }])
    expect([a.family, a.bytesRead, a.bytesWritten, a.queued]).toEqual(['unix', 5, 5, 0])
    expect(statSync(path).mode & 0o777).toBe(0o600)
  })

  test('nobody there, a socket file that is stale, an impossible path: told later, in libuv’s shape', async () => {
    const missing = new Log()
    native.streamConnect({ path: join(directory, 'nothing') }, missing)
    const long = new Log()
    native.streamConnect({ path: `/${'x'.repeat(200)}` }, long)
    const fd = native.unixListen(path, 0o600, -1)
    native.closeFd(fd)
    const stale = new Log()
    native.streamConnect({ path }, stale, { timeout: 1000 })
    expect([missing.error, long.error, stale.error]).toEqual([undefined, undefined, undefined])
    await until(() => [missing, long, stale].every((log) => log.error !== undefined), 'three refusals')
    expect(missing.error).toMatchObject({
      code: 'ENOENT',
      syscall: 'connect',
      address: join(directory, 'nothing'),
    })
    expect(missing.error!.errno).toBe(-2)
    expect(long.error).toMatchObject({ code: 'ENAMETOOLONG' })
    expect(stale.error).toMatchObject({ code: 'ECONNREFUSED', address: path })
    expect(missing.events).toEqual(['close'])
  })

  test('a full backlog is waited for, up to the time limit', async () => {
    // a listener that accepts nothing until it is woken
    const gate = new Int32Array(new SharedArrayBuffer(4))
    const worker = new Worker(
      `const { parentPort, workerData } = require('node:worker_threads'); const native = require(${JSON.stringify(addonPath)})
       native.streamListen({ path: workerData.path }, { backlog: 2 }, { onConnection() {}, onRefused() {} })
       parentPort.postMessage(1); Atomics.wait(workerData.gate, 0, 0)`,
      { eval: true, workerData: { path, gate } },
    )
    await once(worker, 'message')
    const connect = (timeout: number): Log => {
      const log = new Log()
      open.push(native.streamConnect({ path }, log, { timeout }))
      return log
    }
    const patient = Array.from({ length: 6 }, () => connect(20_000))
    const hasty = connect(100)
    await until(() => hasty.error !== undefined, 'the time limit')
    expect(hasty.error).toMatchObject({ code: 'ETIMEDOUT', syscall: 'connect', address: path })
    expect(patient.filter((log) => log.events.length > 0).length).toBeLessThan(6)
    Atomics.store(gate, 0, 1)
    Atomics.notify(gate, 0)
    await until(() => patient.every((log) => log.events[0] === 'connect'), 'all connections')
    await worker.terminate()
  })

  test('each direction ends by itself; after both, close(null)', async () => {
    const [a, logA, b, logB] = await pair()
    a.write([bytes('last words')])
    a.end()
    expect(a.write([bytes('too late')])).toBe(0)
    await until(() => logB.events.includes('end'), 'the end')
    expect(logA.events).toEqual(['connect', 'finish'])
    expect(logB.text).toBe('last words')
    b.write([bytes('answer')])
    b.end()
    await until(() => logA.error === null && logB.error === null, 'both closed')
    expect(logA.text).toBe('answer')
    expect(logA.events).toEqual(['connect', 'finish', 'end', 'close'])
    expect(logB.events).toEqual(['end', 'finish', 'close'])
    expect(a.bytesRead).toBe(6)
    expect(a.write([bytes('x')])).toBe(0)
    a.close()
    a.end()
    a.reset()
  })

  test('what the socket does not take is queued by reference, and goes out in order', async () => {
    const [a, logA, b, logB] = await pair()
    b.pause()
    const parts = Array.from({ length: 3000 }, (_, n) => Buffer.alloc(1 + ((n * 37) % 3000), n & 255))
    const whole = Buffer.concat(parts)
    const queued = a.write(parts.slice(0, 2000))
    expect(queued).toBeGreaterThan(0)
    expect(a.write(parts.slice(2000))).toBe(a.queued)
    expect(a.bytesWritten + a.queued).toBe(whole.length)
    a.end()
    await new Promise((resolve) => setTimeout(resolve, 30))
    expect(logA.events).toEqual(['connect'])
    b.readInto(logB.target)
    await until(() => logB.events.includes('end'), 'everything')
    expect(Buffer.compare(Buffer.concat(logB.chunks), whole)).toBe(0)
    expect(logA.events).toEqual(['connect', 'drain', 'finish'])
    expect([a.queued, a.bytesWritten]).toEqual([0, whole.length])
  })

  test('reads go straight into the memory given, also when it changes on the way', async () => {
    const [a, , b, logB] = await pair()
    const ring = new Uint8Array(native.createPair(4096, 0, 0).buffer)
    const first = ring.subarray(512, 516)
    const second = ring.subarray(600, 700)
    const lengths: number[] = []
    logB.onRead = (length) => {
      lengths.push(length)
      b.readInto(second)
      if (lengths.length === 2) b.pause()
    }
    b.readInto(first)
    a.write([bytes('abcdefghij')])
    await until(() => lengths.length === 2, 'two reads')
    expect(lengths).toEqual([4, 6])
    expect(Buffer.from(ring.subarray(512, 516)).toString()).toBe('abcd')
    expect(Buffer.from(ring.subarray(600, 606)).toString()).toBe('efghij')
  })

  test('memory that was transferred away is neither read into nor written from', async () => {
    const [a, logA, b] = await pair()
    const target = new Uint8Array(100)
    b.readInto(target)
    structuredClone(target.buffer, { transfer: [target.buffer] })
    const chunk = new Uint8Array(4 << 20)
    expect(a.write([chunk])).toBeGreaterThan(0)
    structuredClone(chunk.buffer, { transfer: [chunk.buffer] })
    b.readInto(new Uint8Array(1 << 16))
    await until(() => logA.error !== undefined, 'a failure')
    expect(logA.error).toMatchObject({ code: 'EFAULT', syscall: 'write' })
  })

  test('the other side goes away: unread bytes come first, then the reason', async () => {
    const [a, logA, b, logB] = await pair()
    b.pause()
    a.write([bytes('unread')])
    b.write([bytes('said before')])
    await until(() => logA.bytes > 0, 'its words')
    b.reset()
    await until(() => logA.error !== undefined, 'the reset')
    expect(logA.error).toMatchObject({ code: 'ECONNRESET', syscall: 'read' })
    expect(logB.events).toEqual([])
  })

  test('writing to a side that is gone fails once, later', async () => {
    const [a, logA, b] = await pair()
    a.pause()
    b.close()
    expect(a.write([bytes('anybody?')])).toBe(8)
    expect(logA.events).toEqual(['connect'])
    await until(() => logA.error !== undefined, 'EPIPE')
    expect(logA.error).toMatchObject({ code: 'EPIPE', syscall: 'write' })
    expect(a.queued).toBe(0)
  })

  test.each(['onConnect', 'onRead', 'onEnd', 'onDrain', 'onFinish', 'onConnection'])(
    'it can be closed in %s, and nothing is called after that',
    async (where) => {
      let calls = 0
      const log = new Log()
      const all = ['onConnect', 'onRead', 'onEnd', 'onDrain', 'onFinish', 'onClose'] as const
      const peer = new Log()
      listener = native.streamListen(
        { path },
        {},
        {
          onConnection(stream) {
            open.push(stream)
            if (where === 'onConnection') {
              calls++
              stream.close()
              listener!.close()
              return
            }
            stream.start(peer)
            stream.readInto(peer.target)
            stream.write([bytes('x')])
            stream.end()
          },
          onRefused() {},
        },
      )
      const events: string[] = []
      const handlers = Object.fromEntries(
        all.map((name) => [
          name,
          () => {
            events.push(name)
            if (name === where) {
              calls++
              stream.close()
            }
          },
        ]),
      ) as unknown as StreamHandlers
      const stream = native.streamConnect({ path }, handlers)
      open.push(stream)
      stream.write([new Uint8Array(1 << 20)])
      stream.end()
      stream.readInto(log.target)
      await until(() => calls > 0, where)
      await new Promise((resolve) => setTimeout(resolve, 20))
      expect(calls).toBe(1)
      if (where !== 'onConnection') expect(events.at(-1)).toBe(where)
    },
  )

  test('1,000 connections leave no descriptor behind', async () => {
    const count = () => readdirSync('/proc/self/fd').length
    let echoed = 0
    const before = count()
    listener = native.streamListen(
      { path },
      { backlog: 128 },
      {
        onConnection(stream) {
          const target = new Uint8Array(16)
          stream.start({
            onRead: (length) => stream.write([target.slice(0, length)]),
            onEnd: () => stream.end(),
            onDrain() {},
            onClose() {},
          })
          stream.readInto(target)
        },
        onRefused(error) {
          throw error
        },
      },
    )
    for (let round = 0; round < 10; round++) {
      let closed = 0
      for (let n = 0; n < 100; n++) {
        const target = new Uint8Array(16)
        const stream = native.streamConnect(
          { path },
          {
            onRead() {
              echoed++
              stream.end()
            },
            onEnd() {},
            onDrain() {},
            onClose(error) {
              expect(error).toBe(null)
              closed++
            },
          },
        )
        stream.readInto(target)
        stream.write([bytes('ping')])
      }
      await until(() => closed === 100, `round ${round}`)
    }
    listener.close()
    await until(() => count() <= before, 'closed descriptors')
    expect(echoed).toBe(1000)
    expect(() => statSync(path)).toThrow(expect.objectContaining({ code: 'ENOENT' }))
  })
})

describe('arguments', () => {
  const none = new Log()
  test('are checked before anything is opened', () => {
    const range = expect.objectContaining({ name: 'RangeError', code: 'ERR_OUT_OF_RANGE' })
    const type = expect.objectContaining({ name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' })
    for (const [cid, port] of [
      [-1, 1],
      [2 ** 32, 1],
      [1.5, 1],
      [Number.NaN, 1],
      [1, 2 ** 32],
      [1, -1],
    ] as const) {
      expect(() => native.streamConnect({ cid, port }, none)).toThrow(range)
      expect(() => native.streamListen({ cid, port }, {}, { onConnection() {}, onRefused() {} })).toThrow(
        range,
      )
    }
    const any = native as unknown as Record<string, (...args: unknown[]) => unknown>
    for (const address of [
      undefined,
      5,
      {},
      { cid: 3 },
      { cid: '3', port: 5 },
      { path: 5 },
      { path: '' },
      { path: 'a\0b' },
    ]) {
      expect(() => any.streamConnect!(address, none)).toThrow(type)
    }
    expect(() => any.streamConnect!({ path })).toThrow(type)
    expect(() => any.streamConnect!({ path }, none, { timeout: -1 })).toThrow(range)
    expect(() => any.streamConnect!({ path }, none, { timeout: 'x' })).toThrow(type)
    expect(() => any.streamConnect!({ path }, none, 5)).toThrow(type)
    expect(() => any.streamListen!({ path }, { fd: 0.5 }, none)).toThrow(range)
  })

  test('of methods too', async () => {
    const [a] = await pair()
    const any = a as unknown as Record<string, (...args: unknown[]) => unknown>
    expect(() => any.write!('text')).toThrow(TypeError)
    expect(() => any.write!([new Uint16Array(4)])).toThrow(TypeError)
    expect(() => any.write!([bytes('x'), null])).toThrow(TypeError)
    expect(() => any.readInto!()).toThrow(TypeError)
    expect(() => any.readInto!(new Uint8Array(0))).toThrow(RangeError)
    expect(() => any.start!(null)).toThrow(TypeError)
    expect(() => any.write!.call({}, [])).toThrow(TypeError)
    expect(() => new (a.constructor as new () => NativeStream)().end()).toThrow(TypeError)
  })

  test('listening says what is wrong', () => {
    const handlers = { onConnection() {}, onRefused() {} }
    listener = native.streamListen({ path }, {}, handlers)
    expect(() => native.streamListen({ path }, {}, handlers)).toThrow(
      expect.objectContaining({ code: 'EADDRINUSE' }),
    )
    expect(() => native.streamListen({ path: '/no/such/directory/x' }, {}, handlers)).toThrow(
      expect.objectContaining({ code: 'ENOENT', syscall: 'bind' }),
    )
  })
})

/** Connections of every state: idle, with a queue, connecting, half closed. */
const everything = `
  const os = require('node:os'), fs = require('node:fs')
  const path = os.tmpdir() + '/vmring-test-' + process.pid + '-' + Math.random()
  const kept = []
  const handlers = { onConnect() {}, onRead() {}, onEnd() {}, onDrain() {}, onFinish() {}, onClose() {} }
  const listener = native.streamListen({ path }, {}, { onConnection(s) { kept.push(s); s.start(handlers); s.write([new Uint8Array(1 << 20)]) }, onRefused() {} })
  for (let i = 0; i < 20; i++) {
    const s = native.streamConnect({ path }, handlers)
    if (i % 2) s.readInto(new Uint8Array(10))
    if (i % 3) s.write([new Uint8Array(1 << 20)])
    if (i % 5 === 0) s.end()
    if (i % 7 === 0) s.close()
  }
  process.on('exit', () => fs.rmSync(path, { force: true }))`

describe('a process', () => {
  test('exits with everything open and busy', () => {
    const result = runProgram(`${everything}; setTimeout(() => process.exit(3), 100)`)
    expect([result.stderr, result.status, result.signal]).toEqual(['', 3, null])
  })

  test('ends by itself when nothing is ref’d, and not before', () => {
    const result = runProgram(`
      const path = require('node:os').tmpdir() + '/vmring-test-' + process.pid
      const listener = native.streamListen({ path }, {}, { onConnection() {}, onRefused() {} })
      listener.unref()
      const s = native.streamConnect({ path }, { onConnect() { console.log('connected') }, onRead() {}, onEnd() {}, onDrain() {}, onClose() {} })
      s.readInto(new Uint8Array(10))
      setTimeout(() => { console.log('alive'); s.unref() }, 100).unref()
      process.on('exit', () => listener.close())`)
    expect([result.stdout, result.stderr, result.status]).toEqual(['connected\nalive\n', '', 0])
  })

  test('gets what a handler throws as an uncaught exception', () => {
    const result = runProgram(`
      process.on('uncaughtException', (error) => console.log(error.message))
      native.streamConnect({ path: '/nowhere' }, { onRead() {}, onEnd() {}, onDrain() {}, onClose(error) { throw new Error('handler: ' + error.code) } })`)
    expect([result.stdout, result.stderr, result.status]).toEqual(['handler: ENOENT\n', '', 0])
  })

  test('survives garbage collection at any moment, and lets closed streams go', () => {
    const result = runProgram(`
      const path = require('node:os').tmpdir() + '/vmring-test-' + process.pid
      const gone = new FinalizationRegistry(() => collected++)
      let collected = 0, ended = 0
      const listener = native.streamListen({ path }, {}, { onConnection(s) {
        gc()
        s.start({ onRead() { gc(); s.write([new Uint8Array(300000)]); gc() }, onEnd() { gc(); s.end() }, onDrain() { gc() }, onClose() { gc() } })
        s.readInto(new Uint8Array(50)); gc()
      }, onRefused() {} })
      for (let i = 0; i < 20; i++) (() => {
        const s = native.streamConnect({ path }, { onConnect() { gc(); s.write([new Uint8Array(10)]) }, onRead(n) { gc(); if (s.bytesRead >= 300000) s.end() },
          onEnd() { gc() }, onDrain() {}, onClose() { gc(); ended++ } })
        gone.register(s)
        s.readInto(new Uint8Array(65536)); gc()
      })()
      const wait = setInterval(() => { gc(); if (ended < 20 || collected < 15) return; clearInterval(wait); listener.close(); console.log('done') }, 20)`)
    expect([result.stdout, result.stderr, result.status]).toEqual(['done\n', '', 0])
  })

  test('a worker ends, by itself or by force, with streams in every state', async () => {
    const count = () => readdirSync('/proc/self/fd').length
    const before = count()
    for (const end of ['process.exit(0)', 'parentPort.postMessage(1)']) {
      for (let round = 0; round < 5; round++) {
        const worker = new Worker(
          `const { parentPort } = require('node:worker_threads'); const native = require(${JSON.stringify(addonPath)});
           ${everything}; setTimeout(() => { ${end} }, ${round * 3}); setInterval(() => {}, 1000)`,
          { eval: true },
        )
        await new Promise((resolve, reject) => {
          worker.on('message', () => worker.terminate())
          worker.on('exit', resolve)
          worker.on('error', reject)
        })
      }
    }
    await until(() => count() <= before, 'closed descriptors')
  })
})
