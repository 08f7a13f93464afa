/**
 * The two processes of `vmring demo`, started by it, with an IPC channel on this machine, without one in a guest, where
 * they say on standard output what they have to say; no public command. The receiver offers the same two services twice,
 * over shared memory and over sockets: `file` takes a file and answers with its SHA-256, `echo` sends back what it gets.
 * The sender does the work and takes the times.
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, openSync, readSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import { attach, type Channel, type Peer } from '../index.js'

export interface Job {
  role: 'sender' | 'receiver'
  region: string
  /** where the receiver listens by node:net */
  net: { file: NetAddress; echo: NetAddress }
  file: string
  size: number
  /** spin as well; makes sense on two processors or more */
  busy: boolean
}

export type NetAddress = { path: string } | { host: string; port: number }

export interface Receipt {
  bytes: number
  sha256: string | null
}

export interface Trips {
  /** nanoseconds, for one message there and back */
  median: number
  p99: number
  count: number
}

export interface Results {
  shm: { checked: number; plain: number; adaptive: Trips; busy: Trips | null; receipt: Receipt }
  net: { checked: number; plain: number; echo: Trips; receipt: Receipt }
}

/** What the processes of the demo say to each other. */
export type Note =
  | { type: 'ready' }
  | { type: 'spin' }
  | { type: 'spinning' }
  | { type: 'phase'; text: string }
  | { type: 'results'; results: Results }
  | { type: 'failed'; message: string; code?: string | undefined }

const CHUNK = 64 * 1024
const RING = 1024 * 1024
const WARM_UP = 500
const TRIPS = 5000
const TRIP_BYTES = 64
/** on a machine that is busy with other things, fewer trips must do */
const TRIPS_MS = 6000
/** work between two looks at the event loop */
const BYTES_PER_TURN = 16 * 1024 * 1024
const PATIENCE_MS = 2000

function tell(note: Note): void {
  if (process.connected) process.send!(note)
  else if (process.send === undefined) process.stdout.write(`${JSON.stringify(note)}\n`)
}

function fail(error: unknown): void {
  const { message, code } = error as { message?: string; code?: string }
  tell({ type: 'failed', message: message ?? String(error), code })
}

// ---- receiver

async function receiver(job: Job): Promise<void> {
  const peer = await attach({ region: job.region })
  const files = await peer.listen('file')
  files.on('channel', (channel: Channel) => void take(channel).catch(fail))
  const echo = await peer.listen('echo')
  echo.on('channel', (channel: Channel) => {
    channel.on('message', (message) => {
      if (!channel.trySend(message.view)) fail(new Error('no room for an echo'))
    })
    channel.on('error', fail)
  })
  const fileServer = createServer({ allowHalfOpen: true }, (socket) => void takeSocket(socket).catch(fail))
  const echoServer = createServer({ noDelay: true }, (socket) => {
    socket.on('error', fail)
    socket.on('data', (data) => socket.write(data))
  })
  await once(fileServer.listen(job.net.file), 'listening')
  await once(echoServer.listen(job.net.echo), 'listening')
  process.on('message', (note: Note) => {
    if (note.type === 'spin') void spin(job).catch(fail)
  })
  tell({ type: 'ready' })
}

/** First message: one byte, 1 = hash. Then the file. */
async function take(channel: Channel): Promise<void> {
  let hash: ReturnType<typeof createHash> | null | undefined
  let bytes = 0
  for await (const message of channel) {
    const { view } = message
    if (hash === undefined) hash = view[0] === 1 ? createHash('sha256') : null
    else {
      bytes += view.length
      hash?.update(view)
    }
  }
  const receipt: Receipt = { bytes, sha256: hash?.digest('hex') ?? null }
  await channel.send(Buffer.from(JSON.stringify(receipt)))
  await channel.close()
}

async function takeSocket(socket: Socket): Promise<void> {
  let hash: ReturnType<typeof createHash> | null | undefined
  let bytes = 0
  // no loop over the socket: that would close both directions at its end
  socket.on('data', (chunk: Buffer) => {
    let data = chunk
    if (hash === undefined) {
      hash = chunk[0] === 1 ? createHash('sha256') : null
      data = chunk.subarray(1)
    }
    bytes += data.length
    hash?.update(data)
  })
  await once(socket, 'end')
  const receipt: Receipt = { bytes, sha256: hash?.digest('hex') ?? null }
  socket.end(JSON.stringify(receipt))
}

/** Answers on this thread without the event loop, until an empty message comes. */
async function spin(job: Job): Promise<void> {
  const peer = await attach({ region: job.region, mode: 'busy' })
  const server = await peer.listen('spin')
  server.on('channel', (channel: Channel) => {
    channel.on('error', fail)
    // let the acceptance go out first
    setImmediate(() => {
      for (;;) {
        const message = channel.receiveSync({ timeout: PATIENCE_MS })
        if (message === null) return fail(new Error('the sender fell silent'))
        const last = message.length === 0
        if (!last) channel.trySend(message.view)
        message.release()
        if (last) return
      }
    })
  })
  tell({ type: 'spinning' })
}

// ---- sender

async function sender(job: Job): Promise<void> {
  const peer = await attach({ region: job.region })
  tell({ type: 'phase', text: 'sending the file through shared memory' })
  const receipt = await timed(() => sendFile(peer, job, true))
  const plain = await timed(() => sendFile(peer, job, false))
  tell({ type: 'phase', text: 'sending the file through a socket' })
  const netReceipt = await timed(() => sendFileNet(job, true))
  const netPlain = await timed(() => sendFileNet(job, false))
  tell({ type: 'phase', text: 'round trips' })
  const adaptive = await trips(peer)
  const echo = await tripsNet(job)
  await peer.close()
  const busy = job.busy ? await tripsBusy(job) : null
  tell({
    type: 'results',
    results: {
      shm: { checked: receipt.seconds, plain: plain.seconds, adaptive, busy, receipt: receipt.value },
      net: { checked: netReceipt.seconds, plain: netPlain.seconds, echo, receipt: netReceipt.value },
    },
  })
}

async function timed<T>(work: () => Promise<T>): Promise<{ seconds: number; value: T }> {
  const begin = performance.now()
  const value = await work()
  return { seconds: (performance.now() - begin) / 1000, value }
}

/** The file is read straight into ring memory. */
async function sendFile(peer: Peer, job: Job, hash: boolean): Promise<Receipt> {
  const channel = await peer.connect('file', { wait: 5000, ringSize: RING })
  await channel.send(Uint8Array.of(hash ? 1 : 0))
  const fd = openSync(job.file, 'r')
  try {
    let unbroken = 0
    for (let at = 0; at < job.size; ) {
      const lease = channel.reserve(Math.min(CHUNK, job.size - at))
      if (lease === null) {
        await once(channel, 'drain')
        unbroken = 0
        continue
      }
      const length = readSync(fd, lease.data, 0, lease.data.length, at)
      lease.commit(length)
      if (length === 0) throw new Error(`${job.file} became shorter meanwhile`)
      at += length
      unbroken += length
      if (unbroken >= BYTES_PER_TURN) {
        await turn()
        unbroken = 0
      }
    }
  } finally {
    closeSync(fd)
  }
  await channel.end()
  let receipt: Receipt | null = null
  for await (const message of channel) receipt = message.json() as Receipt
  await channel.close()
  if (receipt === null) throw new Error('the receiver gave no receipt')
  return receipt
}

async function sendFileNet(job: Job, hash: boolean): Promise<Receipt> {
  const socket = connect({ ...job.net.file, allowHalfOpen: true })
  await once(socket, 'connect')
  socket.write(Uint8Array.of(hash ? 1 : 0))
  const fd = openSync(job.file, 'r')
  try {
    for (let at = 0; at < job.size; ) {
      const chunk = Buffer.allocUnsafe(Math.min(CHUNK, job.size - at))
      const length = readSync(fd, chunk, 0, chunk.length, at)
      if (length === 0) throw new Error(`${job.file} became shorter meanwhile`)
      at += length
      if (!socket.write(chunk.subarray(0, length))) await once(socket, 'drain')
    }
  } finally {
    closeSync(fd)
  }
  socket.end()
  const parts: Buffer[] = []
  for await (const chunk of socket as AsyncIterable<Buffer>) parts.push(chunk)
  return JSON.parse(Buffer.concat(parts).toString('utf8')) as Receipt
}

/** Takes the time of each trip. */
class Stopwatch {
  readonly #times = new Float64Array(WARM_UP + TRIPS)
  readonly #deadline = performance.now() + TRIPS_MS
  #done = 0
  #begin = 0

  start(): void {
    this.#begin = performance.now()
  }

  /** True when there is another trip to make. */
  stop(): boolean {
    const now = performance.now()
    this.#times[this.#done++] = (now - this.#begin) * 1e6
    return this.#done < this.#times.length && (now < this.#deadline || this.#done < 2 * WARM_UP)
  }

  get trips(): Trips {
    const sorted = this.#times.slice(WARM_UP, this.#done).sort()
    const at = (share: number) => sorted[Math.floor(share * (sorted.length - 1))]!
    return { median: at(0.5), p99: at(0.99), count: sorted.length }
  }
}

async function trips(peer: Peer): Promise<Trips> {
  const channel = await peer.connect('echo', { wait: 5000 })
  const payload = new Uint8Array(TRIP_BYTES)
  const watch = new Stopwatch()
  const send = () => {
    watch.start()
    if (!channel.trySend(payload)) channel.destroy(new Error('no room for a message of 64 bytes'))
  }
  await new Promise<void>((resolve, reject) => {
    channel.on('error', reject)
    channel.on('message', () => {
      if (watch.stop()) send()
      else resolve()
    })
    send()
  })
  await channel.close()
  return watch.trips
}

async function tripsBusy(job: Job): Promise<Trips> {
  const spinning = new Promise<void>((resolve) => {
    process.once('message', () => resolve())
  })
  tell({ type: 'spin' })
  await spinning
  const peer = await attach({ region: job.region, mode: 'busy' })
  const channel = await peer.connect('spin', { wait: 5000 })
  const payload = new Uint8Array(TRIP_BYTES)
  const watch = new Stopwatch()
  do {
    watch.start()
    channel.trySend(payload)
    const message = channel.receiveSync({ timeout: PATIENCE_MS })
    if (message === null) throw new Error('the receiver fell silent')
    message.release()
  } while (watch.stop())
  channel.trySend(new Uint8Array(0))
  await channel.close()
  await peer.close()
  return watch.trips
}

async function tripsNet(job: Job): Promise<Trips> {
  const socket = connect({ ...job.net.echo, noDelay: true })
  const payload = new Uint8Array(TRIP_BYTES)
  const watch = new Stopwatch()
  const send = () => {
    watch.start()
    socket.write(payload)
  }
  await new Promise<void>((resolve, reject) => {
    let got = 0
    socket.on('error', reject)
    socket.on('data', (data) => {
      got += data.length
      if (got < TRIP_BYTES) return
      got = 0
      if (watch.stop()) send()
      else resolve()
    })
    socket.on('connect', send)
  })
  socket.destroy()
  return watch.trips
}

// A terminal sends Ctrl-C to all of us; the parent decides what becomes of it. When it is gone, so are we.
process.on('SIGINT', () => {})
process.on('SIGTERM', () => process.exit(0))
process.on('disconnect', () => process.exit(0))
process.on('unhandledRejection', (error) => {
  fail(error)
  process.exitCode = 1
})

const job = JSON.parse(process.argv[2] ?? 'null') as Job | null
if (job !== null) await (job.role === 'sender' ? sender(job) : receiver(job)).catch(fail)
