/** Servers that begin to listen under one name at the same moment: one listens, all others get EADDRINUSE, nobody's connection is lost. */
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import * as net from '../../src/net/index.js'
import { attach } from '../../src/peer/attach.js'
import { root, scratch, startDaemon, startNode, within } from '../support/processes.js'

const PROCESSES = 3
const ROUNDS = 25

const contender = `
import { once } from 'node:events'
import { connect, createServer } from '${root}/dist/net/index.js'
const servers = new Map()
process.on('message', async ({ name, at, close }) => {
  if (close) {
    servers.get(name)?.close()
    return
  }
  const server = createServer((socket) => socket.end(String(process.pid)))
  while (Date.now() < at);
  server.on('error', ({ code, syscall, cause }) => process.send({ name, lost: [code, syscall, cause.code] }))
  server.listen('vmring:' + name, () => {
    servers.set(name, server)
    process.send({ name, won: process.pid })
  })
})
connect('vmring:nobody').on('error', () => process.send({ ready: true }))
`

interface Told {
  name: string
  won?: number
  lost?: string[]
}

afterEach(() => net.usePeer(null))

test('processes: exactly one listens, and the others hear why not', async () => {
  const { region } = await startDaemon()
  const file = join(scratch(), 'contender.mjs')
  writeFileSync(file, contender)
  const all = Array.from({ length: PROCESSES }, () =>
    startNode([file], { env: { VMRING_REGION: region }, stdio: ['pipe', 'pipe', 'pipe', 'ipc'] }),
  )
  const next = () => Promise.all(all.map(async ({ child }) => (await once(child, 'message'))[0] as Told))
  await within(next(), 60_000, () => all.map(({ stderr }) => stderr).join(''))
  net.usePeer({ region })
  const answer = async (name: string) => {
    const socket = net.connect({ path: `vmring:${name}`, wait: 30_000 } as never).setEncoding('utf8')
    return (await once(socket, 'data'))[0] as string
  }
  for (let round = 0; round < ROUNDS; round++) {
    const name = `round-${round}`
    // who connects meanwhile gets to the one that stays
    const answered = answer(name)
    const told = next()
    const at = Date.now() + 10
    for (const { child } of all) child.send({ name, at })
    const results = await within(told, 60_000, `round ${round}`)
    const winners = results.filter(({ won }) => won !== undefined)
    expect(winners.length, JSON.stringify(results)).toBe(1)
    for (const { lost } of results.filter((one) => one !== winners[0]))
      expect(lost).toEqual(['EADDRINUSE', 'listen', 'EADDRINUSE'])
    expect(await answered).toBe(String(winners[0]!.won))
    for (const { child } of all) child.send({ name, close: true })
  }
}, 300_000)

test('two peers of one process, and a name that is free again', async () => {
  const { region } = await startDaemon()
  const peers = await Promise.all([1, 2].map(() => attach({ region })))
  const listen = (peer: unknown) =>
    new Promise<net.Server | string>((resolve) => {
      const server = net.createServer()
      server.on('error', (error: NodeJS.ErrnoException) => resolve(error.code!))
      server.listen({ path: 'vmring:one', peer } as never, () => resolve(server))
    })
  for (let round = 0; round < ROUNDS; round++) {
    const results = await Promise.all(peers.map(listen))
    expect(results.filter((one) => one === 'EADDRINUSE')).toHaveLength(1)
    const server = results.find((one) => typeof one !== 'string') as net.Server
    expect(peers.flatMap(({ services }) => services)).toEqual(['one'])
    server.close()
    await once(server, 'close')
  }
  for (const peer of peers) await peer.close()
}, 120_000)

test('one process that starts three servers of one name at once', async () => {
  const { region } = await startDaemon()
  net.usePeer({ region })
  const outcomes = [1, 2, 3].map(() => {
    const server = net.createServer().listen('vmring:one')
    return Promise.race([once(server, 'listening').then(() => server), once(server, 'error')])
  })
  const results = await Promise.all(outcomes)
  const servers = results.filter((one) => one instanceof net.Server)
  expect(servers).toHaveLength(1)
  expect(results.flat().filter((one) => (one as { code?: string }).code === 'EADDRINUSE')).toHaveLength(2)
  ;(servers[0] as net.Server).close()
})
