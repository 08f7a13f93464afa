import { expect, test } from 'vitest'
import { VmringError } from '../../src/errors.js'
import { parseMap } from '../../src/register/map.js'

const pairs = (text: string) => parseMap(text).entries.map(({ address, service }) => [address, service])

test('paths and ports, each with its service', () => {
  expect(pairs('/tmp/app.sock=orders,127.0.0.1:6379=cache')).toEqual([
    ['/tmp/app.sock', 'orders'],
    ['127.0.0.1:6379', 'cache'],
  ])
  expect(pairs('')).toEqual([])
  expect(pairs(' \n')).toEqual([])
  expect(pairs('  [::1]:80 = a b ,\n ./x=y\t, Localhost:1=z,*:65535=all')).toEqual([
    ['::1:80', 'a b'],
    ['./x', 'y'],
    ['localhost:1', 'z'],
    ['*:65535', 'all'],
  ])
  expect(pairs('/a\\,b\\=c\\\\d\\ =e\\,f')).toEqual([['/a,b=c\\d ', 'e,f']])
  expect(pairs('/straße/☕=ünï')).toEqual([['/straße/☕', 'ünï']])
})

test('addresses match as they are written', () => {
  const map = parseMap('/a=path,127.0.0.1:1=ip,localhost:2=local,*:3=any,[::1]:4=six,0.0.0.0:5=all')
  const at = (host: string | undefined, port: number) =>
    map.lookup({ port, ...(host !== undefined && { host }) })
  expect(map.lookup({ path: '/a' })).toBe('path')
  expect(map.lookup({ path: '/a/' })).toBe(null)
  expect(map.lookup({})).toBe(null)
  expect([at('127.0.0.1', 1), at('localhost', 1), at(undefined, 1)]).toEqual(['ip', null, null])
  expect([at('LOCALHOST', 2), at(undefined, 2), at('127.0.0.1', 2)]).toEqual(['local', 'local', null])
  expect([at('example.org', 3), at(undefined, 3)]).toEqual(['any', 'any'])
  expect([at('::1', 4), at(undefined, 4), at(undefined, 5)]).toEqual(['six', null, 'all'])
  // names that Object has too
  expect(parseMap('/a=b').lookup({ path: 'constructor' })).toBe(null)
})

test.each([
  ['orders', 7, /'=' and the name of a service are missing after "orders"/],
  ['/a=b,/c', 8, /missing after "\/c"/],
  ['/a=b,', 5, /an entry is empty/],
  [',/a=b', 1, /an entry is empty/],
  ['/a=b,,/c=d', 6, /an entry is empty/],
  ['/a=', 4, /1 to \d+ bytes, this one 0/],
  [`/a=${'x'.repeat(300)}`, 4, /this one 300/],
  ['=b', 1, /"" is no address/],
  ['/a=b=c', 5, /a second '='/],
  ['/a=b, app.sock=c', 7, /"app.sock" is no address: write HOST:PORT/],
  ['::1:80=a', 1, /\[IPV6\]:PORT/],
  [':80=a', 1, /'\*:80' is every host/],
  ['a:0=b', 1, /1 to 65535/],
  ['a:65536=b', 1, /1 to 65535/],
  ['a:port=b', 1, /no address/],
  ['/a=b,/a=c', 6, /already/],
  ['A:1=b,a:1=c', 7, /already/],
  ['/a\\', 3, /before nothing/],
  ['/a\0=b', 3, /zero character/],
  ['x'.repeat(70_000), 65_537, /at most 65536 characters/],
  [Array.from({ length: 1025 }, (_, i) => `a:${i + 1}=b`).join(), 8_110, /at most 1024 entries/],
])('error %#', (text, column, message) => {
  let error: unknown
  try {
    parseMap(text)
  } catch (thrown) {
    error = thrown
  }
  expect(error).toBeInstanceOf(VmringError)
  expect(error).toMatchObject({ code: 'ERR_VMRING_MAP', column, message: expect.stringMatching(message) })
  expect((error as Error).message.length).toBeLessThan(300)
})

test('any text is a map or an error with a column inside it', () => {
  // a generator of its own, so that a failure can be repeated
  let seed = 1
  const random = (below: number) => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((seed / 2 ** 32) * below)
  }
  const parts = [
    '/a',
    '/tmp/x.sock',
    'host',
    '127.0.0.1',
    '[::1]',
    '[',
    ']',
    ':',
    ':80',
    ':99999',
    '=',
    '=',
    ',',
    '\\',
    ' ',
    '*',
    '.',
    'ü',
    '\0',
    '=s',
    '=s,',
  ]
  let maps = 0
  for (let round = 0; round < 20_000; round++) {
    const text = Array.from({ length: random(9) }, () => parts[random(parts.length)]).join('')
    try {
      const { entries } = parseMap(text)
      maps++
      // what was read can be written, and read again
      const literal = (name: string) => name.replace(/[,=\\ ]/g, '\\$&')
      const again = entries.map(({ address, service }) => {
        const host = /^(.*):(\d+)$/.exec(address)
        const ipv6 = host !== null && host[1]!.includes(':') && !/^[/.]/.test(address)
        return `${ipv6 ? `[${host[1]}]:${host[2]}` : literal(address)}=${literal(service)}`
      })
      expect(pairs(again.join())).toEqual(pairs(text))
      for (const { service } of entries) expect(service).not.toBe('')
    } catch (error) {
      if (!(error instanceof VmringError)) throw error
      const { column } = error as VmringError & { column: number }
      expect(column >= 1 && column <= text.length + 1, `${JSON.stringify(text)}: ${error.message}`).toBe(true)
    }
  }
  expect(maps).toBeGreaterThan(1000)
})
