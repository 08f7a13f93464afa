// channel.port(): what is written for message ports of workers runs between processes. Comlink is such a program.
import { once } from 'node:events'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { MessageChannel, type MessagePort } from 'node:worker_threads'
import * as comlink from 'comlink'
import { expect, test } from 'vitest'
import { attach, type Channel, type ChannelPort } from '../../src/index.js'
import { type Process, root, sleep, startDaemon, startNode, until } from '../support/processes.js'

const exposed = `
  import { attach } from ${JSON.stringify(pathToFileURL(join(root, 'dist/index.js')).href)}
  import * as comlink from 'comlink'
  const peer = await attach()
  const server = await peer.listen('calculator')
  console.log('ready')
  for await (const channel of server) {
    const calculator = {
      count: 0,
      add: (a, b) => a + b,
      async slow(ms) { await new Promise((resolve) => setTimeout(resolve, ms)); return 'awake' },
      fail() { throw new TypeError('not like this') },
      turn: (value) => value,
      sum: (bytes) => bytes.reduce((a, b) => a + b, 0),
      increase() { return ++this.count },
      async each(list, callback) { for (const one of list) await callback(one * 2); return 'done' },
      Counter: class { constructor(at) { this.at = at } step() { return ++this.at } },
      die() { process.exit(1) },
    }
    comlink.expose(calculator, channel.port())
  }`

interface Calculator {
  count: number
  add(a: number, b: number): number
  slow(ms: number): Promise<string>
  fail(): never
  turn(value: unknown): unknown
  sum(bytes: Uint8Array): number
  increase(): number
  each(list: number[], callback: (value: number) => void): string
  Counter: new (at: number) => { step(): number }
  die(): void
}

async function calculator(): Promise<{
  channel: Channel
  remote: comlink.Remote<Calculator>
  child: Process
}> {
  const { region } = await startDaemon()
  const child = startNode(['--input-type=module', '-e', exposed], {
    env: { VMRING_REGION: region },
    cwd: root,
  })
  await until(() => child.stdout.length > 0, 20_000)
  const peer = await attach({ region })
  const channel = await peer.connect('calculator')
  channel.once('close', () => void peer.close())
  return { channel, remote: comlink.wrap<Calculator>(channel.port()), child }
}

test('comlink, unmodified: calls, properties, errors, structured values, large ones', async () => {
  const { channel, remote, child } = await calculator()
  expect(channel.path).toBe('shm')
  expect(await remote.add(2, 3)).toBe(5)
  expect(await Promise.all(Array.from({ length: 100 }, (_, i) => remote.add(i, i)))).toEqual(
    Array.from({ length: 100 }, (_, i) => 2 * i),
  )
  expect(await Promise.all([remote.slow(100), remote.add(1, 1)])).toEqual(['awake', 2])
  await expect(remote.fail()).rejects.toMatchObject({ name: 'TypeError', message: 'not like this' })
  const value = {
    date: new Date(0),
    map: new Map([['a', new Set([1n])]]),
    pattern: /x/giu,
    list: [undefined, null, Number.NaN, -0],
    bytes: new Uint8Array([1, 2, 3]),
    error: new RangeError('far'),
  }
  expect(await remote.turn(value)).toEqual(value)
  const large = new Uint8Array(12 * 2 ** 20).fill(1)
  expect(await remote.sum(large)).toBe(large.length)
  // a transfer is a copy: the buffer stays usable here
  expect(await remote.sum(comlink.transfer(large, [large.buffer]))).toBe(large.length)
  expect(large.length).toBe(12 * 2 ** 20)
  expect([await remote.increase(), await remote.increase(), await remote.count]).toEqual([1, 2, 2])
  // what cannot leave the process says so
  await expect(remote.turn(() => 1)).rejects.toMatchObject({ name: 'DataCloneError' })
  channel.port().close()
  expect(await channel.closed).toBe(null)
  expect(child.stderr).toBe('')
})

test('comlink: callbacks and instances, which are ports of their own', async () => {
  const { channel, remote, child } = await calculator()
  const got: number[] = []
  const callback = comlink.proxy((value: number) => void got.push(value))
  expect(await remote.each([1, 2, 3], callback)).toBe('done')
  expect(got).toEqual([2, 4, 6])
  const counter = await new remote.Counter(40)
  expect([await counter.step(), await counter.step()]).toEqual([41, 42])
  const many = await Promise.all(Array.from({ length: 50 }, (_, i) => new remote.Counter(i)))
  expect(await Promise.all(many.map((one) => one.step()))).toEqual(many.map((_, i) => i + 1))
  for (const one of many) one[comlink.releaseProxy]()
  expect(await remote.add(1, 2)).toBe(3)
  channel.port().close()
  expect(await channel.closed).toBe(null)
  expect(child.stderr).toBe('')
})

test('the other process dies: the port and the channel say so', async () => {
  const { channel, remote } = await calculator()
  const port = channel.port()
  const closed = once(port, 'close')
  void remote.die()
  await closed
  expect(await channel.closed).toMatchObject({ code: 'ERR_VMRING_PEER_GONE' })
  // as a MessagePort: no error, no effect
  port.postMessage('too late')
})

async function pair(): Promise<{
  left: ChannelPort
  right: ChannelPort
  channels: Channel[]
  close(): Promise<void>
}> {
  const { region } = await startDaemon()
  const [a, b] = [await attach({ region }), await attach({ region })]
  const server = await a.listen('port')
  const accepted = once(server, 'channel') as Promise<[Channel]>
  const channels = [await b.connect('port'), (await accepted)[0]]
  const close = async () => {
    await b.close()
    await a.close()
  }
  return { left: channels[0]!.port(), right: channels[1]!.port(), channels, close }
}

test('messages wait for start(); setting onmessage starts; close() is told', async () => {
  const { left, right, channels, close } = await pair()
  const got: unknown[] = []
  right.addEventListener('message', (event) => got.push((event as MessageEvent).data))
  for (let i = 0; i < 3; i++) left.postMessage({ i })
  await sleep(100)
  expect(got).toEqual([])
  right.start()
  right.start()
  await until(() => got.length === 3)
  expect(got).toEqual([{ i: 0 }, { i: 1 }, { i: 2 }])
  right.postMessage(['back'])
  const back = new Promise((resolve) => {
    left.onmessage = ({ data }) => resolve(data)
  })
  expect(await back).toEqual(['back'])
  left.onmessage = null
  expect(channels[0]!.port()).toBe(left)
  const closed = once(right, 'close')
  left.close()
  await closed
  await close()
})

test('a port that is transferred works as if it were here, and ends with its other end or the channel', async () => {
  const { left, right, channels, close } = await pair()
  const { port1, port2 } = new MessageChannel()
  const arrived = once(right, 'message')
  right.start()
  left.start()
  left.postMessage({ port: port2, twice: [port2], like: Buffer.alloc(20) }, [port2])
  const [event] = (await arrived) as [MessageEvent]
  const { port, twice, like } = event.data as { port: MessagePort; twice: MessagePort[]; like: Buffer }
  expect([twice[0] === port, (event.ports as unknown[])[0] === port, like.length]).toEqual([true, true, 20])
  expect(() => left.postMessage(port2, [port2])).toThrow(expect.objectContaining({ name: 'DataCloneError' }))
  // not listed
  expect(() => left.postMessage(port1)).toThrow(expect.objectContaining({ name: 'DataCloneError' }))

  const next = (of: MessagePort) =>
    new Promise((resolve) =>
      (of as unknown as EventTarget).addEventListener('message', resolve, { once: true }),
    )
  port.start()
  port1.start()
  let answer = next(port)
  port1.postMessage({ to: 'there' })
  expect(((await answer) as MessageEvent).data).toEqual({ to: 'there' })
  // a port through a port, the other way
  const inner = new MessageChannel()
  answer = next(port1)
  port.postMessage(inner.port2, [inner.port2])
  const far = ((await answer) as MessageEvent).data as MessagePort
  answer = next(inner.port1)
  inner.port1.start()
  far.postMessage('from within')
  expect(((await answer) as MessageEvent).data).toBe('from within')

  const ended = [once(port, 'close'), once(far, 'close')]
  port1.close()
  await ended[0]
  await channels[0]!.close()
  await ended[1]
  await close()
})

test('what no port ever says is a messageerror or nothing', async () => {
  const { right, channels, close } = await pair()
  let errors = 0
  const got: unknown[] = []
  right.addEventListener('messageerror', () => errors++)
  right.onmessage = ({ data }) => got.push(data)
  const number = [9, 0, 0, 0]
  const wrong = [
    [],
    [0],
    [1],
    [1, 2, 3],
    [1, ...Array(16).fill(0), 255],
    [2],
    [2, 0, 0],
    [6, ...number],
    [255],
    [255, 15],
  ]
  for (const bytes of wrong) await channels[0]!.send(Uint8Array.from(bytes))
  // ports that nobody has sent
  for (const kind of [2, 3, 4, 5]) await channels[0]!.send(Uint8Array.from([kind, ...number, 255, 15, 48]))
  channels[0]!.port().postMessage('still here')
  await until(() => got.length > 0)
  expect({ errors, got }).toEqual({ errors: wrong.length, got: ['still here'] })
  await close()
})

test('bytes that are no clone are a messageerror; what cannot be cloned throws', async () => {
  const { left, right, channels, close } = await pair()
  const wrong = once(right, 'messageerror')
  const fine = once(right, 'message')
  right.start()
  await channels[0]!.send(Buffer.from('nonsense'))
  await wrong
  left.postMessage('fine')
  expect(((await fine) as [MessageEvent])[0].data).toBe('fine')
  for (const value of [() => 1, Symbol('x'), new SharedArrayBuffer(8), new WeakMap()])
    expect(() => left.postMessage(value)).toThrow(expect.objectContaining({ name: 'DataCloneError' }))
  await close()
})

test('a listener that throws is an uncaught exception, as with a MessagePort, and the next message comes', async () => {
  const { left, right, close } = await pair()
  const thrown = once(process, 'uncaughtException').catch(() => {})
  const others = process.rawListeners('uncaughtException').slice(0, -1) as NodeJS.UncaughtExceptionListener[]
  for (const listener of others) process.off('uncaughtException', listener)
  try {
    const got: unknown[] = []
    right.onmessage = ({ data }) => {
      got.push(data)
      if (data === 1) throw new Error('on purpose')
    }
    left.postMessage(1)
    left.postMessage(2)
    expect(((await thrown) as [Error])[0].message).toBe('on purpose')
    await until(() => got.length === 2)
  } finally {
    for (const listener of others) process.on('uncaughtException', listener)
  }
  await close()
})
