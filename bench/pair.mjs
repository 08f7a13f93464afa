// Two peers in this process over a plain region of their own, and a channel between them.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { attach } from '../dist/index.js'
import { native } from '../dist/native/binding.js'

/** { near, far, close }: the two ends of the channel */
export async function channelPair() {
  const dir = mkdtempSync(join(tmpdir(), 'vmring-bench-'))
  const path = join(dir, 'region')
  const region = native.Region.open(path, 16 * 1024 * 1024)
  region.format({ sections: 4, daemonIncarnation: 0 })
  region.close()
  const [a, b] = [await attach({ region: `file:${path}` }), await attach({ region: `file:${path}` })]
  const server = await b.listen('bench')
  const accepted = new Promise((resolve) => server.once('channel', resolve))
  // long enough for valgrind
  const near = await a.connect('bench', { wait: 60_000 })
  const far = await accepted
  const close = async () => {
    await Promise.all([near.close(), far.close()])
    await Promise.all([a.close(), b.close()])
    rmSync(dir, { recursive: true, force: true })
  }
  return { near, far, close }
}
