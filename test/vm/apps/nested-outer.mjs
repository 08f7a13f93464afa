// nested-outer.mjs LIMIT: what runs in the guest that plays the host. It has the daemon, boots two guests inside it, and
// tells what happens, one JSON object a line; the test reads that. `vmring bench` between the two is the last of it.
//   3  'kitchen' in the README, listens; its device is unplugged
//   4  'table', connects; the policy gives it less
// They boot without a device, get one, lose one of them, get it back.
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { hostStatus } from '../../../dist/host/admin-client.js'
import { Bed } from '../../../dist/vm/index.js'

const TOTAL = 100_000
const BACK = 10_000
const SERVICE = 'stream'
const FORBIDDEN = 'secret'
const BENCH = 'bench'
const STEP_MS = Number(process.argv[2])
const root = resolve(import.meta.dirname, '../../..')
const started = Date.now()
const say = (said, more) => console.log(JSON.stringify({ at: (Date.now() - started) / 1000, said, ...more }))
setInterval(() => say('alive'), 5000).unref()

function within(promise, ms, what) {
  const late = sleep(ms, null, { ref: false }).then(() => {
    throw new Error(`not within ${ms / 1000} s: ${what}`)
  })
  return Promise.race([promise, late])
}

async function until(test, what, ms = STEP_MS) {
  const limit = Date.now() + ms
  for (;;) {
    const result = await test()
    if (result) return result
    if (Date.now() > limit) throw new Error(`not within ${ms / 1000} s: ${what}`)
    await sleep(100)
  }
}

/** The one process in an inner guest. */
class Inner {
  lines = []
  #seen = 0
  #todo = 0
  constructor(guest) {
    this.guest = guest
    this.name = guest.name
    const argv = [process.execPath, join(import.meta.dirname, 'nested-inner.mjs'), '/job']
    this.job = guest.start(argv, { timeout: 3_600_000 })
    this.job.done.catch(() => {})
    setInterval(() => this.#read(), 100).unref()
  }
  #read() {
    const text = this.job.stdout()
    const end = text.lastIndexOf('\n') + 1
    for (const line of text.slice(this.#seen, end).split('\n')) {
      if (line === '') continue
      const parsed = line.startsWith('{') ? JSON.parse(line) : { said: 'text', line }
      this.lines.push(parsed)
      say(parsed.said, { guest: this.name, ...parsed })
    }
    this.#seen = end
  }
  /** Until it has said what passes the test. */
  heard(test, what, ms) {
    return until(
      () => {
        if (this.job.ended) throw this.job.error(`${this.name} has ended`)
        return this.lines.find(test)
      },
      `${this.name}: ${what}`,
      ms,
    )
  }
  said(word) {
    return this.heard((line) => line.said === word, word)
  }
  /** Where its channel is. */
  get path() {
    return this.lines.findLast(({ said }) => said === 'channel' || said === 'path')?.path
  }
  /** Has it do something; `result` comes when that has ended. */
  begin(todo, more = {}) {
    const id = ++this.#todo
    const path = join(this.guest.share, `todo-${id}`)
    writeFileSync(`${path}.new`, JSON.stringify({ todo, ...more }))
    renameSync(`${path}.new`, path)
    return this.heard(
      (line) => (line.said === 'done' || line.said === 'failed') && line.id === id,
      `the end of ${todo}`,
    ).then((line) => {
      if (line.said === 'failed') throw new Error(`${this.name}: ${todo}: ${line.why}`)
      return line.result
    })
  }
}

// QEMU emulates the virtualization of AMD processors too. KVM on top of that is several times faster than emulation inside
// emulation, where each piece of code that the inner QEMU translates is code that changes under the outer one.
if (existsSync('/dev/kvm')) process.env.VMRING_VM_ACCEL = 'kvm'
const bed = await Bed.open()
const socket = join(bed.folder, 'host')

async function startDaemon() {
  const policy = join(bed.folder, 'policy.json')
  const rules = [
    { who: 'cid:3', listen: ['orders', SERVICE, FORBIDDEN, `${BENCH}*`] },
    { who: 'cid:4', connect: ['orders', SERVICE, `${BENCH}*`] },
  ]
  writeFileSync(policy, JSON.stringify({ rules }))
  const args = ['--socket', socket, '--size', '8M', '--sections', '8', '--relay-vsock', '5790']
  const child = spawn(
    process.execPath,
    [join(root, 'dist/cli/main.js'), 'host', ...args, '--policy', policy, '--json'],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  process.once('exit', () => child.kill('SIGKILL'))
  child.once('exit', (code, signal) => say('daemon ended', { code, signal }))
  await until(() => existsSync(`${socket}.admin`), 'the daemon')
}

/** The README's programs, each in a file, beside a node_modules with this package. */
function writeApps() {
  const folder = join(bed.folder, 'readme')
  mkdirSync(join(folder, 'node_modules'), { recursive: true })
  symlinkSync(root, join(folder, 'node_modules/vmring'))
  const blocks = readFileSync(join(root, 'README.md'), 'utf8').matchAll(
    /```js\n\/\/ (\w+\.mjs)[^\n]*\n([\s\S]*?)```/g,
  )
  for (const [, name, code] of blocks) writeFileSync(join(folder, name), code)
  return folder
}

async function boot() {
  const options = (name, cid) => ({
    name,
    modules: ['vfio_iommu_type1', 'vfio-pci', 'vmw_vsock_virtio_transport'],
    qemu: [
      ...['-device', `vhost-vsock-pci,guest-cid=${cid}`],
      // a port without a device gets too little room otherwise for the device that comes later
      ...['-global', 'pcie-root-port.pref64-reserve=32M'],
      // QEMU emulates XSAVE incompletely, of which a kernel complains at length
      ...['-cpu', 'max,xsave=off,la57=off'],
    ],
    // each look at a place where a PCI device could be is an exit, which takes a millisecond here; these are 25,000
    append: 'pci=noearly,lastbus=0',
    bootTimeout: STEP_MS,
    lifetime: 3_600_000,
  })
  return bed.bootAll([options('kitchen', 3), options('table', 4)])
}

const relay = async () => (await hostStatus(socket)).relay
const device = { kind: 'doorbell', id: 'iv0', socket }

/** The README's two programs; what the second said. */
async function example(kitchen, table, folder) {
  const { spliced } = (await relay()).counters
  const serving = kitchen.begin('startApp', { file: join(folder, 'kitchen.mjs') })
  serving.catch(() => {})
  await until(
    async () => (await relay()).peers.some(({ services }) => services.includes('orders')),
    'the kitchen',
  )
  const result = await table.begin('startApp', { file: join(folder, 'table.mjs') })
  await kitchen.begin('endApp')
  await until(async () => (await relay()).peers.every(({ present }) => !present), 'the end of the kitchen')
  return { ...result, spliced: (await relay()).counters.spliced - spliced }
}

async function plug(inner) {
  await inner.guest.plug(device)
  say('plugged', { guest: inner.name })
  await inner.begin('bind')
}

/** `vmring bench` between the two guests, shared memory and virtio sockets in turns; its report. */
async function bench(kitchen, table) {
  const command = (...args) => [process.execPath, join(root, 'dist/cli/main.js'), 'bench', 'latency', ...args]
  const limits = { timeout: 2 * STEP_MS }
  const listener = kitchen.guest.start(command('--listen', BENCH), limits)
  const chosen = [
    '--transport',
    'shm,vsock',
    '--mode',
    'event',
    '--runs',
    '1',
    '--warmup',
    '1',
    '--duration',
    '3',
  ]
  const wait = String(STEP_MS / 1000)
  const job = table.guest.start(command('--connect', BENCH, '--wait', wait, ...chosen, '--json', '-'), limits)
  for (const one of [listener, job]) one.done.catch(() => {})
  const told = () => say('progress', { kitchen: listener.stderr(), table: job.stderr() })
  setInterval(told, 10_000).unref()
  const { stdout } = await job.success()
  await listener.success()
  return JSON.parse(stdout.slice(stdout.indexOf('{')))
}

async function run() {
  const folder = writeApps()
  await startDaemon()
  say('daemon')
  const guests = await boot()
  say('booted', {
    ms: guests.map(({ bootTime }) => bootTime),
    accelerators: guests.map(({ accelerator }) => accelerator),
  })
  const [kitchen, table] = guests.map((guest) => new Inner(guest))
  await Promise.all([kitchen.said('ready'), table.said('ready')])

  say('result', { step: 'without a device', ...(await example(kitchen, table, folder)) })

  await Promise.all([plug(kitchen), plug(table)])
  say('result', { step: 'with the device', ...(await example(kitchen, table, folder)) })

  await kitchen.begin('listen', { services: [SERVICE, FORBIDDEN] })
  await table.begin('connect', { service: SERVICE, wait: 30_000 })
  await kitchen.said('channel')
  const pouring = [
    kitchen.begin('pour', { total: TOTAL, marks: [TOTAL * 0.2, TOTAL * 0.3] }),
    table.begin('pour', { total: BACK, marks: [BACK * 0.3, BACK * 0.6] }),
  ]
  const stream = Promise.all(pouring)
  /** What is waited for while the stream flows; it cannot come any more when that has broken. */
  const flowing = (step) => Promise.race([step, stream.then(() => step)])
  stream.catch(() => {})
  await flowing(table.heard((line) => line.said === 'received' && line.received >= TOTAL * 0.1, 'traffic'))

  say('unplugging')
  await kitchen.guest.unplug('iv0', STEP_MS)
  say('unplugged')
  await flowing(until(() => kitchen.path === 'vsock' && table.path === 'vsock', 'the fall back to the relay'))
  const { sent } = kitchen.lines.findLast((line) => line.said === 'path')
  await Promise.all([kitchen.begin('goOn'), table.begin('goOn')])
  say('result', { step: 'trespass', ...(await table.begin('trespass', { service: FORBIDDEN })) })
  await flowing(
    table.heard(
      (line) => line.said === 'received' && line.received >= sent + TOTAL * 0.1,
      'traffic on the relay',
    ),
  )
  const { refused, accepted, spliced } = (await relay()).counters
  say('relay', { refused, accepted, spliced })

  await plug(kitchen)
  await flowing(until(() => kitchen.path === 'shm' && table.path === 'shm', 'the return to shared memory'))
  await Promise.all([kitchen.begin('goOn'), table.begin('goOn')])
  await within(stream, STEP_MS, 'the end of the stream')
  const [listener, opener] = await Promise.all([
    kitchen.begin('outcome', { expect: BACK }),
    table.begin('outcome', { expect: TOTAL }),
  ])
  say('result', { step: 'stream', listener, opener })
  await Promise.all([kitchen.begin('close'), table.begin('close')])
  await Promise.all([kitchen.job.success(), table.job.success()])
  say('result', { step: 'bench', report: await bench(kitchen, table) })
}

try {
  await run()
  say('end')
} catch (error) {
  say('broken', { message: error.message, stack: error.stack })
  for (const guest of bed.guests) say('console', { guest: guest.name, text: guest.console() })
  process.exitCode = 1
} finally {
  await bed.close()
  process.exit()
}
