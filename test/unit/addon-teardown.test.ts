import { readdirSync } from 'node:fs'
import { Worker } from 'node:worker_threads'
import { describe, expect, it } from 'vitest'
import { addonPath, runProgram } from '../support/addon.js'
import { SLOW } from '../support/slow.js'

/** Opens one of everything, with traffic under way. */
const openEverything = `
  function everything(mode) {
    const region = native.Region.create('x', 1 << 22)
    region.format({ sections: 4, daemonIncarnation: 0 })
    const peers = [0, 1].map((section) => {
      region.claimEntry(section, false)
      const doorbell = native.eventfd()
      const peer = new native.Peer(region, { section, peerId: section, uuid: new Uint8Array(16), mode, doorbell, vector: 0,
        onReady() { for (const end of ends) while (native.endReceive(end) > 0) { native.endRelease(end, native.scratch[2]); native.endSend(end, bytes, 1, 0) } },
        onControl() {}, onPeer() {} })
      return { peer, doorbell, region }
    })
    const [a, b] = peers
    a.peer.setDoorbell(1, 0, b.doorbell)
    b.peer.setDoorbell(0, 0, a.doorbell)
    const bytes = new Uint8Array(100), ends = []
    const meet = () => {
      if (a.peer.remotes().length === 0 || b.peer.remotes().length === 0) return void setTimeout(meet, 5)
      const near = a.peer.createEnd(1, 65536, 0, 0), far = b.peer.createEnd(0, 65536, 0, 0)
      a.peer.attachEnd(near.id, far.offer)
      b.peer.attachEnd(far.id, near.offer)
      ends.push(near.id, far.id)
      native.endSend(near.id, bytes, 1, 0)
    }
    meet()
    const pair = native.createPair(4096, 0, 0)
    native.onPairReady(() => { for (const end of [pair.near, pair.far]) while (native.endReceive(end) > 0) { native.endRelease(end, native.scratch[2]); native.endSend(end, bytes, 1, 0) } })
    native.endSend(pair.near, bytes, 1, 0)
    return { a, b, pair, region, view: new Uint8Array(region.buffer) }
  }`

describe('a process', () => {
  it.each(['event', 'adaptive', 'busy'])('exits with everything open and busy (%s)', (mode) => {
    const result = runProgram(
      `${openEverything}; everything('${mode}'); setTimeout(() => process.exit(3), ${100 * SLOW})`,
    )
    expect([result.stderr, result.status, result.signal]).toEqual(['', 3, null])
  })

  it('ends by itself when nothing is ref’d, and not before', () => {
    const result = runProgram(`
      const region = native.Region.create('x', 1 << 20); region.format({ sections: 2, daemonIncarnation: 0 })
      const peer = new native.Peer(region, { section: 0, peerId: 0, uuid: new Uint8Array(16), mode: 'adaptive', doorbell: native.eventfd(),
        vector: 0, onReady() {}, onControl() {}, onPeer() {} })
      peer.unref(); peer.ref()
      const timer = setTimeout(() => { console.log('alive'); peer.unref() }, 100); timer.unref()`)
    expect([result.stdout, result.stderr, result.status]).toEqual(['alive\n', '', 0])
  })

  it('gets what a callback throws as an uncaught exception', () => {
    const result = runProgram(`
      process.on('uncaughtException', (error) => { console.log(error.message); process.exit(0) })
      const pair = native.createPair(4096, 0, 0)
      native.onPairReady(() => { throw new Error('from the callback') })
      native.endSend(pair.near, new Uint8Array(1), 1, 0)`)
    expect([result.stdout, result.stderr, result.status]).toEqual(['from the callback\n', '', 0])
  })

  it('survives garbage collection at any moment; what is forgotten is closed', () => {
    const result = runProgram(`
      const fs = require('fs'); const count = () => fs.readdirSync('/proc/self/fd').length
      const threads = () => fs.readdirSync('/proc/self/task').length
      async function turn() { for (let i = 0; i < 5; i++) { gc(); await new Promise((resolve) => setTimeout(resolve, 5)) } }
      function forget() {
        const region = native.Region.create('x', 1 << 20); region.format({ sections: 2, daemonIncarnation: 0 })
        const peer = new native.Peer(region, { section: 0, peerId: 0, uuid: new Uint8Array(16), mode: 'adaptive', doorbell: native.eventfd(),
          vector: 0, onReady() { peer.section }, onControl() {}, onPeer() {} })
        const other = native.eventfd(); peer.setDoorbell(1, 0, other); native.closeFd(other)
        peer.unref()
        return new Uint8Array(region.buffer)
      }
      (async () => {
        const fds = count(), tasks = threads()
        let view = forget()
        view[12345] = 7
        await turn()
        if (view[12345] !== 7) throw new Error('the view must keep the memory')
        view = null
        for (let i = 0; i < 50; i++) forget()
        await turn()
        console.log(count() - fds, threads() - tasks)
      })()`)
    expect([result.stdout, result.stderr, result.status]).toEqual(['0 0\n', '', 0])
  })
})

describe('a worker', () => {
  const inWorker = `const native = require(${JSON.stringify(addonPath)}); ${openEverything}; everything('adaptive')`

  it.each(['process.exit()', 'setTimeout(() => process.exit(), 60)', 'throw new Error("thrown on purpose")'])(
    'ends with everything open: %s',
    async (ending) => {
      const worker = new Worker(`${inWorker}; ${ending}`, { eval: true })
      const failed = new Promise((resolve) => worker.once('error', resolve))
      const code = await new Promise((resolve) => worker.once('exit', resolve))
      if (ending.startsWith('throw')) {
        expect(code).toBe(1)
        expect(await failed).toMatchObject({ message: 'thrown on purpose' })
      } else expect(code).toBe(0)
    },
  )

  it('can be terminated at any moment, several at a time', async () => {
    const before = readdirSync('/proc/self/fd').length
    for (let round = 0; round < 6; round++) {
      const workers = Array.from({ length: 3 }, () => new Worker(inWorker, { eval: true }))
      await new Promise((resolve) => setTimeout(resolve, round * 25))
      await Promise.all(workers.map((worker) => worker.terminate()))
    }
    const result = runProgram(
      `const { Worker } = require('worker_threads')
       const code = ${JSON.stringify(inWorker)}
       setTimeout(() => process.exit(0), 150)
       for (let i = 0; i < 3; i++) new Worker(code, { eval: true })`,
    )
    expect([result.stderr, result.status, result.signal]).toEqual(['', 0, null])
    expect(readdirSync('/proc/self/fd').length - before).toBeLessThan(3)
  })
})
