import { writeSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { describe, expect, it } from 'vitest'
import { startHost } from '../../src/host/daemon.js'
import { native } from '../../src/native/binding.js'
import { connectIvshmem } from '../../src/path/ivshmem-client.js'
import { openDescriptors, pythonServer, temporaryDirectory, until } from '../support/host.js'

/** Collects what a connection reports; the descriptors are closed. */
function recorder() {
  const events: string[] = []
  return {
    events,
    onJoin(peerId: number, vector: number, fd: number) {
      events.push(`join ${peerId}.${vector}`)
      native.closeFd(fd)
    },
    onLeave: (peerId: number) => void events.push(`leave ${peerId}`),
    onLost: (error: Error & { code: string }) => void events.push(`lost ${error.code}`),
  }
}

describe('joining an independent ivshmem server', () => {
  it.each(['good', 'split'])(
    '%s: id, memory, own eventfds, those who are there, joins, leaves, the end',
    async (mode) => {
      const { process: server, socket } = await pythonServer(mode)
      const connection = await connectIvshmem(socket)
      expect(connection.peerId).toBe(7)
      const heard = recorder()
      connection.start(heard)
      await until(() => connection.vectors === 2, 'both own vectors')
      expect(heard.events).toEqual(['join 3.0', 'join 3.1'])
      const memory = connection.takeMemory()
      expect(memory).toBeGreaterThan(2)
      expect(connection.takeMemory()).toBe(-1)
      const bell = connection.takeVector(0)
      expect(writeSync(bell, new Uint8Array(8))).toBe(8)
      expect(connection.takeVector(0)).toBe(-1)
      expect(connection.takeVector(5)).toBe(-1)
      server.say('join')
      server.say('leave')
      await until(() => heard.events.length === 4, 'join and leave')
      expect(heard.events.slice(2)).toEqual(['join 9.0', 'leave 9'])
      server.say('end')
      await until(() => heard.events.length === 5, 'the end')
      expect(heard.events[4]).toBe('lost ERR_VMRING_SERVER_CLOSED')
      connection.close()
      connection.close()
      native.closeFd(memory)
      native.closeFd(bell)
    },
  )

  it('keeps what happens before start() for start()', async () => {
    const { process: server, socket } = await pythonServer('good')
    const connection = await connectIvshmem(socket)
    for (const command of ['join', 'leave', 'end']) server.say(command)
    await new Promise((resolve) => setTimeout(resolve, 300))
    const heard = recorder()
    connection.start(heard)
    expect(heard.events).toEqual([
      'join 3.0',
      'join 3.1',
      'join 9.0',
      'leave 9',
      'lost ERR_VMRING_SERVER_CLOSED',
    ])
    connection.close()
  })

  it.each([
    ['version 1', ['version1'], 'ERR_VMRING_SERVER_VERSION', /version 1/],
    ...[0, 1, 2, 3, 4, 5].map(
      (count) =>
        [
          `closes after ${count} messages`,
          ['close-after', count],
          'ERR_VMRING_SERVER_CLOSED',
          /before it sent/,
        ] as const,
    ),
    ...[0, 1, 2, 3, 4, 5].map(
      (count) =>
        [
          `closes in the middle of message ${count + 1}`,
          ['close-after', count, '--half'],
          'ERR_VMRING_SERVER_CLOSED',
          /before it sent/,
        ] as const,
    ),
    ['no memory descriptor', ['no-memory-fd'], 'ERR_VMRING_SERVER_NO_FD', /without the descriptor/],
    ['no eventfd', ['no-vector-fd'], 'ERR_VMRING_SERVER_NO_FD', /without the descriptor/],
    ['two descriptors at once', ['two-fds'], 'ERR_VMRING_SERVER_PROTOCOL', /descriptor/],
    ['garbage', ['garbage'], 'ERR_VMRING_SERVER_PROTOCOL', /no meaning/],
    ['an impossible peer', ['bad-value'], 'ERR_VMRING_SERVER_PROTOCOL', /70000/],
    ['silence', ['silent'], 'ERR_VMRING_TIMEOUT', /no protocol version within 300 ms/],
    ...[1, 2, 3, 5].map(
      (count) =>
        [
          `silence after ${count} messages`,
          ['stall-after', count],
          'ERR_VMRING_TIMEOUT',
          /within 300 ms/,
        ] as const,
    ),
  ] as const)(
    '%s: a typed error with a sentence, and no descriptor is left',
    async (_, args, code, message) => {
      const [mode, ...rest] = args
      const { socket } = await pythonServer(mode as string, ...(rest as (string | number)[]))
      const before = openDescriptors(process.pid)
      const timeout = code === 'ERR_VMRING_TIMEOUT' ? 300 : 5000
      const error = await connectIvshmem(socket, { timeout }).then(
        () => expect.fail('joined'),
        (reason: Error & { code: string }) => reason,
      )
      expect(error.code).toBe(code)
      expect(error.message).toMatch(message)
      await until(() => openDescriptors(process.pid) <= before, 'no descriptor is left')
    },
  )

  it('garbage after the handshake is a loss, once', async () => {
    const { socket } = await pythonServer('mid-garbage')
    const connection = await connectIvshmem(socket)
    const heard = recorder()
    connection.start(heard)
    await until(() => heard.events.length === 3, 'lost')
    expect(heard.events[2]).toBe('lost ERR_VMRING_SERVER_PROTOCOL')
    connection.close()
  })

  it('keeps the shape of system errors when nobody is there', async () => {
    const path = join(temporaryDirectory(), 'none.sock')
    await expect(connectIvshmem(path)).rejects.toMatchObject({
      code: 'ENOENT',
      errno: -2,
      syscall: 'connect',
      address: path,
    })
    await expect(connectIvshmem('x'.repeat(200))).rejects.toMatchObject({ code: 'ENAMETOOLONG' })
  })

  it('can be called off, before and during', async () => {
    const { socket } = await pythonServer('silent')
    const before = openDescriptors(process.pid)
    await expect(connectIvshmem(socket, { signal: AbortSignal.abort(new Error('early')) })).rejects.toThrow(
      'early',
    )
    const controller = new AbortController()
    const joining = connectIvshmem(socket, { signal: controller.signal })
    setTimeout(() => controller.abort(new Error('enough')), 50)
    await expect(joining).rejects.toThrow('enough')
    await until(() => openDescriptors(process.pid) <= before, 'no descriptor is left')
  })

  it('waits for a listener whose backlog is full, within its time', async () => {
    const path = join(temporaryDirectory(), 'full.sock')
    const server = createServer()
    await new Promise<void>((resolve) => server.listen({ path, backlog: 1 }, resolve))
    // This thread does not turn its loop meanwhile, so nobody accepts: the sockets fill the backlog.
    const held = Array.from({ length: 4 }, () => native.ivshmemConnect(path, ignore))
    const joining = connectIvshmem(path, { timeout: 200 })
    await expect(joining).rejects.toMatchObject({ code: 'ERR_VMRING_TIMEOUT' })
    for (const socket of held) socket.close()
    server.close()
  })
})

const ignore = { onId() {}, onMemory() {}, onVector() {}, onLeave() {}, onClose() {} }

describe('against our own daemon', () => {
  it('joins, sees others come and go, and closing gives everything back', async () => {
    const path = join(temporaryDirectory(), 'host.sock')
    const before = openDescriptors(process.pid)
    {
      await using host = await startHost({ socket: path, size: 2 ** 20 })
      const first = await connectIvshmem(path)
      const heard = recorder()
      first.start(heard)
      const second = await connectIvshmem(path)
      await until(() => heard.events.length === 2, 'the second came')
      second.close()
      await until(() => heard.events.length === 3, 'the second left')
      expect(heard.events).toEqual(['join 1.0', 'join 1.1', 'leave 1'])
      expect(host.status().peers).toHaveLength(1)
      await host.close()
      await until(() => heard.events.length === 4, 'the daemon left')
      expect(heard.events[3]).toBe('lost ERR_VMRING_SERVER_CLOSED')
      first.close()
    }
    await until(() => openDescriptors(process.pid) <= before, 'no descriptor is left')
  })

  it('a worker that ends, or is ended, with open sockets takes everything with it', async () => {
    const path = join(temporaryDirectory(), 'host.sock')
    await using host = await startHost({ socket: path, size: 2 ** 20 })
    const addon =
      process.env.VMRING_ADDON ?? new URL('../../build/Release/vmring.node', import.meta.url).pathname
    const code = `
      const { workerData, parentPort } = require('node:worker_threads')
      const native = require(workerData.addon)
      const handlers = { onId() {}, onMemory: native.closeFd, onVector: (p, v, fd) => native.closeFd(fd), onLeave() {}, onClose() {} }
      const sockets = Array.from({ length: 8 }, () => native.ivshmemConnect(workerData.path, handlers))
      const own = native.fdListen(native.unixListen(workerData.path + '.worker', 0o600, -1), { onConnection() {}, onRefused() {}, onWritable() {}, onClose() {} })
      native.ivshmemConnect(workerData.path + '.worker', handlers)
      handlers.onVector = (p, v, fd) => { native.closeFd(fd); if (workerData.exit) process.exit(0); parentPort.postMessage('in') }
    `
    const before = openDescriptors(process.pid)
    for (const exit of [true, false, true, false]) {
      const worker = new Worker(code, { eval: true, workerData: { path, addon, exit } })
      worker.once('message', () => void worker.terminate())
      await new Promise<void>((resolve, reject) => worker.once('exit', () => resolve()).once('error', reject))
      await until(() => host.status().peers.length === 0, 'its clients are gone')
    }
    await until(() => openDescriptors(process.pid) <= before + 2, 'its descriptors are closed')
  })

  it('what a handler throws is an uncaught exception, not a crash', async () => {
    const path = join(temporaryDirectory(), 'host.sock')
    await using _host = await startHost({ socket: path, size: 2 ** 20 })
    const addon =
      process.env.VMRING_ADDON ?? new URL('../../build/Release/vmring.node', import.meta.url).pathname
    const code = `
      const { workerData } = require('node:worker_threads')
      const native = require(workerData.addon)
      native.ivshmemConnect(workerData.path, { onId() { throw new Error('from a handler') }, onMemory() {}, onVector() {}, onLeave() {}, onClose() {} })
    `
    const worker = new Worker(code, { eval: true, workerData: { path, addon } })
    const error = await new Promise<Error>((resolve) => worker.once('error', resolve))
    expect(error.message).toBe('from a handler')
  })

  it('checks its arguments', () => {
    const wrong = native as unknown as Record<string, (...args: unknown[]) => unknown>
    expect(() => wrong.ivshmemConnect!()).toThrow(TypeError)
    expect(() => wrong.ivshmemConnect!('a\0b', {})).toThrow(TypeError)
    expect(() => wrong.ivshmemConnect!('/x', 5)).toThrow(TypeError)
    expect(() => wrong.fdListen!(-1, {})).toThrow(/EBADF|bad file/)
    expect(() => wrong.closeFd!('3')).toThrow(TypeError)
    expect(() => wrong.eventfdSignal!(2 ** 40)).toThrow(TypeError)
    const fd = native.eventfd()
    native.eventfdSignal(fd)
    native.closeFd(fd)
  })
})
