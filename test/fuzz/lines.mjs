// Lines and files: the answer to CONNECT, the policy of a relay, VMRING_MAP.
import { allowed, parsePolicy } from '../../dist/host/policy.js'
import { parseMap } from '../../dist/register/map.js'
import { connectLine, Reply } from '../../dist/vsock/hybrid.js'
import { expect, led, pieces, typed } from './common.mjs'

export const hybrid = {
  files: ['dist/vsock/hybrid.js'],
  seeds: [
    'OK 1073741824\n',
    'OK 1\nhello',
    'OK 4294967296\n',
    'OK 00000000001\n',
    'HTTP/1.1 400 Bad Request\r\n',
    connectLine(5),
  ].map((text) => led([Buffer.from(text)], 3)),
  dictionary: ['OK ', '\n', '4294967295', '-1', '0x10', '1e3'],
  run(bytes) {
    const read = (chunks) => {
      const reply = new Reply()
      let rest = Buffer.alloc(0)
      for (const chunk of chunks) {
        for (let at = 0; at < chunk.length; ) {
          const { target: place } = reply
          expect(place.length > 0, 'a reply without room that wants more')
          const length = Math.min(place.length, chunk.length - at)
          place.set(chunk.subarray(at, at + length))
          at += length
          const result = reply.read(length)
          if (result === 'more') continue
          if (result === 'wrong') {
            expect(reply.fault({ port: 1 }).code === 'ERR_VMRING_VSOCK_HANDSHAKE', 'a fault without its code')
            return 'wrong'
          }
          const { hostPort } = result
          expect(Number.isInteger(hostPort) && hostPort >= 0 && hostPort <= 0xffffffff, `port ${hostPort}`)
          rest = Buffer.concat([result.rest, chunk.subarray(at)])
          return { hostPort, rest }
        }
      }
      return 'more'
    }
    const stop = (result) => (typeof result === 'object' ? result.hostPort : result)
    const whole = read([bytes.subarray(1)])
    expect(stop(whole) === stop(read(pieces(bytes))), 'an answer that depends on how the bytes were cut')
    if (typeof whole === 'object')
      expect(
        bytes.subarray(bytes.length - whole.rest.length).equals(whole.rest),
        'bytes behind the answer that are lost',
      )
  },
}

export const policy = {
  files: ['dist/host/policy.js'],
  seeds: [
    '{"rules":[{"who":"uid:1000","listen":["orders","app-*"],"connect":["*"]},{"who":"cid:*"}]}',
    '{"rules":[]}',
    '{"rules":[{"who":"*","listen":[]}], "x": [1e3, true, null, "\\u0041"]}',
    '[[[[[[[[',
  ].map((text) => Buffer.from(text)),
  dictionary: [
    '"who":',
    '"uid:4294967296"',
    '"cid:*"',
    '"*"',
    '{"rules":[',
    ']',
    '}',
    ',',
    '"listen":',
    '"connect":',
    '\\u',
    '1e9',
    '"__proto__":',
  ],
  run(bytes) {
    const { value, error } = typed(['ERR_VMRING_POLICY_FILE'], () =>
      parsePolicy(bytes.toString('utf8'), 'a file'),
    )
    if (error !== undefined) {
      expect(typeof error.field === 'string', 'an error without its field')
      const line = /^line (\d+)$/.exec(error.field)
      if (line)
        expect(Number(line[1]) <= bytes.toString('utf8').split('\n').length, 'a line that is not there')
      return
    }
    for (const who of ['uid:0', 'uid:1000', 'cid:3']) {
      const { listen, connect } = value.rights(who)
      for (const name of ['orders', 'a'.repeat(255)])
        expect(typeof (allowed(listen, name) && allowed(connect, name)) === 'boolean', 'no answer')
    }
  },
}

export const map = {
  files: ['dist/register/map.js'],
  seeds: [
    '/tmp/app.sock=orders,127.0.0.1:6379=cache,localhost:3000=web,*:8080=metrics',
    '[::1]:80=a\\,b , ./x\\==c\\\\',
    'a=b=c',
    ' *:1=\\ ',
  ].map((text) => Buffer.from(text)),
  dictionary: ['=', ',', '\\', ' ', '[::1]:80', '*:65535', ':65536', '/a', 'localhost:', '\0'],
  run(bytes) {
    const text = bytes.toString('utf8')
    const { value, error } = typed(['ERR_VMRING_MAP'], () => parseMap(text))
    if (error !== undefined) {
      expect(Number.isInteger(error.column) && error.column >= 1, 'an error without its column')
      expect(error.column <= Math.max(text.length, 64 * 1024) + 1, 'a column behind the end')
      return
    }
    for (const { address, service } of value.entries) {
      expect(
        Buffer.byteLength(service) >= 1 && Buffer.byteLength(service) <= 255,
        'a service of impossible length',
      )
      const at = address.lastIndexOf(':')
      const found = /^[/.]/.test(address)
        ? value.lookup({ path: address })
        : value.lookup({ host: address.slice(0, at), port: Number(address.slice(at + 1)) })
      expect(found === service, `${address} leads to ${found}`)
    }
  },
}
