/** `vmring demo`: a daemon and two processes, a file and round trips, beside the same over a Unix socket. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream, mkdtempSync, rmSync, statSync } from 'node:fs'
import { availableParallelism, loadavg, tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { VmringError } from '../errors.js'
import { hostStatus } from '../host/admin-client.js'
import type { Job, Note, Results, Trips } from './demo-child.js'
import { onInterrupt } from './interrupt.js'
import { bytes, printJson, table } from './output.js'
import { Progress } from './progress.js'

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url))
const CHILD = fileURLToPath(new URL('./demo-child.js', import.meta.url))
/** a daemon whose demo has died ends as well */
const LEASH = `data:text/javascript,${encodeURIComponent(
  "process.once('disconnect', () => process.kill(process.pid, 'SIGTERM')); process.channel?.unref()",
)}`
const START_MS = 15_000
const WHOLE_MS = 50_000
const GRACE_MS = 1500
const MAX_STDERR = 16 * 1024

interface Child {
  name: string
  process: ChildProcess
  /** resolves when it has ended */
  ended: Promise<void>
  stderr: string
}

export function demoCommand(): Command {
  return new Command('demo')
    .summary('show what it does and how fast, on this machine')
    .description(
      'Starts a daemon and two processes that join its region. One sends a file, the other checks its SHA-256; then they ' +
        'exchange messages of 64 bytes. The same work over node:net on a Unix socket stands beside it. Takes seconds and ' +
        'leaves nothing behind, also after Ctrl-C.',
    )
    .argument('[file]', 'file to send (default: the Node binary)')
    .option('--json', 'print the results as JSON')
    .addHelpText(
      'after',
      `
Examples:
  $ vmring demo
  $ vmring demo /boot/vmlinuz --json`,
    )
    .action(run)
}

async function run(argument: string | undefined, options: { json?: boolean }): Promise<void> {
  const file = resolve(argument ?? process.execPath)
  const stat = statSync(file)
  if (!stat.isFile())
    throw new VmringError('ERR_VMRING_ARGUMENT', `${file} is no regular file; name one to send`)

  const stage = new Stage()
  const interrupt = onInterrupt(() => stage.clear())
  const progress = new Progress('starting the daemon')
  try {
    const work = perform(stage, file, stat.size, progress)
    // when Ctrl-C clears the stage, the work fails for that reason, and nobody needs to hear it
    work.catch(() => {})
    const { results, sha256 } = await Promise.race([work, stage.failure, aborted(interrupt.signal)])
    progress.stop()
    await stage.clear()
    if (results.shm.receipt.sha256 !== sha256 || results.net.receipt.sha256 !== sha256) {
      throw new VmringError(
        'ERR_VMRING_PROTOCOL',
        `${file} arrived changed, or was changed meanwhile: SHA-256 ${results.shm.receipt.sha256} is not ${sha256}`,
      )
    }
    if (options.json) printJson({ file, size: stat.size, sha256, ok: true, ...results })
    else process.stdout.write(report(file, stat.size, sha256, results))
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

/** Everything that the demo puts into the world: processes and one directory. */
class Stage {
  readonly directory = mkdtempSync(join(tmpdir(), 'vmring-demo-'))
  readonly failure: Promise<never>
  readonly #children: Child[] = []
  #fail!: (error: Error) => void
  #cleared: Promise<void> | null = null

  constructor() {
    this.failure = new Promise((_resolve, reject) => {
      this.#fail = reject
    })
    this.failure.catch(() => {})
  }

  get clearing(): boolean {
    return this.#cleared !== null
  }

  fail(error: Error): void {
    this.#fail(error)
  }

  start(name: string, args: string[]): Child {
    if (this.clearing) throw new Error('the demo is ending')
    const process_ = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] })
    const child: Child = { name, process: process_, stderr: '', ended: Promise.resolve() }
    child.ended = new Promise((done) => {
      process_.once('exit', () => done())
      process_.once('error', () => done())
    })
    process_.stderr!.setEncoding('utf8').on('data', (text: string) => {
      child.stderr = (child.stderr + text).slice(-MAX_STDERR)
    })
    process_.once('error', (error) => this.#fail(error))
    process_.once('exit', (code, signal) => {
      if (this.clearing || (code === 0 && name === 'sender')) return
      const said = child.stderr === '' ? '' : `:\n${child.stderr.trimEnd()}`
      this.#fail(new Error(`the ${name} ended early (${signal ?? `exit code ${code}`})${said}`))
    })
    process_.on('message', (note: Note) => {
      if (note.type !== 'failed') return
      this.#fail(Object.assign(new Error(`the ${name} failed: ${note.message}`), { code: note.code }))
    })
    this.#children.push(child)
    return child
  }

  /** The next note of that type; rejects when anything on the stage fails. */
  hear<T extends Note['type']>(child: Child, type: T): Promise<Extract<Note, { type: T }>> {
    const note = new Promise<Extract<Note, { type: T }>>((resolve) => {
      child.process.on('message', (note: Note) => {
        if (note.type === type) resolve(note as Extract<Note, { type: T }>)
      })
    })
    return Promise.race([note, this.failure])
  }

  /** Ends the processes, the daemon last, waits for them, and removes the directory. Once. */
  clear(): Promise<void> {
    this.#cleared ??= (async () => {
      const [daemon, ...others] = this.#children
      await Promise.all(others.map(end))
      if (daemon !== undefined) await end(daemon)
      rmSync(this.directory, { recursive: true, force: true })
    })()
    return this.#cleared
  }
}

async function end(child: Child): Promise<void> {
  const { process: process_ } = child
  if (process_.exitCode === null && process_.signalCode === null && process_.pid !== undefined) {
    process_.kill('SIGTERM')
    const patience = setTimeout(() => process_.kill('SIGKILL'), GRACE_MS)
    await child.ended
    clearTimeout(patience)
  }
  if (process_.connected) process_.disconnect()
}

async function perform(stage: Stage, file: string, size: number, progress: Progress) {
  const socket = join(stage.directory, 'demo.sock')
  stage.start('daemon', ['--import', LEASH, MAIN, 'host', '--socket', socket, '--sections', '4'])
  const deadline = setTimeout(() => stage.fail(new Error('the demo took too long')), WHOLE_MS)
  try {
    const [sha256] = await Promise.all([sha256Of(file), answering(socket)])
    const busy = availableParallelism() > 1
    const job = (role: Job['role']): string[] => [
      CHILD,
      JSON.stringify({ role, socket, directory: stage.directory, file, size, busy } satisfies Job),
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

async function sha256Of(file: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

/** Resolves when the daemon answers. */
async function answering(socket: string): Promise<void> {
  const giveUp = Date.now() + START_MS
  for (;;) {
    try {
      await hostStatus(socket)
      return
    } catch (error) {
      if (Date.now() > giveUp) throw error
      await sleep(20)
    }
  }
}

function report(file: string, size: number, sha256: string, { shm, net }: Results): string {
  const ratio = (a: number, b: number) => `${(b / a).toFixed(b / a < 10 ? 1 : 0)} ×`
  const transfer = (seconds: number) => {
    const rate = size / seconds
    return `${seconds.toFixed(3)} s, ${rate >= 1e9 ? `${(rate / 1e9).toFixed(1)} GB/s` : `${(rate / 1e6).toFixed(0)} MB/s`}`
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
    shm.busy === null
      ? ['64 bytes and back, busy', 'needs two processors', micro(net.echo), '']
      : [
          '64 bytes and back, busy',
          micro(shm.busy),
          micro(net.echo),
          ratio(shm.busy.median, net.echo.median),
        ],
  ]
  return `${basename(file)}, ${bytes(size)}, from one process to another: SHA-256 ${sha256.slice(0, 16)}… matches.
Round trips: medians of ${shm.adaptive.count}. node:net uses a Unix socket, in the same run.

${table(rows, [1, 2, 3])}${busyNote()}`
}

/** Two processes that spin need two processors to themselves; said here, since the figures cannot say it. */
function busyNote(): string {
  const load = loadavg()[0]!
  const processors = availableParallelism()
  if (load < processors) return ''
  return `\nOther programs use this machine (load ${load.toFixed(1)} on ${processors} processors): vmring spins while it waits for\nan answer, so its round trips suffer from that more than those of sockets do.\n`
}
