/** What a channel promises, checked in the same words over every path. */
import { once } from 'node:events'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Channel, Message } from '../../src/index.js'
import type { ConnectOptions } from '../../src/session/hub.js'
import { makeMessage, SequenceOracle, sizeOf } from '../support/oracle.js'
import { type Pair, pairKinds } from '../support/rigs.js'
import { pause } from '../support/slow.js'

const turn = () => new Promise((resolve) => setImmediate(resolve))

async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 10_000
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`waited in vain for: ${what}`)
    await pause(1)
  }
}

describe.each(pairKinds)('$name', (kind) => {
  let pair: Pair

  beforeEach(async () => {
    pair = await kind.open()
  })
  afterEach(() => pair.close())

  async function open(options: ConnectOptions & { serverMax?: number } = {}): Promise<[Channel, Channel]> {
    const { serverMax, ...rest } = options
    const server = await pair.b.listen('orders', serverMax === undefined ? {} : { maxMessageSize: serverMax })
    const accepted = once(server, 'channel') as Promise<[Channel]>
    const a = await pair.a.connect('orders', { wait: 5000, ...rest })
    const [b] = await accepted
    return [a, b]
  }

  async function next(channel: Channel): Promise<Message> {
    for (;;) {
      const message = channel.receive()
      if (message !== null) return message
      await pause(1)
    }
  }

  async function echo(channel: Channel): Promise<void> {
    for await (const message of channel) await channel.send(message.copy())
    channel.end()
  }

  test('messages keep their borders: empty, small, at the inline limit, above it', async () => {
    const [a, b] = await open()
    expect(a.path).toBe(pair.path)
    const done = echo(b)
    const sizes = [
      0,
      1,
      7,
      8,
      9,
      64,
      a.inlineLimit - 1,
      a.inlineLimit,
      a.inlineLimit + 1,
      3 * a.inlineLimit + 5,
      1_000_000,
    ]
    for (const [sequence, size] of sizes.entries()) {
      const bytes = makeMessage(1, sequence, size)
      await a.send(bytes)
      const message = await next(a)
      expect(message.length).toBe(size)
      expect(Buffer.compare(message.view, bytes)).toBe(0)
      message.release()
    }
    await a.close()
    await done
  })

  test('trySend and reserve refuse what is above the inline limit', async () => {
    const [a, b] = await open()
    expect(() => a.trySend(new Uint8Array(a.inlineLimit + 1))).toThrow(
      expect.objectContaining({ code: 'ERR_VMRING_TOO_LARGE' }),
    )
    expect(() => a.reserve(a.inlineLimit + 1)).toThrow(
      expect.objectContaining({ code: 'ERR_VMRING_TOO_LARGE' }),
    )
    expect(a.trySend(new Uint8Array(a.inlineLimit))).toBe(true)
    expect((await next(b)).length).toBe(a.inlineLimit)
  })

  test('order and wholeness, both ways at once, random sizes', async () => {
    const [a, b] = await open({ ringSize: 32768 })
    const count = 1500
    const run = async (from: Channel, to: Channel, stream: number): Promise<void> => {
      const oracle = new SequenceOracle(stream, (n) => (n % 97 === 96 ? 50_000 : sizeOf(stream, n, 2000)))
      to.on('message', (message) => oracle.accept(message.view))
      for (let n = 0; n < count; n++) await from.send(oracle.message(n))
      await until(() => oracle.next === count, `${count} messages of stream ${stream}`)
    }
    await Promise.all([run(a, b, 1), run(b, a, 2)])
    expect(a.stats()).toMatchObject({ sentMessages: count, receivedMessages: count, error: null })
  })

  test('several channels at once do not mix', async () => {
    const server = await pair.b.listen('many')
    server.on('channel', (channel) => {
      channel.on('message', (message) => void channel.send(message.copy()))
    })
    const channels = await Promise.all(
      Array.from({ length: 6 }, () => pair.a.connect('many', { wait: 5000, ringSize: 16384 })),
    )
    await Promise.all(
      channels.map(async (channel, stream) => {
        const oracle = new SequenceOracle(stream, (n) => 12 + sizeOf(stream, n, 500))
        channel.on('message', (message) => oracle.accept(message.view))
        for (let n = 0; n < 100; n++) await channel.send(oracle.message(n))
        await until(() => oracle.next === 100, `answers on channel ${stream}`)
      }),
    )
    await Promise.all(channels.map((channel) => channel.close()))
  })

  test('backpressure: trySend turns false, drain comes, nothing is lost', async () => {
    const [a, b] = await open({ ringSize: 16384 })
    const oracle = new SequenceOracle(1, () => 1000)
    let sent = 0
    for (; sent < 1000; sent++) if (!a.trySend(oracle.message(sent))) break
    expect(sent).toBeGreaterThan(8)
    expect(sent).toBeLessThan(64)
    let drained = false
    a.once('drain', () => {
      drained = true
    })
    const waiting = a.send(oracle.message(sent))
    await pause(30)
    expect(drained).toBe(false)
    expect(a.trySend(new Uint8Array(1))).toBe(false)
    b.on('message', (message) => oracle.accept(message.view))
    await waiting
    await until(() => drained && oracle.next === sent + 1, 'drain')
  })

  test('sends that are not awaited stay in order', async () => {
    const [a, b] = await open({ ringSize: 16384 })
    const oracle = new SequenceOracle(1, (n) => (n % 9 === 4 ? 20_000 : 700))
    const sends = Array.from({ length: 100 }, (_, n) => a.send(oracle.message(n)))
    b.on('message', (message) => oracle.accept(message.view))
    await Promise.all(sends)
    await until(() => oracle.next === 100, '100 messages')
  })

  test('leases: short commit, abort, one at a time, each once', async () => {
    const [a, b] = await open()
    const lease = a.reserve(100)!
    lease.data.fill(7)
    expect(() => a.reserve(1)).toThrow(expect.objectContaining({ code: 'ERR_VMRING_LEASE' }))
    expect(() => a.trySend(new Uint8Array(1))).toThrow(expect.objectContaining({ code: 'ERR_VMRING_LEASE' }))
    const behind = a.send(new Uint8Array([9]))
    expect(() => lease.commit(101)).toThrow(expect.objectContaining({ code: 'ERR_VMRING_ARGUMENT' }))
    lease.commit(10)
    expect(() => lease.commit()).toThrow(expect.objectContaining({ code: 'ERR_VMRING_LEASE' }))
    expect(() => lease.abort()).toThrow(expect.objectContaining({ code: 'ERR_VMRING_LEASE' }))
    await behind
    a.reserve(50)!.abort()
    a.reserve(0)!.commit()
    expect((await next(b)).copy()).toEqual(new Uint8Array(10).fill(7))
    expect((await next(b)).copy()).toEqual(new Uint8Array([9]))
    expect((await next(b)).length).toBe(0)
  })

  test('messages: private copies, release, and the error afterwards', async () => {
    const [a, b] = await open()
    await a.send(Buffer.from(JSON.stringify({ text: 'größer' })))
    const message = await next(b)
    expect(message.json()).toEqual({ text: 'größer' })
    expect(message.text()).toContain('größer')
    const copy = message.copy()
    expect(copy.buffer).not.toBe(message.view.buffer)
    message.release()
    message.release()
    for (const use of [
      () => message.view,
      () => message.copy(),
      () => message.text(),
      () => message.retain(),
    ]) {
      expect(use).toThrow(expect.objectContaining({ code: 'ERR_VMRING_RELEASED' }))
    }
  })

  test("who waits for 'drain' is told when the other side reads no more", async () => {
    const [a, b] = await open()
    const block = new Uint8Array(1024)
    while (a.trySend(block));
    let drained = 0
    a.on('drain', () => drained++)
    void b.close()
    await until(() => !a.writable, 'the word of the other side')
    await until(() => drained > 0, "'drain'")
    expect(() => a.trySend(block)).toThrow(expect.objectContaining({ code: 'ERR_VMRING_CLOSED' }))
  })

  test('a handler releases its message, unless it is retained; a promise keeps it that long', async () => {
    const [a, b] = await open()
    const seen: Message[] = []
    let finish = () => {}
    b.on('message', async (message) => {
      seen.push(message)
      if (seen.length === 2) message.retain()
      if (seen.length === 3) await new Promise<void>((resolve) => (finish = resolve))
    })
    for (let n = 0; n < 4; n++) await a.send(new Uint8Array([n]))
    await until(() => seen.length === 4, 'four messages')
    await turn()
    expect(seen[2]!.view[0]).toBe(2)
    finish()
    await until(() => seen[2]!.released, 'the release of the third')
    expect(seen.map((message) => message.released)).toEqual([true, false, true, true])
    expect(seen[1]!.view[0]).toBe(1)
    seen[1]!.release()
  })

  test('beyond a quarter of the ring, retain() moves to private memory', async () => {
    const [a, b] = await open({ ringSize: 16384 })
    const kept: Message[] = []
    for (let n = 0; n < 6; n++) {
      await a.send(new Uint8Array(1000).fill(n))
      kept.push((await next(b)).retain())
    }
    const buffers = new Set(kept.map((message) => message.view.buffer))
    expect(buffers.size).toBe(3)
    for (const [n, message] of kept.entries()) expect(message.view.every((byte) => byte === n)).toBe(true)
    for (const message of kept) message.release()
  })

  test('a handler that throws ends the channel with its error', async () => {
    const [a, b] = await open()
    const failure = new Error('the handler failed')
    const errors: Error[] = []
    b.on('error', (error) => errors.push(error))
    b.on('message', () => Promise.reject(failure))
    await a.send(new Uint8Array(1))
    expect(await b.closed).toBe(failure)
    expect(await a.closed).toMatchObject({ code: 'ERR_VMRING_RESET' })
    await turn()
    expect(errors).toEqual([failure])
    expect(() => a.trySend(new Uint8Array(1))).toThrow(expect.objectContaining({ code: 'ERR_VMRING_CLOSED' }))
  })

  test('one way of receiving per channel', async () => {
    const [a, b] = await open()
    const mode = expect.objectContaining({ code: 'ERR_VMRING_RECEIVE_MODE' })
    a.receive()
    expect(() => a.on('message', () => {})).toThrow(mode)
    expect(() => a[Symbol.asyncIterator]()).toThrow(mode)
    expect(a.receiveSync()).toBe(null)
    b.on('message', () => {})
    expect(() => b.receive()).toThrow(mode)
    expect(() => b[Symbol.asyncIterator]()).toThrow(mode)
    expect(b.listenerCount('message')).toBe(1)
  })

  test('iteration: each message until the next, and the end', async () => {
    const [a, b] = await open()
    for (let n = 0; n < 5; n++) await a.send(new Uint8Array([n]))
    a.end()
    expect(() => a.trySend(new Uint8Array(1))).toThrow(expect.objectContaining({ code: 'ERR_VMRING_CLOSED' }))
    await expect(a.send(new Uint8Array(1))).rejects.toMatchObject({ code: 'ERR_VMRING_CLOSED' })
    const seen: number[] = []
    let last: Message | null = null
    for await (const message of b) {
      expect(last?.released ?? true).toBe(true)
      seen.push(message.view[0]!)
      last = message
    }
    expect(seen).toEqual([0, 1, 2, 3, 4])
    // half-closed: the other direction still works
    await b.send(new Uint8Array([42]))
    expect((await next(a)).view[0]).toBe(42)
    b.end()
    await until(() => a.receive() === null && a.readableEnded, 'the end')
    expect(await Promise.all([a.closed, b.closed])).toEqual([null, null])
  })

  test('close() delivers what was accepted; the other side learns it', async () => {
    const [a, b] = await open({ ringSize: 16384 })
    const oracle = new SequenceOracle(1, () => 900)
    for (let n = 0; n < 40; n++) void a.send(oracle.message(n))
    let closed = false
    const closing = a.close().then(() => {
      closed = true
    })
    await pause(20)
    expect(closed).toBe(false)
    let ended = false
    b.on('end', () => {
      ended = true
    })
    b.on('message', (message) => oracle.accept(message.view))
    await closing
    expect(oracle.next).toBe(40)
    expect(await b.closed).toBe(null)
    expect(ended).toBe(true)
    expect(() => b.trySend(new Uint8Array(1))).toThrow(expect.objectContaining({ code: 'ERR_VMRING_CLOSED' }))
  })

  test('close() on both sides at once, and while nobody reads', async () => {
    const [a, b] = await open()
    await a.send(new Uint8Array(10))
    await b.send(new Uint8Array(10))
    await Promise.all([a.close(), b.close()])
    const server = await pair.b.listen('silent')
    const accepted = once(server, 'channel') as Promise<[Channel]>
    const c = await pair.a.connect('silent', { wait: 5000 })
    const [d] = await accepted
    await c.close()
    expect(await d.closed).toBe(null)
  })

  test('destroy() ends both sides at once', async () => {
    const [a, b] = await open()
    const closes = Promise.all(
      [a, b].map((channel) => new Promise<void>((resolve) => channel.once('close', resolve))),
    )
    a.destroy()
    await closes
    expect(await a.closed).toBe(null)
    expect(await b.closed).toMatchObject({ code: 'ERR_VMRING_RESET' })
    await expect(b.close()).rejects.toMatchObject({ code: 'ERR_VMRING_RESET' })
  })

  test('the receiver sets the largest message', async () => {
    const [a, b] = await open({ serverMax: 100_000, maxMessageSize: 10 })
    expect(a.maxMessageSize).toBe(100_000)
    await expect(a.send(new Uint8Array(100_001))).rejects.toMatchObject({ code: 'ERR_VMRING_TOO_LARGE' })
    const sending = a.send(new Uint8Array(100_000))
    expect((await next(b)).length).toBe(100_000)
    await sending
    expect(() => b.trySend(new Uint8Array(11))).toThrow(
      expect.objectContaining({ code: 'ERR_VMRING_TOO_LARGE' }),
    )
    expect(b.trySend(new Uint8Array(10))).toBe(true)
  })

  test('nobody listens, a name twice, and waiting for a name', async () => {
    await expect(pair.a.connect('nobody')).rejects.toMatchObject({
      code: 'ECONNREFUSED',
      errno: -111,
      syscall: 'connect',
      address: 'nobody',
    })
    const server = await pair.b.listen('late')
    await expect(pair.b.listen('late')).rejects.toMatchObject({
      code: 'EADDRINUSE',
      syscall: 'listen',
      address: 'late',
    })
    await server.close()
    const connecting = pair.a.connect('late', { wait: 5000 })
    await pause(30)
    await using again = await pair.b.listen('late')
    const channels = again[Symbol.asyncIterator]()
    const channel = await connecting
    expect(channel.service).toBe('late')
    expect((await channels.next()).value).toBeDefined()
    await again.close()
    await expect(pair.a.connect('late')).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    await expect(pair.a.connect('')).rejects.toMatchObject({ code: 'ERR_VMRING_ARGUMENT' })
  })

  test('a signal ends the wait, and paths that are not there say so', async () => {
    const controller = new AbortController()
    const connecting = pair.a.connect('never', { wait: 60_000, signal: controller.signal })
    setTimeout(() => controller.abort(new Error('enough')), 20)
    await expect(connecting).rejects.toThrow('enough')
    await pair.b.listen('here')
    await pair.a.connect('here', { wait: 5000 })
    const absent = pair.path === 'vsock' ? 'unix' : 'vsock'
    await expect(pair.a.connect('here', { paths: [absent, 'pigeon'] })).rejects.toMatchObject({
      code: 'ERR_VMRING_NO_PATH',
      attempts: [`${absent}: not available to this peer`, 'pigeon: not available to this peer'],
    })
    const channel = await pair.a.connect('here', { paths: [absent, pair.path] })
    await expect(channel.usePath(absent)).rejects.toMatchObject({ code: 'ERR_VMRING_NO_PATH' })
    await channel.usePath(pair.path)
  })

  test('a peer that closes takes its channels along', async () => {
    const [a, b] = await open()
    await pair.b.close()
    expect((await b.closed) as Error).toMatchObject({ code: 'ERR_VMRING_CLOSED' })
    expect(((await a.closed) as { code?: string }).code).toMatch(/^ERR_VMRING_(RESET|PEER_GONE)$/)
    await expect(pair.b.listen('again')).rejects.toMatchObject({ code: 'ERR_VMRING_CLOSED' })
  })

  test('the MessagePort face carries structured clones', async () => {
    const [a, b] = await open()
    const received: unknown[] = []
    b.port().onmessage = (event) => {
      received.push(event.data)
      b.port().postMessage({ got: event.data })
    }
    const answers: unknown[] = []
    a.port().addEventListener('message', (event) => answers.push((event as MessageEvent).data))
    a.port().start()
    const value = { map: new Map([['x', 1n]]), when: new Date(5), bytes: new Uint8Array([1, 2]) }
    a.port().postMessage(value)
    await until(() => answers.length === 1, 'an answer')
    expect(received).toEqual([value])
    expect(answers).toEqual([{ got: value }])
    expect(() => a.port().postMessage(() => {})).toThrow(expect.objectContaining({ name: 'DataCloneError' }))
    const closed = new Promise((resolve) => b.port().addEventListener('close', resolve))
    a.port().close()
    await closed
  })

  test('receiveSync waits on this thread no longer than told', async () => {
    const [a, b] = await open()
    const begin = performance.now()
    expect(b.receiveSync({ timeout: 20 })).toBe(null)
    expect(performance.now() - begin).toBeLessThan(1000)
    if (kind.shared) {
      a.trySend(new Uint8Array([5]))
      expect(b.receiveSync({ timeout: 1000 })!.view[0]).toBe(5)
    }
  })
})
