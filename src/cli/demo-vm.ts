/**
 * `vmring demo --vm`: the same work between two guests under unmodified QEMU, with interrupts, beside TCP over a virtual
 * network card between the same two. They are booted for it and gone afterwards.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { VmringError } from '../errors.js'
import {
  Bed,
  BedMissing,
  DEFAULT_MODULES,
  type Guest,
  type GuestOptions,
  type Job,
  quote,
} from '../vm/index.js'
import { findProgram, output } from '../vm/tools.js'
import type { Note, Results, Job as Work } from './demo-child.js'
import type { Stage } from './demo-stage.js'
import type { Progress } from './progress.js'

const WHOLE_MS = 10 * 60_000
const ADDRESS = { a: '10.83.0.1', b: '10.83.0.2' }
const PORT = { file: 1024, echo: 1025 }
/** of the host's tree, guests have their own of these */
const HIDDEN = /^\/(?:proc|sys|dev|run|job)\//

export interface Machines {
  /** milliseconds from power-on to the first program */
  boot: number[]
  kernel: string
  /** QEMU's word for what runs the guests' instructions */
  accelerator: string
}

export async function performVm(
  stage: Stage,
  child: string,
  file: string,
  size: number,
  progress: Progress,
  sum: Promise<string>,
): Promise<{ results: Results; sha256: string; guests: Machines }> {
  if (HIDDEN.test(file)) {
    throw new VmringError(
      'ERR_VMRING_ARGUMENT',
      `guests do not see ${file}: copy it to another folder, or name another`,
    )
  }
  const bed = await Bed.open(stage.directory)
  stage.add(() => bed.close())
  await needStream()
  const deadline = setTimeout(() => stage.fail(new Error('the demo took too long')), WHOLE_MS)
  try {
    const socket = await stage.daemon('--sections', '4')
    progress.update('booting two guests')
    const [[a, b], sha256] = await Promise.all([bootPair(bed, socket), sum])
    const { stdout } = await a.sh('uname -r')
    await connectNetwork(a, b)
    const [region] = (await Promise.all([a.bindVfio(), b.bindVfio()])).map(([address]) => `pci:${address}`)
    const net = {
      file: { host: ADDRESS.b, port: PORT.file },
      echo: { host: ADDRESS.b, port: PORT.echo },
    }
    const start = (guest: Guest, role: Work['role']) => {
      const work = { role, region: region!, net, file, size, busy: false } satisfies Work
      return guest.start([process.execPath, child, JSON.stringify(work)], { timeout: WHOLE_MS })
    }
    progress.update('two guests join the region')
    const receiver = start(b, 'receiver')
    await hear(receiver, 'receiver', 'ready')
    void receiver.done.then(
      ({ code, stderr }) => stage.fail(new Error(`the receiver ended early (exit code ${code}): ${stderr}`)),
      (error: Error) => stage.fail(error),
    )
    const { results } = await hear(start(a, 'sender'), 'sender', 'results', (text) => progress.update(text))
    const guests = { boot: [a.bootTime, b.bootTime], kernel: stdout.trim(), accelerator: a.accelerator }
    return { results, sha256, guests }
  } finally {
    clearTimeout(deadline)
  }
}

/** Two guests with a cable between them: one QEMU listens, the other connects. */
async function bootPair(bed: Bed, socket: string): Promise<[Guest, Guest]> {
  const cable = join(bed.folder, 'cable')
  const options = (name: 'a' | 'b', server: 'on' | 'off'): GuestOptions => ({
    name,
    devices: [{ kind: 'doorbell', id: 'iv0', socket }],
    modules: [...DEFAULT_MODULES, 'virtio_net'],
    sparePorts: 0,
    qemu: [
      ...['-netdev', `stream,id=cable,server=${server},addr.type=unix,addr.path=${cable}`],
      ...['-device', `virtio-net-pci,netdev=cable,mac=52:54:00:83:00:0${name === 'a' ? 1 : 2}`],
    ],
  })
  const first = bed.boot(options('a', 'on'))
  let over = false
  first.catch(() => {}).finally(() => (over = true))
  // The second QEMU would end if nobody listened.
  while (!over && !existsSync(cable)) await sleep(20)
  const [a, b] = await Promise.all([first, bed.boot(options('b', 'off'))])
  return [a, b]
}

async function connectNetwork(a: Guest, b: Guest): Promise<void> {
  const busybox = quote(findProgram('busybox')!)
  const up = (guest: Guest, address: string) => {
    return guest.sh(`${busybox} ifconfig eth0 ${address} netmask 255.255.255.0 up`)
  }
  await Promise.all([up(a, ADDRESS.a), up(b, ADDRESS.b)])
}

async function needStream(): Promise<void> {
  const known = await output(findProgram('qemu-system-x86_64')!, ['-netdev', 'help']).catch(() =>
    Buffer.alloc(0),
  )
  if (/^stream$/m.test(known.toString())) return
  throw new BedMissing(
    'QEMU 7.2 or later',
    'this one knows no `-netdev stream`; install a newer qemu-system-x86',
  )
}

/** The first note of that type. Rejects when the process fails or ends without it. */
async function hear<T extends Note['type']>(
  job: Job,
  name: string,
  type: T,
  phase: (text: string) => void = () => {},
): Promise<Extract<Note, { type: T }>> {
  let read = 0
  for (;;) {
    const { ended } = job
    const lines = job.stdout().split('\n').slice(0, -1)
    for (const line of lines.slice(read)) {
      const note = JSON.parse(line) as Note
      if (note.type === 'failed') {
        throw Object.assign(job.error(`the ${name} failed: ${note.message}`), { cause: note.code })
      }
      if (note.type === 'phase') phase(note.text)
      if (note.type === type) return note as Extract<Note, { type: T }>
    }
    read = lines.length
    if (ended) throw job.error(`the ${name} ended early`)
    await sleep(100)
  }
}
