/** vmring/vsock: arguments and failures, without a socket. AF_VSOCK itself is opened in guests only (test/vm/vsock.test.ts). */
import { expect, test } from 'vitest'
import { VmringError } from '../../src/index.js'
import { connectFailure, listenFailure, ownCid } from '../../src/vsock/failure.js'
import * as vsock from '../../src/vsock/index.js'

const argument = (pattern: RegExp) =>
  expect.objectContaining({ code: 'ERR_VMRING_ARGUMENT', message: expect.stringMatching(pattern) })

test.each([
  [undefined, /connect\(\) takes an object/],
  [5000, /connect\(\) takes an object.*not 5000/],
  [{}, /cid is a whole number/],
  [{ port: 5000 }, /cid is a whole number.*not undefined/],
  [{ cid: 2 }, /port is a whole number.*not undefined/],
  [{ cid: -1, port: 1 }, /cid is a whole number from 0 to 4294967294.*not -1/],
  [{ cid: 2 ** 32, port: 1 }, /not 4294967296/],
  [{ cid: vsock.VMADDR_CID_ANY, port: 1 }, /only for listen/],
  [{ cid: 2, port: vsock.VMADDR_PORT_ANY }, /only for listen/],
  [{ cid: 2, port: 1.5 }, /port .*not 1.5/],
  [{ cid: '2', port: 1 }, /cid .*not '2'/],
  [{ cid: true, port: 1 }, /cid .*not true/],
  [{ cid: Number.NaN, port: 1 }, /cid .*not NaN/],
  [{ cid: 2, uds: '/x', port: 1 }, /cid or uds, not both/],
  [{ uds: '', port: 1 }, /uds is the path/],
  [{ uds: 'a\0b', port: 1 }, /uds is the path/],
  [{ uds: {}, port: 1 }, /uds is the path.*not an object/],
  [{ uds: '/x', port: -1 }, /port/],
  [{ uds: `/${'x'.repeat(107)}`, port: 1 }, /at most 107 bytes/],
  [{ uds: '/x', port: 1, timeout: -1 }, /timeout is a number of milliseconds/],
  [{ uds: '/x', port: 1, timeout: Number.NaN }, /timeout/],
  [{ uds: '/x', port: 1, connectTimeout: 0 }, /connectTimeout/],
  [{ uds: '/x', port: 1, connectTimeout: '5' }, /connectTimeout/],
  [{ uds: '/x', port: 1, signal: {} }, /signal is an AbortSignal/],
])('connect(%j)', (options, pattern) => {
  expect(() => vsock.connect(options as never)).toThrow(argument(pattern))
})

test.each([
  [undefined, /listen\(\) takes an object/],
  [{}, /port is a whole number/],
  [{ port: 2 ** 32 }, /port is a whole number from 0 to 4294967295/],
  [{ port: 1, cid: 2 ** 32 }, /cid/],
  [{ port: 1, cid: 1, uds: '/x' }, /not both/],
  [{ port: vsock.VMADDR_PORT_ANY, uds: '/x' }, /port/],
  [{ port: 1_000_000, uds: `/${'x'.repeat(100)}` }, /x_1000000: .*at most 107 bytes/],
  [{ port: 1, uds: '/x', mode: 0o1777 }, /mode/],
  [{ port: 1, uds: '/x', backlog: 0 }, /backlog/],
  [{ port: 1, uds: '/x', signal: 1 }, /signal/],
])('listen(%j)', (options, pattern) => {
  const server = vsock.createServer()
  expect(() => server.listen(options as never)).toThrow(argument(pattern))
  expect(server.listening).toBe(false)
  expect(server.address()).toBe(null)
})

test('listeners and callbacks are functions', () => {
  expect(() => vsock.createServer({}, 1 as never)).toThrow(argument(/listener is a function/))
  expect(() => vsock.createServer(1 as never)).toThrow(argument(/createServer\(\) takes an object/))
  expect(() => vsock.createServer().close(1 as never)).toThrow(argument(/callback is a function/))
  expect(() => vsock.connect({ uds: '/x', port: 1 }, 1 as never)).toThrow(argument(/listener/))
})

const from = (code: string) => Object.assign(new Error(code), { code, errno: -1, syscall: 'below' })

test.each([
  ['ECONNRESET', { cid: 3, port: 7 }, 'ECONNREFUSED', /nobody listens at this port/],
  ['ECONNREFUSED', { cid: 3, port: 7 }, 'ECONNREFUSED', /nobody listens/],
  ['ENODEV', { cid: 1, port: 7 }, 'ENODEV', /modprobe vsock_loopback/],
  ['ENODEV', { cid: 2, port: 7 }, 'ENODEV', /modprobe vmw_vsock_virtio_transport.*vhost-vsock-pci/],
  ['ENODEV', { cid: 9, port: 7 }, 'ENODEV', /no guest with this CID.*modprobe vhost_vsock/],
  ['ETIMEDOUT', { cid: 9, port: 7 }, 'ETIMEDOUT', /no machine with this CID answered/],
  ['EAFNOSUPPORT', { cid: 9, port: 7 }, 'EAFNOSUPPORT', /modprobe vsock`/],
  ['EPERM', { cid: 9, port: 7 }, 'EPERM', /seccomp/],
  ['EPIPE', { uds: '/v', port: 7 }, 'ECONNREFUSED', /start the listener in the guest/],
  ['ENOENT', { uds: '/v', port: 7 }, 'ENOENT', /start the virtual machine/],
])('connecting meets %s at %j', (code, at, expected, cure) => {
  const cause = from(code)
  const error = connectFailure(cause, at)
  expect(error).toBeInstanceOf(VmringError)
  const address = 'uds' in at ? at.uds : String(at.cid)
  expect(error).toMatchObject({ code: expected, syscall: 'connect', address, port: 7, cause })
  expect((error as NodeJS.ErrnoException).errno).toBeLessThan(0)
  expect(error.message).toMatch(new RegExp(`^connect ${expected} .*7: .*${cure.source}`))
})

test.each([
  ['EACCES', { cid: 0xffffffff, port: 80 }, /below 1024 need .*CAP_NET_BIND_SERVICE/],
  ['EADDRINUSE', { cid: 0xffffffff, port: 8000 }, /another socket listens/],
  ['EADDRNOTAVAIL', { cid: 1, port: 8000 }, /modprobe vsock_loopback/],
  ['EADDRNOTAVAIL', { cid: 77, port: 8000 }, /does not have this CID.*localCid\(\)/],
  ['EAFNOSUPPORT', { cid: 0xffffffff, port: 8000 }, /modprobe vsock`.*vhost_vsock/],
  ['EADDRINUSE', { uds: '/v', port: 8000 }, /\/v_8000/],
])('listening meets %s at %j', (code, at, cure) => {
  expect(listenFailure(from(code), at)).toMatchObject({
    code,
    syscall: 'listen',
    port: at.port,
    message: expect.stringMatching(cure),
  })
})

test('what has no cure of ours keeps its shape and gets the address', () => {
  expect(connectFailure(from('EMFILE'), { cid: 3, port: 7 })).toMatchObject({
    code: 'EMFILE',
    syscall: 'below',
    address: '3',
    port: 7,
  })
})

test('the own CID', () => {
  expect(ownCid(() => 42)).toBe(42)
  const throwing = (error: Error) => () => {
    throw error
  }
  const modules = expect.stringMatching(/modprobe vmw_vsock_virtio_transport.*vhost_vsock/)
  expect(() => ownCid(() => 0xffffffff)).toThrow(
    expect.objectContaining({ code: 'ENODEV', message: modules }),
  )
  expect(() => ownCid(throwing(from('ENOENT')))).toThrow(expect.objectContaining({ code: 'ENODEV' }))
  expect(() => ownCid(throwing(from('EACCES')))).toThrow(
    expect.objectContaining({ code: 'EACCES', message: expect.stringMatching(/\/dev\/vsock/) }),
  )
})
