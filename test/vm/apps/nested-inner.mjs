// nested-inner.mjs FOLDER: what runs in a guest inside a guest, in one process, since starting a second one takes half a minute
// there. Does what FOLDER/todo-1, todo-2, … say ({ todo, … }, one JSON object each) without waiting for one to end before
// the next; each result and event is a line of JSON.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import { bindCommand } from '../../../dist/cli/bind.js'
import { attach, Peer } from '../../../dist/index.js'
import { decodeRelayFrame, FrameReader, refusalError } from '../../../dist/path/relay-frames.js'
import * as vsock from '../../../dist/vsock/index.js'

const folder = process.argv[2]
const POLL_MS = 200
const PROGRESS = 1000
const say = (said, more) =>
  process.stdout.write(`${JSON.stringify({ said, t: Math.round(performance.now()), ...more })}\n`)

// ---- the README's example, as written: imported, and its peer and its paths seen from outside

const app = { runs: 0, peer: null, paths: [], output: '' }
const { connect, listen } = Peer.prototype

function watched() {
  Peer.prototype.listen = function (...args) {
    app.peer = this
    return listen.apply(this, args)
  }
  Peer.prototype.connect = async function (...args) {
    const channel = await connect.apply(this, args)
    app.paths.push(channel.path)
    return channel
  }
  console.log = (text) => {
    app.output += `${text}\n`
  }
}

async function startApp({ file }) {
  Object.assign(app, { paths: [], output: '' })
  watched()
  await import(`${file}?${app.runs++}`)
  Object.assign(Peer.prototype, { connect, listen })
  const { output, paths } = app
  return { output, paths }
}

// ---- a stream whose every message carries its number, its checksum and a length of its own

const noise = Buffer.alloc(4096, 'vmring, numbered and checked; ')

function message(number) {
  const from = number % 2048
  const body = noise.subarray(from, from + 4 + ((number * 7919) % 300))
  const bytes = Buffer.allocUnsafe(8 + body.length)
  bytes.writeUInt32LE(number, 0)
  bytes.set(body, 8)
  bytes.writeUInt32LE(crc32(body, number), 4)
  return bytes
}

/** Counts what comes: `next` is the number that has to be the next. */
class Check {
  next = 0
  wrong = 0
  firstWrong = null
  gap = 0
  #last = 0
  /** the longest silence since the last look, ms */
  look() {
    const { gap } = this
    this.gap = 0
    return Math.round(gap)
  }
  take({ view }) {
    const now = performance.now()
    if (this.#last > 0 && now - this.#last > this.gap) this.gap = now - this.#last
    this.#last = now
    const bytes = Buffer.from(view.buffer, view.byteOffset, view.byteLength)
    const number = bytes.readUInt32LE(0)
    if (number !== this.next || crc32(bytes.subarray(8), number) !== bytes.readUInt32LE(4)) {
      this.wrong++
      this.firstWrong ??= { number, expected: this.next }
    }
    this.next = number + 1
  }
}

const stream = { peer: null, channel: null, check: new Check(), sent: 0, stage: 0, paths: [] }

async function open() {
  const { peer } = stream
  peer.on('lost', ({ code, message: why }) => say('lost', { code, why }))
  peer.on('rejoined', () => say('rejoined', { section: peer.section }))
}

function follow(channel) {
  const { check } = stream
  stream.channel = channel
  stream.paths.push(channel.path)
  say('channel', { path: channel.path })
  channel.on('path', (path) => {
    stream.paths.push(path)
    say('path', { path, sent: stream.sent, received: check.next, longest: check.look() })
  })
  for (const name of ['stalled', 'resumed']) channel.on(name, () => say(name))
  channel.on('error', ({ code, message: why }) => say('error', { code, why }))
  channel.on('message', (one) => {
    check.take(one)
    if (check.next % PROGRESS === 0) say('received', { received: check.next, path: channel.path })
  })
}

/**
 * Sends `total` messages: up to marks[0] at full speed, then slowly until it is told to go on; and so on. It never pauses
 * altogether: whatever happens, happens in the middle of a stream.
 */
async function pour({ total, marks }) {
  const { channel } = stream
  while (stream.sent < total) {
    const slow = stream.stage < marks.length && stream.sent >= marks[stream.stage]
    for (let burst = slow ? 4 : 64; burst > 0 && stream.sent < total; burst--) {
      const bytes = message(stream.sent)
      if (!channel.trySend(bytes)) await channel.send(bytes)
      stream.sent++
    }
    await sleep(slow ? 50 : 0)
  }
}

async function outcome({ expect }) {
  const { check, channel, paths } = stream
  while (check.next < expect && channel.stats().error === null) await sleep(50)
  await sleep(500) // one too many would come now
  const { sent } = stream
  const { pathChanges, error } = channel.stats()
  const { next: received, wrong, firstWrong } = check
  return { sent, received, wrong, firstWrong, paths, pathChanges, error, longest: check.look() }
}

// ---- what a guest must not do

async function code(promise) {
  try {
    await promise
    return null
  } catch (error) {
    return error.code
  }
}

/** Says something to the relay's port; the code of what it is refused with, and whether it was cut off. */
async function insult(bytes, limit = 60_000) {
  const socket = vsock.connect({ cid: vsock.VMADDR_CID_HOST, port: 5790 })
  const reader = new FrameReader()
  let refused = null
  socket.on('error', () => {})
  socket.on('data', (data) => {
    reader.push(data)
    for (let frame = reader.next(); frame !== null; frame = reader.next()) {
      const decoded = decodeRelayFrame(frame)
      refused = typeof decoded === 'string' ? decoded : refusalError(decoded).code
    }
  })
  await once(socket, 'connect')
  socket.write(bytes)
  const cut = await Promise.race([
    once(socket, 'close').then(() => true),
    sleep(limit, false, { ref: false }),
  ])
  socket.destroy()
  return { refused, cut }
}

const todos = {
  async bind() {
    await bindCommand().parseAsync([], { from: 'user' })
  },

  /** As its end would: the program listens for ever. */
  async endApp() {
    await app.peer.close()
  },

  startApp,

  async listen({ services }) {
    stream.peer = await attach()
    await open()
    for (const service of services) {
      const server = await stream.peer.listen(service)
      if (service === services[0]) server.once('channel', follow)
    }
    return { region: stream.peer.region }
  },

  async connect({ service, wait }) {
    stream.peer = await attach()
    await open()
    follow(await stream.peer.connect(service, { wait }))
    return { region: stream.peer.region }
  },

  pour,
  async goOn() {
    stream.stage++
  },
  outcome,

  async trespass({ service }) {
    const { peer } = stream
    const frame = Buffer.alloc(40)
    frame[0] = 1
    const long = Buffer.from(frame)
    long[1] = 32
    long.writeUInt32LE(1 << 30, 32)
    return {
      connect: await code(peer.connect(service, { paths: ['vsock'] })),
      listen: await code(peer.listen(service)),
      noise: await insult(Buffer.concat([Buffer.of(255), randomBytes(4000)])),
      nonsense: await insult(frame),
      long: await insult(long),
    }
  },

  async close() {
    await stream.channel.close()
    await stream.peer.close()
  },
}

process.on('warning', ({ code }) => say('warning', { code }))
say('ready')
for (let number = 1, over = false; !over; ) {
  const path = join(folder, `todo-${number}`)
  if (!existsSync(path)) {
    await sleep(POLL_MS)
    continue
  }
  const { todo, ...more } = JSON.parse(readFileSync(path, 'utf8'))
  over = todo === 'close'
  const id = number++
  todos[todo](more).then(
    (result) => say('done', { id, todo, result }),
    (error) => say('failed', { id, todo, code: error.code, why: error.stack }),
  )
}
