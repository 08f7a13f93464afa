/** Everything that can be wrong with what comes in: each has its own code and cure, and takes nothing else down. */
import { closeSync, openSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { errorTable } from '../../src/errors.js'
import { type Daemon, scratch, startDaemon, vmring } from '../support/processes.js'
import { type Remote, remote } from '../support/remote.js'

type Channel = import('../../src/index.js').Channel
type Peer = import('../../src/index.js').Peer

interface State {
  peer: Peer
  channel: Channel
  /** of the second region, where things go wrong */
  bad: Peer
  badChannel: Channel
  message: import('../../src/index.js').Message
}

interface Failure {
  code: string
  message: string
  errno?: number
  syscall?: string
  address?: string
  attempts?: string[]
}

let daemon: Daemon
let echo: Remote<State>
let subject: Remote<State>

const listenEcho = async (
  { vmring, state }: { vmring: typeof import('../../src/index.js'); state: State },
  region: string,
) => {
  state.peer = await vmring.attach({ region })
  const server = await state.peer.listen('echo', { maxMessageSize: 2 ** 20 })
  server.on('channel', (channel) => {
    channel.on('error', () => {})
    channel.on('message', (message) => void channel.send(message.copy()).catch(() => {}))
  })
}

// The subject has a channel that works, beside whatever it is given.
beforeEach(async () => {
  daemon = await startDaemon(['--size', '8M', '--sections', '4'])
  ;[echo, subject] = await Promise.all([remote<State>(), remote<State>()])
  await echo.run(listenEcho, daemon.region)
  await subject.run(async ({ vmring, state }, region) => {
    state.peer = await vmring.attach({ region })
    state.channel = await state.peer.connect('echo', { wait: 10_000 })
  }, daemon.region)
})

async function expectUnharmed(): Promise<void> {
  const answer = await subject.run(async ({ state, once }) => {
    const { channel } = state
    channel.trySend(Buffer.from('still here'))
    let message = channel.receive()
    while (message === null) {
      await once(channel, 'readable')
      message = channel.receive()
    }
    const text = message.text()
    message.release()
    return text
  })
  expect(answer).toBe('still here')
  expect(subject.crash).toBeNull()
  expect(subject.stderr).toBe('')
}

function expectFailure(failure: Failure, code: keyof typeof errorTable, says: RegExp): void {
  expect(failure.code, failure.message).toBe(code)
  // a sentence, and a cure
  expect(failure.message).toMatch(/ .* .* /)
  expect(failure.message).toMatch(says)
  expect(errorTable[code].cure.length).toBeGreaterThan(10)
}

/** The error of a function that must throw or reject, run in the subject. */
function failureOf<A extends unknown[]>(
  work: (context: import('../support/remote.js').RemoteContext<State>, ...args: A) => unknown,
  ...args: A
): Promise<Failure> {
  return subject.run(work, ...args).then(
    (value) => expect.unreachable(`it went well: ${String(value)}`),
    (error: Failure) => error,
  )
}

const attachTo = (region: string) =>
  failureOf(async ({ vmring, state }, address) => {
    state.bad = await vmring.attach({ region: address })
  }, region)

async function formatted(size = '1M', sections = '2'): Promise<string> {
  const file = join(scratch(), 'ring')
  expect((await vmring(['format', file, '--size', size, '--sections', sections])).code).toBe(0)
  return file
}

function overwrite(file: string, at: number, bytes: Uint8Array): void {
  const fd = openSync(file, 'r+')
  writeSync(fd, bytes, 0, bytes.length, at)
  closeSync(fd)
}

const u16 = (value: number) => Buffer.from(new Uint16Array([value]).buffer)
const u32 = (value: number) => Buffer.from(new Uint32Array([value]).buffer)

describe('regions', () => {
  // offsets as in docs/protocol.md
  test.each([
    ['wrong magic', 'ERR_VMRING_REGION_MAGIC', 0, Buffer.from('NOTARING')],
    ['wrong version', 'ERR_VMRING_REGION_VERSION', 12, u16(2)],
    ['unknown incompatible feature', 'ERR_VMRING_REGION_FEATURE', 28, u32(0x80000000)],
    ['sections beyond the end', 'ERR_VMRING_REGION_GEOMETRY', 72, u32(2 ** 31)],
    ['a table of more entries than sections fit', 'ERR_VMRING_REGION_GEOMETRY', 64, u32(0xffffffff)],
  ] as const)('%s', async (_what, code, at, bytes) => {
    const file = await formatted()
    overwrite(file, at, bytes)
    expectFailure(await attachTo(`file:${file}`), code, /region|header|feature|version|magic|section/i)
    await expectUnharmed()
  })

  test('a later minor version and an unknown compatible feature are no obstacle', async () => {
    const file = await formatted()
    overwrite(file, 14, u16(77))
    overwrite(file, 27, Uint8Array.of(0x40))
    await subject.run(async ({ vmring }, address) => {
      const peer = await vmring.attach({ region: address })
      await peer.close()
    }, `file:${file}`)
    await expectUnharmed()
  })

  test.each([
    ['zero bytes', 0, 'ERR_VMRING_REGION_EMPTY'],
    ['truncated within the header', 100, 'ERR_VMRING_REGION_SIZE'],
    ['truncated within the sections', 2 ** 19, 'ERR_VMRING_REGION_TRUNCATED'],
    ['truncated to no power of two', 2 ** 20 - 4096, 'ERR_VMRING_REGION_TRUNCATED'],
  ] as const)('%s', async (_what, size, code) => {
    const file = await formatted()
    truncateSync(file, size)
    expectFailure(await attachTo(`file:${file}`), code, /byte|size|MiB/i)
    await expectUnharmed()
  })

  test('a file of zeros of a size that is no power of two', async () => {
    const file = join(scratch(), 'ring')
    writeFileSync(file, Buffer.alloc(3 * 2 ** 20))
    expectFailure(await attachTo(`file:${file}`), 'ERR_VMRING_REGION_SIZE', /power of two/)
  })

  test('no file, and no daemon: the system says so, with the path', async () => {
    const missing = join(scratch(), 'missing')
    const file = await attachTo(`file:${missing}`)
    expect(file).toMatchObject({ code: 'ENOENT', errno: -2 })
    expect(file.message).toContain(missing)
    const socket = await attachTo(`unix:${missing}`)
    expect(socket).toMatchObject({ code: 'ENOENT', errno: -2, address: missing })
    await expectUnharmed()
  })

  test('no address of any known form', async () => {
    expectFailure(await attachTo('carrier:pigeon'), 'ERR_VMRING_REGION_ADDRESS', /unix:SOCKET/)
  })

  test('nothing named, nothing found: what was tried', async () => {
    const lost = await remote<State>({ env: { VMRING_SOCKET: join(scratch(), 'none.sock') } })
    const failure = await lost.run(({ vmring }) =>
      vmring.attach().then(
        () => null,
        ({ code, message, attempts }) => ({ code, message, attempts }),
      ),
    )
    expectFailure(failure as Failure, 'ERR_VMRING_NO_REGION', /vmring host|region/)
    expect((failure as Failure).attempts!.length).toBeGreaterThan(0)
  })

  test('truncated while JavaScript reads it: zeros, an error, no crash', async () => {
    const file = await formatted('4M', '2')
    const other = await remote<State>()
    await other.run(listenEcho, `file:${file}`)
    await subject.run(async ({ vmring, state, once, tell }, address) => {
      state.bad = await vmring.attach({ region: address })
      state.bad.on('lost', (error) => tell({ lost: (error as { code?: string }).code }))
      state.badChannel = await state.bad.connect('echo', { wait: 10_000 })
      void state.badChannel.closed.then((error) =>
        tell({ closed: (error as { code?: string } | null)?.code }),
      )
      state.badChannel.trySend(Buffer.alloc(4096, 7))
      const [message] = (await once(state.badChannel, 'message')) as [State['message']]
      state.message = message
      // once() lets the handler return first, so hold a second one properly
      state.badChannel.once('message', (again) => {
        state.message = again.retain()
        tell('held')
      })
      state.badChannel.trySend(Buffer.alloc(4096, 7))
    }, `file:${file}`)
    expect(await subject.next()).toBe('held')
    expect(await subject.run(({ state }) => state.message.view[4095])).toBe(7)
    truncateSync(file, 0)
    expect(await subject.run(({ state }) => state.message.view.reduce((sum, byte) => sum + byte, 0))).toBe(0)
    const told = [await subject.next<object>(), await subject.next<object>()]
    expect(told).toContainEqual({ lost: 'ERR_VMRING_REGION_LOST' })
    expect(told.find((note) => 'closed' in note)).toMatchObject({
      closed: expect.stringMatching(/^ERR_VMRING_(REGION|PATH)_LOST$/),
    })
    const failure = await failureOf(({ state }) => state.badChannel.trySend(new Uint8Array(8)))
    expect(failure.code).toMatch(/^ERR_VMRING_(CLOSED|REGION_LOST|PATH_LOST)$/)
    await subject.run(({ state }) => {
      state.message.release()
      return state.bad.close()
    })
    await expectUnharmed()
  })
})

describe('services and room', () => {
  test('a name already listened to', async () => {
    const failure = await failureOf(async ({ state }) => {
      await state.peer.listen('mine')
      await state.peer.listen('mine')
    })
    expectFailure(failure, 'EADDRINUSE', /mine/)
    expect(failure).toMatchObject({ errno: -98, syscall: 'listen', address: 'mine' })
    await expectUnharmed()
  })

  test('a name that nobody listens to', async () => {
    const failure = await failureOf(({ state }) => state.peer.connect('nobody', { wait: 200 }))
    expectFailure(failure, 'ECONNREFUSED', /nobody/)
    expect(failure).toMatchObject({ errno: -111, syscall: 'connect', address: 'nobody' })
    await expectUnharmed()
  })

  test('a path that does not lead there', async () => {
    const failure = await failureOf(({ state }) =>
      state.peer.connect('echo', { paths: ['vsock'], wait: 200 }),
    )
    expectFailure(failure, 'ERR_VMRING_NO_PATH', /vsock/)
    await expectUnharmed()
  })

  test('too many peers, of a daemon and of a file; a place that is given back can be taken', async () => {
    const others = [await remote<State>(), await remote<State>()]
    for (const other of others)
      await other.run(async ({ vmring, state }, region) => {
        state.peer = await vmring.attach({ region })
      }, daemon.region)
    expectFailure(await attachTo(daemon.region), 'ERR_VMRING_TOO_MANY_PEERS', /section/)
    await others[0]!.run(({ state }) => state.peer.close())
    await subject.run(async ({ vmring, state }, region) => {
      state.bad = await vmring.attach({ region })
      await state.bad.close()
    }, daemon.region)

    const file = await formatted('1M', '2')
    for (const other of others)
      await other.run(async ({ vmring }, region) => {
        await vmring.attach({ region })
      }, `file:${file}`)
    expectFailure(await attachTo(`file:${file}`), 'ERR_VMRING_TOO_MANY_PEERS', /section/)
    await expectUnharmed()
  })

  test('section full: the rest goes on, and there is room again when a channel is closed', async () => {
    const failure = await failureOf(async ({ state }) => {
      for (;;) state.badChannel = await state.peer.connect('echo', { ringSize: 2 ** 18 })
    })
    expectFailure(failure, 'ERR_VMRING_SECTION_FULL', /section/)
    await expectUnharmed()
    await subject.run(async ({ state }) => {
      await state.badChannel.close()
      const deadline = Date.now() + 10_000
      for (;;) {
        try {
          state.badChannel = await state.peer.connect('echo', { ringSize: 2 ** 18 })
          return
        } catch (error) {
          // the other side lets go of the old ring a moment later
          if (Date.now() > deadline) throw error
          await new Promise((resolve) => setTimeout(resolve, 20))
        }
      }
    })
    await expectUnharmed()
  })

  test.each([
    ['an empty name', ''],
    ['a name that is too long', 'x'.repeat(256)],
  ])('%s', async (_what, name) => {
    expectFailure(
      await failureOf(({ state }, service) => state.peer.listen(service), name),
      'ERR_VMRING_ARGUMENT',
      /name/,
    )
    expectFailure(
      await failureOf(({ state }, service) => state.peer.connect(service), name),
      'ERR_VMRING_ARGUMENT',
      /name/,
    )
    await expectUnharmed()
  })
})

describe('channels', () => {
  test('a message over the limit', async () => {
    const over = await failureOf(({ state }) => state.channel.send(new Uint8Array(2 ** 20 + 1)))
    expectFailure(over, 'ERR_VMRING_TOO_LARGE', /maxMessageSize/)
    for (const call of ['trySend', 'reserve'] as const) {
      const inline = await failureOf(({ state }, name) => {
        const length = state.channel.inlineLimit + 1
        return name === 'reserve'
          ? state.channel.reserve(length)
          : state.channel.trySend(new Uint8Array(length))
      }, call)
      expectFailure(inline, 'ERR_VMRING_TOO_LARGE', /send\(\)/)
    }
    await expectUnharmed()
  })

  test('what is no bytes, and sizes that are none', async () => {
    const text = await failureOf(({ state }) => state.channel.trySend('text' as unknown as Uint8Array))
    expectFailure(text, 'ERR_VMRING_ARGUMENT', /Uint8Array/)
    const promised = await failureOf(({ state }) => state.channel.send(null as unknown as Uint8Array))
    expectFailure(promised, 'ERR_VMRING_ARGUMENT', /Uint8Array/)
    expectFailure(await failureOf(({ state }) => state.channel.reserve(-1)), 'ERR_VMRING_ARGUMENT', /-1/)
    const ring = await failureOf(({ state }) => state.peer.connect('echo', { ringSize: 3 }))
    expectFailure(ring, 'ERR_VMRING_ARGUMENT', /power of two/)
    await expectUnharmed()
  })

  test('use after close', async () => {
    await subject.run(async ({ state }) => {
      state.badChannel = await state.peer.connect('echo')
      await state.badChannel.close()
    })
    const uses: ((context: { state: State }) => unknown)[] = [
      ({ state }) => state.badChannel.trySend(new Uint8Array(1)),
      ({ state }) => state.badChannel.send(new Uint8Array(1)),
      ({ state }) => state.badChannel.reserve(1),
      ({ state }) => state.badChannel.usePath('shm'),
    ]
    for (const use of uses) expectFailure(await failureOf(use), 'ERR_VMRING_CLOSED', /closed|ended|over/)
    // asking for what is no more there is no mistake
    await subject.run(async ({ state }) => {
      if (state.badChannel.receive() !== null) throw new Error('a message after the end')
      await state.badChannel.close()
      state.badChannel.destroy()
      state.badChannel.end()
      state.badChannel.stats()
    })
    await expectUnharmed()

    const file = await formatted()
    await subject.run(async ({ vmring, state }, address) => {
      state.bad = await vmring.attach({ region: address })
      await state.bad.close()
    }, `file:${file}`)
    expectFailure(await failureOf(({ state }) => state.bad.listen('x')), 'ERR_VMRING_CLOSED', /closed/)
    expectFailure(await failureOf(({ state }) => state.bad.connect('x')), 'ERR_VMRING_CLOSED', /closed/)
    await expectUnharmed()
  })

  test('a lease used twice, or beside another, or beyond its length', async () => {
    const twice: ((context: { state: State }) => unknown)[] = [
      ({ state }) => {
        const lease = state.channel.reserve(8)!
        lease.abort()
        lease.commit()
      },
      ({ state }) => {
        const lease = state.channel.reserve(8)!
        lease.abort()
        lease.abort()
      },
      ({ state }) => {
        const lease = state.channel.reserve(8)!
        try {
          state.channel.reserve(8)
        } finally {
          lease.abort()
        }
      },
      ({ state }) => {
        const lease = state.channel.reserve(8)!
        try {
          state.channel.trySend(new Uint8Array(8))
        } finally {
          lease.abort()
        }
      },
    ]
    for (const use of twice) expectFailure(await failureOf(use), 'ERR_VMRING_LEASE', /lease/)
    const beyond = await failureOf(({ state }) => {
      const lease = state.channel.reserve(8)!
      try {
        lease.commit(9)
      } finally {
        lease.abort()
      }
    })
    expectFailure(beyond, 'ERR_VMRING_ARGUMENT', /9/)
    // nothing of all this was sent
    await expectUnharmed()
  })

  test('a view used after release, and after its handler', async () => {
    const failures = (await subject.run(async ({ state }) => {
      const channel = await state.peer.connect('echo')
      const kept = await new Promise<State['message']>((resolve) => {
        channel.on('message', (message) => resolve(message))
        channel.trySend(new Uint8Array(8))
      })
      await new Promise(setImmediate)
      const failures: unknown[] = []
      const uses = [
        () => kept.view,
        () => kept.copy(),
        () => kept.text(),
        () => kept.json(),
        () => kept.retain(),
      ]
      for (const use of uses) {
        try {
          use()
          failures.push(null)
        } catch (error) {
          failures.push({ code: (error as Failure).code, message: (error as Failure).message })
        }
      }
      kept.release()
      await channel.close()
      return failures
    })) as Failure[]
    expect(failures.length).toBe(5)
    for (const failure of failures) expectFailure(failure, 'ERR_VMRING_RELEASED', /retain\(\)/)
    await expectUnharmed()
  })

  test('two ways of receiving on one channel', async () => {
    const second = await failureOf(({ state }) => {
      state.channel.receive()
      state.channel.on('message', () => {})
    })
    expectFailure(second, 'ERR_VMRING_RECEIVE_MODE', /receive\(\)/)
    const third = await failureOf(async ({ state }) => {
      for await (const message of state.channel) message.release()
    })
    expectFailure(third, 'ERR_VMRING_RECEIVE_MODE', /receive\(\)/)
    const other = await failureOf(async ({ state }) => {
      const channel = await state.peer.connect('echo')
      channel.on('message', () => {})
      try {
        channel.receive()
      } finally {
        channel.destroy()
      }
    })
    expectFailure(other, 'ERR_VMRING_RECEIVE_MODE', /message/)
    await expectUnharmed()
  })
})
