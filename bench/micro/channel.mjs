// Cases on the public Channel: two peers in this process over a plain region, so that what TypeScript adds to the rings shows.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { attach } from '../../dist/index.js'
import { native } from '../../dist/native/binding.js'

/** { cases: [{ name, records, fn }], close } */
export async function channelCases() {
  const dir = mkdtempSync(join(tmpdir(), 'vmring-bench-'))
  const path = join(dir, 'region')
  const region = native.Region.open(path, 16 * 1024 * 1024)
  region.format({ sections: 4, daemonIncarnation: 0 })
  region.close()
  const [a, b] = [await attach({ region: `file:${path}` }), await attach({ region: `file:${path}` })]
  const server = await b.listen('bench')
  const accepted = new Promise((resolve) => server.once('channel', resolve))
  const near = await a.connect('bench', { wait: 10_000 })
  const far = await accepted

  const drain = () => {
    const message = far.receive()
    if (message === null) throw new Error('receive found nothing')
    message.release()
  }
  const bytes = new Uint8Array(64)
  return {
    cases: [
      {
        name: 'Channel: trySend, then receive and release (64 B)',
        records: 1,
        fn: () => {
          if (!near.trySend(bytes)) throw new Error('trySend found no room')
          drain()
        },
      },
      {
        name: 'Channel: reserve and commit, then receive and release (64 B)',
        records: 1,
        fn: () => {
          const lease = near.reserve(64)
          if (lease === null) throw new Error('reserve found no room')
          lease.commit()
          drain()
        },
      },
      {
        name: 'Channel: receive from an empty inbox',
        records: 1,
        fn: () => {
          if (far.receive() !== null) throw new Error('receive found something')
        },
      },
    ],
    async close() {
      await Promise.all([near.close(), far.close()])
      await Promise.all([a.close(), b.close()])
      rmSync(dir, { recursive: true, force: true })
    },
  }
}
