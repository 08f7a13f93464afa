/**
 * A connection that cuts, stalls, splits and delays at every byte of a whole conversation, and of the handshake with the relay:
 * nothing is lost, nothing doubled, nothing hangs, and who cannot go on says so with a code. The same over virtio sockets:
 * test/vm/broken.test.ts.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { startHost } from '../../src/host/daemon.js'
import { attach, type Peer } from '../../src/index.js'
import { all, breakAll, kinds, type Sample, ways, whole } from '../support/broken-conversation.js'
import { type Break, BrokenSocket } from '../support/broken-socket.js'

const LONG = process.env.VMRING_LONG !== undefined
const LIMIT_MS = LONG ? 3_600_000 : 300_000
/** Beyond the handshake records and acknowledgements repeat themselves. */
const sample: Sample = LONG ? whole : { dense: 200, stride: 9, shifts: 1 }

const cleanups: (() => unknown)[] = []
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean()
})

test.each(kinds.flatMap((kind) => ways.map((way) => [kind, way] as const)))(
  'a broken connection: %s, %s',
  async (kind, way) => {
    const came = await breakAll(kind, way, sample)
    if (LONG) console.log(`${kind}, ${way}: ${JSON.stringify(came)}`)
  },
  LIMIT_MS,
)

test(
  'the handshake with the relay, cut at every byte: attach() says so, or another connection does',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'vmring-broken-relay-'))
    cleanups.push(() => rmSync(folder, { recursive: true, force: true }))
    const host = await startHost({ socket: join(folder, 'host'), size: 2 ** 20, sections: 2 })
    cleanups.push(() => host.close())
    const relay = join(folder, 'host.relay')
    const listening = await attach({ region: null, relay: `unix:${relay}` })
    cleanups.push(() => listening.close())
    const server = await listening.listen('orders')
    server.on('channel', (channel) => channel.on('message', (message) => void channel.send(message.copy())))

    /** Attaches, opens a channel and asks once; the first `connections` are broken. */
    const ask = async (...plans: Break[]) => {
      const socket = await BrokenSocket.before({ path: relay })
      socket.plans.push(...plans)
      let peer: Peer | null = null
      try {
        const start = () =>
          attach({ region: null, relay: `unix:${(socket.address as { path: string }).path}` })
        peer = await start().catch((error: { code?: string }) => {
          expect(error.code).toMatch(/^ERR_VMRING_|^E[A-Z]+$/)
          return start()
        })
        const open = () => peer!.connect('orders', { wait: 10_000 })
        const channel = await open().catch((error: { code?: string }) => {
          expect(error.code).toMatch(/^ERR_VMRING_|^ECONN/)
          return open()
        })
        const answer = new Promise<string>((resolve) =>
          channel.once('message', (message) => resolve(message.text())),
        )
        await channel.send(Buffer.from('whole'))
        expect(await answer).toBe('whole')
        await channel.close()
      } finally {
        await peer?.close()
        socket.close()
      }
      return socket
    }
    const whole = await ask()
    expect(whole.bytes.to).toBeGreaterThan(100)
    const none: Break = { way: 'to', at: Number.POSITIVE_INFINITY, how: 'cut' }
    // the control connection, then the one that dials; a later byte than there is breaks nothing
    const step = LONG ? 1 : 3
    const bytes = Array.from({ length: Math.ceil(64 / step) }, (_, i) => i * step)
    const plans = (['to', 'from'] as const).flatMap((way) =>
      bytes.flatMap((at): Break[][] => [[{ way, at, how: 'cut' }], [none, { way, at, how: 'cut' }]]),
    )
    await all(plans, (plan) => ask(...plan))
  },
  LIMIT_MS,
)
