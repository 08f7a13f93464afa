// Twenty processes that find the same blank memory at the same moment: one region comes of it, and nobody loses his section.
import { closeSync, ftruncateSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { native } from '../../src/native/binding.js'
import { scratch, within } from '../support/processes.js'
import { remote } from '../support/remote.js'

const PROCESSES = 20
const SECTIONS = 16
const ROUNDS = 12

interface State {
  peer: import('../../src/index.js').Peer | null
}

function blank(file: string): string {
  const fd = openSync(file, 'wx')
  ftruncateSync(fd, SECTIONS * 2 ** 20)
  closeSync(fd)
  return file
}

test('20 processes attach to a fresh file at once', async () => {
  const folder = scratch()
  const members = await Promise.all(Array.from({ length: PROCESSES }, () => remote<State>()))
  for (let round = 0; round < ROUNDS; round++) {
    const file = blank(join(folder, `ring${round}`))
    // all of them have heard of it by then
    const start = Date.now() + 400
    const joining = members.map((member) =>
      member.run(
        async ({ vmring, state }, region, at) => {
          state.peer = null
          while (Date.now() < at); // a timer would be some milliseconds late
          try {
            state.peer = await vmring.attach({ region, mode: 'event' })
            return { section: state.peer.section, uuid: state.peer.uuid }
          } catch (error) {
            return { code: (error as { code: string }).code }
          }
        },
        `file:${file}`,
        start,
      ),
    )
    const outcome = await within(Promise.all(joining), 60_000, () => 'somebody still attaches')
    const sections = outcome.flatMap((one) => one.section ?? [])
    expect(sections.sort((a, b) => a - b)).toEqual(Array.from({ length: SECTIONS }, (_, i) => i))
    const refused = outcome.flatMap((one) => one.code ?? [])
    expect(refused).toEqual(Array(PROCESSES - SECTIONS).fill('ERR_VMRING_TOO_MANY_PEERS'))

    // what each has claimed is still its own
    const region = native.Region.open(file)
    for (let section = 0; section < SECTIONS; section++) {
      expect(region.readEntry(section)).toMatchObject({ state: 1, peerId: section, generation: 1 })
      const uuid = outcome.find((one) => one.section === section)!.uuid
      expect(Buffer.from(region.readIdentity(section)!.uuid).toString('hex')).toBe(uuid)
    }
    region.close()
    await Promise.all(members.map((member) => member.run(async ({ state }) => state.peer?.close())))
  }
}, 400_000)

test('half a header, left by a process that died, is finished; anything else is refused', async () => {
  const whole = native.Region.open(blank(join(scratch(), 'whole')))
  whole.formatTogether(4)
  const header = new Uint8Array(whole.buffer, 0, 4096)
  // the number of sections comes first, then the uuid, then the rest in order, the magic last
  for (const end of [68, 34, 48, 56, 80, 88]) {
    const region = native.Region.open(blank(join(scratch(), 'half')))
    const view = new Uint8Array(region.buffer, 0, 4096)
    view.set(header.subarray(64, 68), 64)
    if (end !== 68) view.set(header.subarray(8, end), 8)
    expect(region.blank).toBe(true)
    region.formatTogether(16)
    expect(region.blank).toBe(false)
    expect(region.geometry()).toMatchObject({ sections: 4, plain: true })
    region.close()
  }
  for (const at of [9, 64 + 3, 200, 4095]) {
    const region = native.Region.open(blank(join(scratch(), 'other')))
    new Uint8Array(region.buffer)[at] = 0xff
    expect(region.blank).toBe(false)
    region.close()
  }
  whole.close()
})
