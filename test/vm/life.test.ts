// The life of guests during traffic with a host process: processes and machines that die, reboot, pause; devices that are
// unplugged and plugged; a daemon that goes and comes. Rounds of each (VMRING_VM_ROUNDS), in two lanes side by side.
//
// The order is not free. QEMU (seen in 7.2) frees the eventfds of a peer that leaves and keeps the pointer, and frees it
// again when its own device is unplugged: so nobody may have left since a device that is to be unplugged was plugged.
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { hostStatus } from '../../src/host/admin-client.js'
import { attach } from '../../src/index.js'
import { Bed, type Guest, type Job } from '../../src/vm/index.js'
import { Daemon, devices, setDriver } from './ring.js'
import { CONNECT_MS, type Peer, Talk } from './talk.js'

const ROUNDS = Number(process.env.VMRING_VM_ROUNDS ?? 3)
// Ten times what it takes on a quiet machine (91 s for the first round, a minute of which is a pause; 35 s for each further
// one): a guest that was reset starts Node twice as slowly as a new one, and gets little beside much else. It costs no
// time where something is broken, since whoever waits for an app ends with it.
const LIMIT_MS = 560_000 + ROUNDS * 350_000
const OTHER_MS = 600_000 // the hook, each other test
const SILENCE_MS = 2000 // by then whoever talks to a silent peer knows
const app = (name: string) => join(import.meta.dirname, 'apps', name)

let bed: Bed
let daemon: Daemon
let host: Peer
let a: Guest
let b: Guest
let address: string
let freeBytes: number
const jobs = new Set<Job>()

const options = (name: string) => ({
  name,
  devices: [{ kind: 'doorbell' as const, id: 'iv0', socket: daemon.socket }],
  bootTimeout: 240_000,
  lifetime: LIMIT_MS + 5 * OTHER_MS, // a guest serves all the tests of this file
})

beforeAll(async () => {
  bed = await Bed.open()
  daemon = await Daemon.start(join(bed.folder, 'host'), '--size', '64M')
  host = await attach({ region: `unix:${daemon.socket}` })
  freeBytes = host.counters()!.freeBytes
  ;[a, b] = (await bed.bootAll([options('a'), options('b')])) as [Guest, Guest]
  address = (await devices(a))[0]!.address
  await Promise.all([a, b].map((guest) => setDriver(guest, address, 'vfio-pci')))
}, OTHER_MS)

// A test that failed leaves its apps behind, and with them the device in use.
afterEach(async () => {
  for (const job of jobs) if (!job.ended) job.kill()
  await Promise.all([...jobs].map((job) => job.done.catch(() => {})))
  jobs.clear()
}, 60_000)

afterAll(async () => {
  await host?.close()
  await bed?.close()
  await daemon?.[Symbol.asyncDispose]()
}, 30_000)

function start(guest: Guest, name: string, ...args: string[]): Job {
  const argv = [process.execPath, app(name), `pci:${address}`, ...args]
  const job = guest.start(argv, { timeout: LIMIT_MS })
  jobs.add(job)
  return job
}

function echo(guest: Guest, service: string): Job {
  return start(guest, 'echo.mjs', service)
}

/** Fails with what the app said when `promise` does, and at once when the app or its guest has ended. */
async function by<T>(job: Job, promise: Promise<T>): Promise<T> {
  const ended = job.done.then(({ code }) => {
    throw job.error(`${job.title} ended with code ${code}`, code)
  })
  const failed = promise.catch((error: Error) => {
    throw job.error(error.message)
  })
  return Promise.race([failed, ended])
}

async function openBoth(one: Job, two: Job): Promise<[Talk, Talk]> {
  return Promise.all([by(one, Talk.open(host, 'a')), by(two, Talk.open(host, 'b'))])
}

async function rounds(round: (number: number) => Promise<void>): Promise<void> {
  for (let number = 1; number <= ROUNDS; number++) {
    await round(number).catch((error: Error) => {
      error.message = `round ${number}: ${error.message}`
      throw error
    })
  }
}

async function reboots(): Promise<void> {
  let job = echo(a, 'reboot')
  let talk = await by(job, Talk.open(host, 'reboot'))
  const spent = { reset: 0, driver: 0, gone: 0, talk: 0 }
  await rounds(async () => {
    const t0 = Date.now()
    const silent = talk.stalled()
    const reset = a.reset()
    expect(await silent).toBeLessThan(SILENCE_MS)
    await reset
    const t1 = Date.now()
    await setDriver(a, address, 'vfio-pci')
    const t2 = Date.now()
    const end = talk.end()
    job = echo(a, 'reboot')
    expect((await by(job, end)).code).toBe('ERR_VMRING_PEER_GONE')
    const t3 = Date.now()
    talk = await by(job, Talk.open(host, 'reboot'))
    spent.reset += t1 - t0
    spent.driver += t2 - t1
    spent.gone += t3 - t2
    spent.talk += Date.now() - t3
  })
  console.log('reboots, ms', spent)
  await talk.channel.close()
  job.kill()
  await job.done
}

async function unplugs(): Promise<void> {
  const job = echo(a, 'unplug')
  await rounds(async (number) => {
    const talk = await by(job, Talk.open(host, 'unplug'))
    const end = talk.end(10_000)
    await a.unplug('iv0')
    expect(await by(job, end)).toMatchObject({ code: 'ERR_VMRING_PEER_GONE' })
    await job.until(new RegExp(`("said":"lost","code":"ERR_VMRING_REGION_LOST"[^]*){${number}}`))
    await a.plug({ kind: 'doorbell', id: 'iv0', socket: daemon.socket })
    await setDriver(a, address, 'vfio-pci')
  })
  await (await by(job, Talk.open(host, 'unplug'))).channel.close()
  job.kill()
  await job.done
}

async function machineKills(): Promise<void> {
  await rounds(async () => {
    const job = echo(b, 'machine')
    const talk = await by(job, Talk.open(host, 'machine'))
    const end = talk.end(10_000)
    await b.kill()
    const { code, after } = await end
    expect(code).toBe('ERR_VMRING_PEER_GONE')
    expect(after).toBeLessThan(SILENCE_MS)
    b = await bed.boot(options('b'))
    await setDriver(b, address, 'vfio-pci')
  })
}

async function processKills(): Promise<void> {
  let job = echo(b, 'process')
  let talk = await by(job, Talk.open(host, 'process'))
  await rounds(async () => {
    const silent = talk.stalled()
    job.kill('KILL')
    expect(await silent).toBeLessThan(SILENCE_MS)
    await job.done
    const end = talk.end()
    job = echo(b, 'process')
    expect((await by(job, end)).code).toBe('ERR_VMRING_PEER_GONE')
    talk = await by(job, Talk.open(host, 'process'))
  })
  await talk.channel.close()
  job.kill()
  await job.done
}

async function pauses(): Promise<void> {
  const job = echo(b, 'pause')
  const talk = await by(job, Talk.open(host, 'pause'))
  await rounds(async (number) => {
    const silent = talk.stalled()
    await b.stop()
    expect(await silent).toBeLessThan(SILENCE_MS)
    await sleep(number === 1 ? 60_000 : 200)
    const { echoed } = talk
    await b.cont()
    await by(job, talk.progress())
    expect(talk.echoed).toBeGreaterThan(echoed)
    await expect.poll(() => talk.resumes, { timeout: 5000 }).toBe(talk.stalls)
  })
  await talk.channel.close()
  expect(job.stdout()).not.toContain('ended')
  job.kill()
  await job.done
}

describe('during traffic', { timeout: OTHER_MS }, () => {
  it('what an unplugged device held can still be read', async () => {
    const job = start(a, 'unplug.mjs')
    const channel = await by(job, host.connect('unplug', { wait: CONNECT_MS }))
    channel.on('error', () => {})
    for (let i = 0; i < 100; i++) channel.trySend(Buffer.from(`message ${i}`))
    await job.until(/holding/)
    await a.unplug('iv0')
    const { stdout } = await job.success()
    const [, kept, ended] = stdout.split('\n').map((line) => line && JSON.parse(line))
    expect(kept).toMatchObject({
      code: 'ERR_VMRING_REGION_LOST',
      first: 'message 0',
      rest: 99,
      last: 'message 99',
      lease: true,
      sending: true,
    })
    expect(ended).toMatchObject({ code: 'ERR_VMRING_PATH_LOST' })
    expect(((await channel.closed) as { code?: string }).code).toBe('ERR_VMRING_PEER_GONE')
    await a.plug({ kind: 'doorbell', id: 'iv0', socket: daemon.socket })
    await setDriver(a, address, 'vfio-pci')
  })

  it(
    'guests reboot, die, pause; processes die; devices come and go',
    async () => {
      const timed = async (name: string, lane: () => Promise<void>) => {
        const started = Date.now()
        await lane()
        console.log(`${name}: ${ROUNDS} rounds in ${Math.round((Date.now() - started) / 1000)} s`)
      }
      const unplugged = timed('unplug and plug', unplugs)
      // where one lane fails, the other is at its end before the apps are
      const ended = await Promise.allSettled([
        unplugged.then(() => timed('reboot', reboots)),
        timed('kill -9 of the process', processKills)
          .then(() => timed('stop and cont', pauses))
          .then(() => unplugged)
          .then(() => timed('kill -9 of QEMU', machineKills)),
      ])
      for (const lane of ended) if (lane.status === 'rejected') throw lane.reason
    },
    LIMIT_MS,
  )

  it('and nothing is left behind', async () => {
    const { region, peers } = await hostStatus(daemon.socket)
    expect(peers).toHaveLength(3) // two guests and this process
    expect(region.freeSections).toBe(region.sections - 3)
    // A process that was killed right after it closed may not have said that it reads no more; its successor does.
    const job = echo(a, 'left')
    await (await by(job, Talk.open(host, 'left'))).channel.close()
    await expect.poll(() => host.counters()!.freeBytes, { timeout: 5000 }).toBe(freeBytes)
    job.kill()
    await job.done
  })

  it('those who leave and join are seen by every guest', async () => {
    const [ja, jb] = [echo(a, 'a'), echo(b, 'b')]
    const [one, two] = await openBoth(ja, jb)
    const seen = async () => [(await one.peers()).length, (await two.peers()).length]
    expect(await seen()).toEqual([2, 2])
    const second = await attach({ region: `unix:${daemon.socket}` })
    await expect.poll(seen, { timeout: 5000 }).toEqual([3, 3])
    await second.close()
    await expect.poll(seen, { timeout: 5000 }).toEqual([2, 2])
    await Promise.all([one, two].map((talk) => talk.channel.close()))
  })

  it('a daemon that dies is not missed; started again, processes of the host join it by themselves', async () => {
    await a.kill() // its QEMU saw others leave, and it is to be unplugged
    a = await bed.boot(options('a'))
    await setDriver(a, address, 'vfio-pci')
    const [ja, jb] = [echo(a, 'a'), echo(b, 'b')]
    const [one, two] = await openBoth(ja, jb)
    await daemon.kill('SIGKILL')
    await Promise.all([one.progress(), two.progress()])
    const rejoined = new Promise<void>((resolve) => host.once('rejoined', () => resolve()))
    await daemon.start()
    const started = performance.now()
    await rejoined
    expect(performance.now() - started).toBeLessThan(SILENCE_MS)
    await Promise.all([one.progress(), two.progress()])
    await (await Talk.open(host, 'a')).channel.close() // a guest from before is reached where it is
    const gone = one.end(10_000)
    await a.unplug('iv0')
    expect((await gone).code).toBe('ERR_VMRING_PEER_GONE')
    await a.plug({ kind: 'doorbell', id: 'iv0', socket: daemon.socket })
    await setDriver(a, address, 'vfio-pci')
    await (await by(ja, Talk.open(host, 'a'))).channel.close() // in the new region
    expect((await hostStatus(daemon.socket)).peers).toHaveLength(2)
    await two.progress()
    await two.channel.close()
  })
})
