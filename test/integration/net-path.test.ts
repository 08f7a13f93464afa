/** A large http response whose connection changes its path on the way: not a byte is lost, and http notices nothing. */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import http from 'node:http'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { askHost, hostStatus } from '../../src/host/admin-client.js'
import * as net from '../../src/net/index.js'
import { root, scratch, sleep, startDaemon, startNode, until } from '../support/processes.js'
import { relayOf } from '../support/relayed.js'

const SIZE = 48 * 2 ** 20
const PIECE = 64 * 1024

// each 64 KiB filled with its number
const server = `
import http from 'node:http'
import { createServer } from '${root}/dist/net/index.js'
const web = http.createServer((request, response) => {
  response.setHeader('content-length', ${SIZE})
  let number = 0
  const more = () => {
    while (number < ${SIZE / PIECE}) if (!response.write(Buffer.alloc(${PIECE}, number++ & 255))) return
    response.end()
  }
  response.on('drain', more)
  more()
})
createServer((socket) => web.emit('connection', socket)).listen('vmring:web', () => console.log('ready'))
`

function expected(): string {
  const hash = createHash('sha256')
  for (let number = 0; number < SIZE / PIECE; number++) hash.update(Buffer.alloc(PIECE, number & 255))
  return hash.digest('hex')
}

afterEach(() => net.usePeer(null))

test('from shared memory to the relay and back in the middle of a response', async () => {
  const daemon = await startDaemon()
  const relay = relayOf(daemon)
  const file = join(scratch(), 'server.mjs')
  writeFileSync(file, server)
  const child = startNode([file], { env: { VMRING_REGION: daemon.region, VMRING_RELAY: relay } })
  await until(() => !child.alive || child.stdout.length > 0, 30_000, 'the server')
  expect(child.stderr).toBe('')
  net.usePeer({ region: daemon.region, relay })
  const agent = new http.Agent()
  agent.createConnection = () => net.connect('vmring:web')
  const [response] = (await once(http.get({ host: 'web', agent }), 'response')) as [http.IncomingMessage]

  const status = async () => (await hostStatus(daemon.socket)).relay!
  const served = (await status()).peers.find(({ pid }) => pid === child.pid)!
  const revoke = (restore: boolean) => askHost(daemon.socket, { op: 'revoke', peer: served.uuid, restore })
  const hash = createHash('sha256')
  let received = 0
  let step = 0
  const relayed = async () => (await status()).peers.find(({ uuid }) => uuid === served.uuid)!.sent
  for await (const chunk of response as AsyncIterable<Buffer>) {
    hash.update(chunk)
    received += chunk.length
    if (step === 0 && received > SIZE / 4) {
      step++
      expect((await status()).counters.spliced).toBe(0)
      await revoke(false)
      await until(async () => (await relayed()) > 0, 30_000, 'the relay carries it')
    } else if (step === 1 && received > SIZE / 2) {
      step++
      // what came since went over the relay, but for what was in the rings
      expect(await relayed()).toBeGreaterThan(SIZE / 8)
      await revoke(true)
      await sleep(1000)
    }
  }
  expect([received, hash.digest('hex')]).toEqual([SIZE, expected()])
  expect(step).toBe(2)
  // and not all of the rest
  expect(await relayed()).toBeLessThan(SIZE / 2)
  agent.destroy()
}, 120_000)
