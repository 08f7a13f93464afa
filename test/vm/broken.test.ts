// Virtio sockets that are cut, split, stalled and delayed at every byte, in a guest. `VMRING_LONG=1 npm run test:vm -- broken`; without
// VMRING_LONG it is the sample that vsock.test.ts has too.
import { afterAll, beforeAll, expect, it } from 'vitest'
import { Bed, type Guest } from '../../src/vm/index.js'
import { kinds, whole } from '../support/broken-conversation.js'
import { breakInGuest, fewBytes } from './broken.js'

const LIMIT_MS = 3 * 3_600_000
const sample = process.env.VMRING_LONG === undefined ? fewBytes : whole

let bed: Bed
let guest: Guest

beforeAll(async () => {
  bed = await Bed.open()
  const size = { memory: 1024, cpus: 1 }
  guest = await bed.boot({ name: 'broken', modules: [], iommu: false, lifetime: LIMIT_MS, ...size })
}, 300_000)

afterAll(() => bed?.close(), 30_000)

it.each(kinds)(
  '%s',
  async (kind) => {
    const came = await breakInGuest(guest, { sample, kinds: [kind], timeout: LIMIT_MS })
    console.log(came.map((one) => JSON.stringify(one)).join('\n'))
    expect(came).toHaveLength(2)
  },
  LIMIT_MS,
)
