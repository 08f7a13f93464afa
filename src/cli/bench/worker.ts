/**
 * The processes of `vmring bench`, started by it with an IPC channel; no public command. Each does one thing and ends: a side of
 * one run, the floors, peers that only sit in the region, or the meeting with the other machine.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { isMainThread, MessageChannel, type MessagePort, Worker, workerData } from 'node:worker_threads'
import { VmringError } from '../../errors.js'
import { attach, type Channel } from '../../index.js'
import { FloorKind } from '../../native/bench-types.js'
import { native } from '../../native/binding.js'
import { Checker, Writer } from './content.js'
import { Control, controlOver } from './control.js'
import { ask, pingEvent, pushEvent, rateEvent, serve } from './drive-event.js'
import { drainSync, pingSync, pushSync, rateSync, receiveLoop } from './drive-sync.js'
import type { Environment } from './environment.js'
import type { ClientReport, Floors, Job, Note, ServerReport } from './job.js'
import type { Link, Site, Transport } from './link.js'
import { PeerSource } from './shm-link.js'
import { Side } from './side.js'
import { transportOf } from './transports.js'

/** Where the notes of the two sides go: over the process that started both, or between machines. */
export interface Place {
  directory: string | null
  region: string | undefined
  /** between machines: the service name; null on one */
  service: string | null
  /** between machines: ms to wait for the other side */
  wait: number
}

export type Start =
  | { role: 'client' | 'server'; job: Job; place: Place }
  | { role: 'crowd'; region: string | undefined; count: number }
  | { role: 'floor'; job: Pick<Job, 'cpus' | 'idleGap' | 'size' | 'ring'>; each: number }
  | { role: 'meet'; place: Place; environment: Environment; jobs: Job[] | null }

export interface Meeting {
  jobs: Job[]
  environment: Environment
}

export type Said =
  | { type: 'note'; note: Note }
  | { type: 'floors'; floors: Floors & { fillBytesPerSecond: number } }
  | { type: 'result'; client: ClientReport; server: ServerReport }
  | { type: 'met'; meeting: Meeting }
  | { type: 'seated' }
  | { type: 'ended' }
  | { type: 'failed'; message: string; code?: string }

const NANO = 1e6

/** One side of one run, from opening to the report. */
class Run {
  readonly #job: Job
  readonly #site: Site
  readonly #control: Control
  readonly #source: PeerSource
  readonly #transport: Transport
  readonly #countsProcessor: boolean

  constructor(
    job: Job,
    place: Place,
    control: Control,
    source: PeerSource,
    transport: Transport,
    countsProcessor: boolean,
  ) {
    this.#job = job
    this.#site = { job, directory: place.directory, prefix: `${place.service ?? 'bench'}.` }
    this.#control = control
    this.#source = source
    this.#transport = transport
    this.#countsProcessor = countsProcessor
  }

  async client(): Promise<{ client: ClientReport; server: ServerReport }> {
    const job = this.#job
    const { address } = await this.#control.next('listening')
    const before = await this.#freeBytes()
    const links: Link[] = []
    const times: number[] = []
    for (let i = 0; i < job.channels; i++) {
      const begin = performance.now()
      links.push(await this.#transport.connect(this.#site, address))
      times.push((performance.now() - begin) * NANO)
    }
    await this.#control.next('opened')
    times.sort((a, b) => a - b)
    const memory = await this.#perChannel(before)
    const side = this.#side(links)
    const sync = job.api === 'sync'
    const drive =
      job.test === 'throughput'
        ? sync
          ? pushSync
          : pushEvent
        : job.test === 'rate'
          ? sync
            ? rateSync
            : rateEvent
          : sync
            ? pingSync
            : pingEvent
    const asked = ask(
      side,
      async (...args) => {
        await drive(...args)
        if (sync) void drainSync(side, asked)
      },
      times[times.length >> 1]!,
    )
    const { client, server } = await asked
    return { client: { ...client, ...memory }, server }
  }

  async server(): Promise<ServerReport> {
    const job = this.#job
    const acceptor = await this.#transport.listen(this.#site)
    const before = await this.#freeBytes()
    this.#control.send({ type: 'listening', address: acceptor.address })
    const links: Link[] = []
    while (links.length < job.channels) links.push(await acceptor.accept())
    this.#control.send({ type: 'opened' })
    const memory = await this.#perChannel(before)
    const side = this.#side(links)
    const loop = job.api === 'sync' ? receiveLoop(side) : null
    const report = { ...(await serve(side, () => loop?.stop())), ...memory }
    await loop?.done
    this.#control.send({ type: 'done', report })
    return report
  }

  #side(links: Link[]): Side {
    const { size, touch, fill, api } = this.#job
    const link = links.pop()!
    const checker = new Checker(size, touch)
    if (api !== 'sync') link.receive(checker)
    // the others only stand open, ready to receive
    for (const idle of links) idle.receive(new Checker(size, touch))
    const writer = new Writer(link, size, fill, touch)
    const parts = { link, checker, writer, control: this.#control }
    return new Side(this.#job, parts, this.#source, this.#countsProcessor)
  }

  async #freeBytes(): Promise<number> {
    return this.#job.mode === undefined ? 0 : ((await this.#source.get()).counters()?.freeBytes ?? 0)
  }

  async #perChannel(before: number): Promise<{ bytesPerChannel?: number }> {
    if (before === 0) return {}
    return { bytesPerChannel: (before - (await this.#freeBytes())) / this.#job.channels }
  }
}

async function side(role: 'client' | 'server', job: Job, place: Place, relay: Control): Promise<Said> {
  const source = new PeerSource(place.region, job.mode ?? 'event')
  if (job.transport === 'messageport') {
    const [data, notes] = [new MessageChannel(), new MessageChannel()]
    const thread = new Worker(new URL(import.meta.url), {
      workerData: { job, place, data: data.port2, notes: notes.port2 },
      transferList: [data.port2, notes.port2],
      execArgv: process.execArgv,
    })
    thread.once('error', fail)
    const control = overPort(notes.port1)
    const transport = await transportOf(job.transport, source, data.port1)
    const result = await new Run(job, place, control, source, transport, true).client()
    await thread.terminate()
    return { type: 'result', ...result }
  }
  const control = place.service === null ? relay : await meetAgain(role, place, source)
  const run = new Run(job, place, control, source, await transportOf(job.transport, source), true)
  if (role === 'client') {
    const result = await run.client()
    await source.close()
    return { type: 'result', ...result }
  }
  await run.server()
  // who leaves takes with him what the other side has not read yet
  await Promise.race([control.next('over').catch(() => {}), control.over])
  await source.close()
  return { type: 'ended' }
}

/** Between machines, the channel for notes of one run. */
async function meetAgain(role: 'client' | 'server', place: Place, source: PeerSource): Promise<Control> {
  const peer = await source.get()
  const service = `${place.service}.run`
  if (role === 'client') return controlOver(await peer.connect(service, { wait: place.wait }))
  const server = await peer.listen(service)
  return controlOver(await firstChannel(server, place.wait))
}

async function firstChannel(server: AsyncIterable<Channel>, wait: number): Promise<Channel> {
  const asked = server[Symbol.asyncIterator]().next()
  const timeout = sleep(wait, null, { ref: false })
  const first = await Promise.race([asked, timeout])
  if (first === null || first.done)
    throw new Error(`nobody has connected within ${wait / 1000} s; start the other side with --connect`)
  return first.value
}

function overPort(port: MessagePort): Control {
  const control = new Control((note) => port.postMessage(note))
  port.on('message', (note: Note) => control.take(note))
  return control
}

function noMemory(): VmringError {
  return new VmringError(
    'ERR_VMRING_NO_REGION',
    'this machine has no shared memory to measure: no ivshmem device, no region named (vmring doctor says more)',
  )
}

/** What both machines have to know before the first run: what will be run, and where. */
async function meet(start: Extract<Start, { role: 'meet' }>): Promise<Said> {
  const { place, environment, jobs } = start
  const peer = await attach({ ...(place.region !== undefined && { region: place.region }), mode: 'event' })
  try {
    const wait = { wait: place.wait }
    const channel =
      jobs === null
        ? await firstChannel(await peer.listen(place.service!), place.wait)
        : await peer.connect(place.service!, wait)
    await channel.send(Buffer.from(JSON.stringify({ environment, jobs })))
    for await (const message of channel) {
      const other = message.json() as Meeting
      const meeting = { jobs: jobs ?? other.jobs, environment: other.environment }
      await channel.close()
      if (peer.section < 0 && meeting.jobs.some(({ transport }) => transport === 'shm')) throw noMemory()
      return { type: 'met', meeting }
    }
    throw new Error('the other side of the bench has closed the channel')
  } finally {
    await peer.close()
  }
}

function floors({ job, each }: Extract<Start, { role: 'floor' }>): Said {
  const [cpu, other] = job.cpus ?? [-1, -1]
  const measure = (kind: FloorKind, size = job.size, ms = each) =>
    native.benchFloor(kind, cpu, other, ms * NANO, job.idleGap * NANO, size, job.ring)
  return {
    type: 'floors',
    floors: {
      cacheLineRoundTrip: measure(FloorKind.CACHE_LINE),
      ringRoundTrip: measure(FloorKind.RING, 64),
      // the only one that rests between two
      eventfdRoundTrip: measure(FloorKind.EVENTFD, job.size, each + 3 * job.idleGap),
      memcpyBytesPerSecond: measure(FloorKind.MEMCPY),
      fillBytesPerSecond: measure(FloorKind.FILL),
    },
  }
}

async function crowd({ region, count }: Extract<Start, { role: 'crowd' }>): Promise<Said> {
  for (let i = 0; i < count; i++) await attach({ ...(region !== undefined && { region }), mode: 'event' })
  return { type: 'seated' }
}

function say(said: Said, then: () => void = () => {}): void {
  if (process.connected) process.send!(said, then)
  else then()
}

function fail(error: unknown): void {
  const { message, code } = error as { message?: string; code?: string }
  say({ type: 'failed', message: message ?? String(error), ...(code !== undefined && { code }) }, () =>
    process.exit(1),
  )
}

async function begin(start: Start, relay: Control): Promise<void> {
  switch (start.role) {
    case 'crowd':
      say(await crowd(start))
      return // stays
    case 'floor':
      say(floors(start), () => process.exit(0))
      return
    case 'meet':
      say(await meet(start), () => process.exit(0))
      return
    default: {
      const { role, job, place } = start
      if (job.cpus !== null) native.benchPin(job.cpus[role === 'client' ? 0 : 1])
      const said = await side(role, job, place, relay)
      say(said, () => process.exit(0))
    }
  }
}

if (isMainThread) {
  const relay = new Control((note) => say({ type: 'note', note }))
  process.on('message', (message: { start?: Start; note?: Note }) => {
    if (message.note !== undefined) relay.take(message.note)
    else if (message.start !== undefined) begin(message.start, relay).catch(fail)
  })
  // Ctrl-C reaches the whole group; the one who started this process ends it
  process.on('SIGINT', () => {})
  // whoever started this process has ended
  process.on('disconnect', () => process.exit(1))
} else {
  const { job, place, data, notes } = workerData as {
    job: Job
    place: Place
    data: MessagePort
    notes: MessagePort
  }
  if (job.cpus !== null) native.benchPin(job.cpus[1])
  const source = new PeerSource(undefined, 'event')
  const transport = await transportOf(job.transport, source, data)
  // the thread is ended by the one who asks
  await new Run(job, place, overPort(notes), source, transport, false).server()
}
