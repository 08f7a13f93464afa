/** `vmring demo`: a daemon and two processes, a file and round trips, beside the same over a Unix socket. */
import { createHash } from 'node:crypto'
import { createReadStream, statSync } from 'node:fs'
import { availableParallelism, loadavg } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { VmringError } from '../errors.js'
import type { Job, Note, Results, Trips } from './demo-child.js'
import { Stage } from './demo-stage.js'
import type { Machines } from './demo-vm.js'
import { onInterrupt } from './interrupt.js'
import { bytes, printJson, table } from './output.js'
import { Progress } from './progress.js'

const CHILD = fileURLToPath(new URL('./demo-child.js', import.meta.url))
const WHOLE_MS = 50_000

export function demoCommand(): Command {
  return new Command('demo')
    .summary('show what it does and how fast, on this machine')
    .description(
      'Starts a daemon and two processes that join its region. One sends a file, the other checks its SHA-256; then they ' +
        'exchange messages of 64 bytes. The same work over node:net on a Unix socket stands beside it. Takes seconds and ' +
        'leaves nothing behind, also after Ctrl-C. With --vm the two processes run in two virtual machines that are booted ' +
        'for it, and TCP over a virtual network card stands beside it.',
    )
    .argument('[file]', 'file to send (default: the Node binary)')
    .option('--vm', 'between two virtual machines (needs QEMU; without KVM it takes a minute or two)')
    .option('--json', 'print the results as JSON')
    .addHelpText(
      'after',
      `
Examples:
  $ vmring demo
  $ vmring demo /boot/vmlinuz --json
  $ vmring demo --vm`,
    )
    .action(run)
}

async function run(argument: string | undefined, options: { json?: boolean; vm?: boolean }): Promise<void> {
  const file = resolve(argument ?? process.execPath)
  const stat = statSync(file)
  if (!stat.isFile())
    throw new VmringError('ERR_VMRING_ARGUMENT', `${file} is no regular file; name one to send`)

  const stage = new Stage()
  const interrupt = onInterrupt(() => stage.clear())
  const progress = new Progress('starting the daemon')
  try {
    const work = perform(stage, file, stat.size, progress, options.vm === true)
    // when Ctrl-C clears the stage, the work fails for that reason, and nobody needs to hear it
    work.catch(() => {})
    const { results, sha256, guests } = await Promise.race([work, stage.failure, aborted(interrupt.signal)])
    progress.stop()
    await stage.clear()
    if (results.shm.receipt.sha256 !== sha256 || results.net.receipt.sha256 !== sha256) {
      throw new VmringError(
        'ERR_VMRING_PROTOCOL',
        `${file} arrived changed, or was changed meanwhile: SHA-256 ${results.shm.receipt.sha256} is not ${sha256}`,
      )
    }
    if (options.json) printJson({ file, size: stat.size, sha256, ok: true, ...results, guests })
    else process.stdout.write(report(file, stat.size, sha256, results, guests))
  } finally {
    progress.stop()
    await stage.clear()
    // after a signal the handler ends the process
    if (interrupt.signal.aborted) await new Promise(() => setInterval(() => {}, 1000))
    interrupt.dispose()
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true })
  })
}

interface Outcome {
  results: Results
  sha256: string
  guests?: Machines
}

async function perform(
  stage: Stage,
  file: string,
  size: number,
  progress: Progress,
  vm: boolean,
): Promise<Outcome> {
  // Before anything is measured: hashing takes a processor.
  const sum = sha256Of(file, stage.ending)
  sum.catch(() => {}) // whoever awaits it hears of it
  if (!vm) return performHere(stage, file, size, progress, sum)
  const { performVm } = await import('./demo-vm.js')
  return performVm(stage, CHILD, file, size, progress, sum)
}

async function performHere(
  stage: Stage,
  file: string,
  size: number,
  progress: Progress,
  sum: Promise<string>,
): Promise<Outcome> {
  const deadline = setTimeout(() => stage.fail(new Error('the demo took too long')), WHOLE_MS)
  try {
    const [sha256, socket] = await Promise.all([sum, stage.daemon('--sections', '4')])
    const net = {
      file: { path: join(stage.directory, 'file') },
      echo: { path: join(stage.directory, 'echo') },
    }
    const busy = availableParallelism() > 1
    const job = (role: Job['role']): string[] => [
      CHILD,
      JSON.stringify({ role, region: `unix:${socket}`, net, file, size, busy } satisfies Job),
    ]
    progress.update('two processes join the region')
    const receiver = stage.start('receiver', job('receiver'))
    await stage.hear(receiver, 'ready')
    const sender = stage.start('sender', job('sender'))
    sender.process.on('message', (note: Note) => {
      if (note.type === 'phase') progress.update(note.text)
      if (note.type === 'spin') receiver.process.send(note)
    })
    receiver.process.on('message', (note: Note) => {
      if (note.type === 'spinning') sender.process.send(note)
    })
    const { results } = await stage.hear(sender, 'results')
    return { results, sha256 }
  } finally {
    clearTimeout(deadline)
  }
}

async function sha256Of(file: string, signal: AbortSignal): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20, signal }))
    hash.update(chunk as Buffer)
  return hash.digest('hex')
}

function report(
  file: string,
  size: number,
  sha256: string,
  { shm, net }: Results,
  guests: Machines | undefined,
): string {
  const ratio = (a: number, b: number) => `${(b / a).toFixed(b / a < 10 ? 1 : 0)} ×`
  const transfer = (seconds: number) => {
    const rate = size / seconds
    return `${seconds.toFixed(3)} s, ${rate >= 1e9 ? `${(rate / 1e9).toFixed(1)} GB/s` : `${(rate / 1e6).toFixed(rate < 1e7 ? 1 : 0)} MB/s`}`
  }
  const micro = ({ median }: Trips) => `${(median / 1000).toFixed(2)} µs`
  const rows = [
    ['', 'vmring', 'node:net', 'ratio'],
    ['file, SHA-256 checked', transfer(shm.checked), transfer(net.checked), ratio(shm.checked, net.checked)],
    ['file, bytes counted', transfer(shm.plain), transfer(net.plain), ratio(shm.plain, net.plain)],
    [
      '64 bytes and back, adaptive',
      micro(shm.adaptive),
      micro(net.echo),
      ratio(shm.adaptive.median, net.echo.median),
    ],
    ...(guests ? [] : [busyRow({ shm, net }, micro, ratio)]),
  ]
  return `${basename(file)}, ${bytes(size)}, from one ${guests ? 'guest' : 'process'} to another: SHA-256 ${sha256.slice(0, 16)}… matches.
Round trips: medians of ${shm.adaptive.count}. node:net uses ${guests ? 'TCP over a virtual network card' : 'a Unix socket'}, in the same run.${guests ? `\n${machines(guests)}` : ''}

${table(rows, [1, 2, 3])}${busyNote()}`
}

function machines({ boot, kernel, accelerator }: Machines): string {
  const seconds = boot.map((ms) => `${(ms / 1000).toFixed(1)} s`).join(' and ')
  return `Two guests with ivshmem-doorbell and vfio-pci, kernel ${kernel}, accelerator ${accelerator}, up after ${seconds}.`
}

function busyRow(
  { shm, net }: Results,
  micro: (trips: Trips) => string,
  ratio: (a: number, b: number) => string,
): string[] {
  if (shm.busy === null) return ['64 bytes and back, busy', 'needs two processors', micro(net.echo), '']
  return [
    '64 bytes and back, busy',
    micro(shm.busy),
    micro(net.echo),
    ratio(shm.busy.median, net.echo.median),
  ]
}

/** Two processes that spin need two processors to themselves; said here, since the figures cannot say it. */
function busyNote(): string {
  const load = loadavg()[0]!
  const processors = availableParallelism()
  if (load < processors) return ''
  return `\nOther programs use this machine (load ${load.toFixed(1)} on ${processors} processors): vmring spins while it waits for\nan answer, so its round trips suffer from that more than those of sockets do.\n`
}
