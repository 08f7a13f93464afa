// Unmodified programs under vmring/register.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { expect, test } from 'vitest'
import { type Process, root, scratch, startDaemon, startNode, until } from '../support/processes.js'

const register = join(root, 'dist/register/index.js')
const ways = { '--import': pathToFileURL(register).href, '--require': register }

interface Run {
  map?: string
  region?: string
  way?: keyof typeof ways
  env?: NodeJS.ProcessEnv
}

function start(code: string, { map, region, way = '--import', env }: Run): Process {
  return startNode(['-e', code], {
    execArgv: [way, ways[way], `--input-type=${/\bimport\b/.test(code) ? 'module' : 'commonjs'}`],
    env: { ...(map !== undefined && { VMRING_MAP: map }), ...(region && { VMRING_REGION: region }), ...env },
  })
}

async function done(process_: Process): Promise<string> {
  const { code, stdout, stderr } = await process_.finish()
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return stdout.toString().trim()
}

const ready = (server: Process) => until(() => !server.alive || server.stdout.length > 0, 20_000)

const servers = {
  cjs: `require('net').createServer((s) => s.end('over ' + s.constructor.name)).listen(ADDRESS, () => console.log('ready'))`,
  esm: `import { Server } from 'node:net'
    new Server((s) => s.end('over ' + s.constructor.name)).listen(ADDRESS, () => console.log('ready'))`,
}

const clients = {
  'net.connect': `require('net').connect(ADDRESS).pipe(process.stdout)`,
  'an import by name': `import { createConnection } from 'net'; createConnection(ADDRESS).pipe(process.stdout)`,
  'new Socket, connected later': `const s = new (require('net').Socket)({ allowHalfOpen: false })
    s.setNoDelay(true).setKeepAlive(true).setTimeout(30_000)
    s.on('connect', () => s.write('hello')).pipe(process.stdout)
    setImmediate(() => s.connect(ADDRESS))`,
  'Socket without new': `const s = require('net').Socket(); s.connect(ADDRESS).pipe(process.stdout)`,
}

test('connections by a path and by a port, made in every way, with --import and with --require', async () => {
  const { region } = await startDaemon(['--sections', '12'])
  const path = join(scratch(), 'app.sock')
  const map = `${path}=orders,localhost:7=echo`
  const places = [
    { way: '--import', server: servers.cjs, address: JSON.stringify(path) },
    { way: '--require', server: servers.esm, address: '{ port: 7, host: "localhost" }' },
  ] as const
  for (const { way, server, address } of places) {
    const listener = start(server.replace('ADDRESS', address), { map, region, way })
    await ready(listener)
    const answers = Object.entries(clients).map(async ([name, client]) => [
      name,
      await done(start(client.replace('ADDRESS', address), { map, region, way })),
    ])
    expect(await Promise.all(answers)).toEqual(Object.keys(clients).map((name) => [name, 'over Socket']))
    expect(listener.stderr).toBe('')
  }
})

test('NODE_DEBUG=vmring shows the map and the path of every connection', async () => {
  const { region } = await startDaemon()
  const env = { NODE_DEBUG: 'vmring' }
  const run = { map: '127.0.0.1:7=echo', region, env }
  const server = start(servers.cjs.replace('ADDRESS', '7, "127.0.0.1"'), run)
  await ready(server)
  const client = await start(clients['net.connect'].replace('ADDRESS', '7, "127.0.0.1"'), run).finish()
  for (const { stderr } of [server, client]) {
    expect(stderr).toMatch(/^VMRING \d+: 127\.0\.0\.1:7 leads to service echo$/m)
    expect(stderr).toMatch(/^VMRING \d+: 127\.0\.0\.1:7: a channel of service echo, path shm$/m)
  }
})

test('addresses outside the map stay sockets of the kernel, without a region too', async () => {
  const path = join(scratch(), 'real.sock')
  const code = `
    const net = require('net'), fs = require('fs')
    const server = net.createServer((s) => s.end('plain')).listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      const other = net.createServer((s) => s.end('path')).listen(process.env.FILE, () => {
        console.log(fs.lstatSync(process.env.FILE).isSocket())
        const a = net.connect(port, '127.0.0.1').on('data', (data) => {
          console.log(String(data), a._handle.constructor.name, Object.getPrototypeOf(a) === net.Socket.prototype)
          net.connect(process.env.FILE).on('data', (data) => { console.log(String(data)); server.close(); other.close() })
        })
      })
    })`
  const run = {
    map: '127.0.0.1:1=other,/tmp/other.sock=other',
    region: `unix:${path}.none`,
    env: { FILE: path },
  }
  expect(await done(start(code, run))).toBe('true\nplain TCP true\npath')
})

test('an http server and fetch, both unchanged', async () => {
  const { region } = await startDaemon()
  const run = { map: 'localhost:8088=web', region }
  const server = start(
    `require('http').createServer((q, r) => q.pipe(r)).listen(8088, () => console.log('ready'))`,
    run,
  )
  await ready(server)
  const body = readFileSync(join(root, 'package-lock.json'), 'utf8')
  const client = start(
    `import { readFileSync } from 'fs'
     const body = readFileSync('package-lock.json', 'utf8')
     const answer = await fetch('http://localhost:8088/', { method: 'POST', body })
     console.log(await answer.text() === body, body.length)`,
    run,
  )
  expect(await done(client)).toBe(`true ${body.length}`)
})

test('nobody listens, and a service in use: the codes of node:net, the error of vmring underneath', async () => {
  const { region } = await startDaemon()
  const run = { map: '127.0.0.1:7=echo,/tmp/none.sock=nobody', region }
  const tell = `.on('error', (e) => console.log(e.code, e.syscall, e.address, e.port, e.cause.code))`
  expect(await done(start(`require('net').connect(7, '127.0.0.1')${tell}`, run))).toBe(
    'ECONNREFUSED connect 127.0.0.1 7 ECONNREFUSED',
  )
  expect(await done(start(`require('net').connect('/tmp/none.sock')${tell}`, run))).toBe(
    'ENOENT connect /tmp/none.sock undefined ECONNREFUSED',
  )
  const server = start(servers.cjs.replace('ADDRESS', '7, "127.0.0.1"'), run)
  await ready(server)
  expect(await done(start(`require('net').createServer().listen(7, '127.0.0.1')${tell}`, run))).toBe(
    'EADDRINUSE listen 127.0.0.1 7 EADDRINUSE',
  )
})

test('http2 and tls: what connects says so, and not before', async () => {
  const { region } = await startDaemon()
  const run = { map: '127.0.0.1:7=h2,127.0.0.1:8=nobody', region }
  const events = `.on('connect', () => console.log('connect')).on('error', (e) => console.log(e.code)).on('close', () => console.log('close'))`
  expect(await done(start(`require('http2').connect('http://127.0.0.1:8')${events}`, run))).toBe(
    'ECONNREFUSED\nclose',
  )
  const server = start(
    `require('http2').createServer((q, r) => r.end(q.url)).listen(7, '127.0.0.1', () => console.log('ready'))`,
    run,
  )
  await ready(server)
  const client = `const session = require('http2').connect('http://127.0.0.1:7')${events}
    session.request({ ':path': '/over-http2' }).on('data', (data) => console.log(String(data))).on('close', () => session.close())`
  expect(await done(start(client, run))).toBe('connect\n/over-http2\nclose')
  // wrong options are thrown, and nothing is left that connects; a signal is heard
  const wrong = `const tls = require('tls')
    try { tls.connect({ port: 8, host: '127.0.0.1', minVersion: 'none' }) } catch (e) { console.log(e.code) }
    const stop = new AbortController()
    tls.connect({ port: 7, host: '127.0.0.1', signal: stop.signal }).on('error', (e) => console.log(e.code))
    stop.abort()`
  expect(await done(start(wrong, run))).toBe('ERR_TLS_INVALID_PROTOCOL_VERSION\nABORT_ERR')
}, 120_000)

test('no daemon: a mapped address is refused, with the reason', async () => {
  const run = { map: '127.0.0.1:7=echo', region: `unix:${join(scratch(), 'none.sock')}` }
  const code = `require('net').connect(7, '127.0.0.1').on('error', (e) => console.log(e.syscall, e.code, e.cause.message))`
  expect(await done(start(code, run))).toMatch(/^connect (ENOENT|ECONNREFUSED) .*none\.sock/)
})

test.each(['--import', '--require'] as const)(
  '%s: a map with an error ends the program before it starts',
  async (way) => {
    const { code, stdout, stderr } = await start(`console.log('started')`, { map: '/a=b,c', way }).finish()
    expect({ code, stdout: String(stdout) }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toContain('VMRING_MAP, column 7: \'=\' and the name of a service are missing after "c"')
    expect(stderr).toContain("code: 'ERR_VMRING_MAP'")
  },
)
