// The stream path beside node:net on the same kind of socket: two processes, a Unix socket, the same sizes in turn. What counts
// is the ratio of both within one run; node:net moves bytes without borders, the stream path messages. Processor time (of both
// processes together, in clock ticks of the system) says more than speed on a machine that does other things besides.
//   node bench/micro/stream.mjs [--json] [--quick]
import { fork } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { native } from '../../dist/native/binding.js'
import { FramePath } from '../../dist/path/pump.js'
import { StreamWire } from '../../dist/path/stream.js'
import { Peer } from '../../dist/peer/peer.js'
import { SessionHub } from '../../dist/session/hub.js'
import { median } from '../claims.mjs'

const child = process.argv[2] === 'child'
const directory = child ? process.argv[3] : mkdtempSync(join(tmpdir(), 'vmring-bench-'))
const CAPACITY = 1024 * 1024
const uuids = [new Uint8Array(16).fill(1), new Uint8Array(16).fill(2)]

const backend = { address: 'bench', section: -1, counters: () => null, hold() {}, drop() {}, close() {} }

function peerOver(stream, own) {
  const hub = new SessionHub({ uuid: uuids[own], incarnation: 1 })
  const remote = { uuid: uuids[1 - own], incarnation: 1, section: -1 }
  hub.addPath(new FramePath(new StreamWire(stream, { name: 'unix' }), remote, { capacity: CAPACITY }))
  return new Peer(hub, backend)
}

const nothing = { onRead() {}, onEnd() {}, onDrain() {}, onClose() {} }

// The other process answers a message of 64 bytes whose first byte is 1; every other it counts until told to report.
async function serve() {
  net
    .createServer((socket) => {
      let bytes = 0
      let wanted = 0
      let echo = false
      socket.on('data', (chunk) => {
        if (wanted === 0 && !echo) {
          // the first 8 bytes say how many follow; 0: echo
          wanted = Number(chunk.readBigUInt64LE(0))
          echo = wanted === 0
          bytes = 0
          chunk = chunk.subarray(8)
        }
        if (echo) {
          if (chunk.length > 0) socket.write(chunk)
          return
        }
        bytes += chunk.length
        if (bytes < wanted) return
        wanted = 0
        socket.write(Buffer.from([1]))
      })
    })
    .listen(join(directory, 'net'))
  native.streamListen(
    { path: join(directory, 'stream') },
    {},
    {
      onConnection(stream) {
        stream.start(nothing)
        void (async () => {
          const server = await peerOver(stream, 1).listen('bench')
          server.on('channel', (channel) => {
            let left = 0
            let echo = false
            channel.on('message', (message) => {
              if (left === 0 && !echo) {
                left = Number(Buffer.from(message.copy()).readBigUInt64LE(0))
                echo = left === 0
              } else if (echo) {
                channel.trySend(message.view)
              } else if (--left === 0) {
                channel.trySend(new Uint8Array(1))
              }
            })
          })
        })()
      },
      onRefused(error) {
        throw error
      },
    },
  )
  process.send('ready')
  process.on('disconnect', () => process.exit(0))
}

const count = (n) => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(n))
  return bytes
}

function connectNet() {
  return new Promise((resolve) => {
    const socket = net.connect(join(directory, 'net'), () => resolve(socket))
  })
}

async function netOneWay(size, messages) {
  const socket = await connectNet()
  const chunk = Buffer.alloc(size, 7)
  const begin = process.hrtime.bigint()
  const done = new Promise((resolve) => socket.once('data', resolve))
  socket.write(count(size * messages))
  for (let n = 0; n < messages; n++) {
    if (!socket.write(chunk)) await new Promise((resolve) => socket.once('drain', resolve))
  }
  await done
  const seconds = Number(process.hrtime.bigint() - begin) / 1e9
  socket.destroy()
  return messages / seconds
}

async function netRoundTrips(messages) {
  const socket = await connectNet()
  const chunk = Buffer.alloc(64, 1)
  socket.write(count(0))
  await new Promise((resolve) => setTimeout(resolve, 20))
  let left = messages
  const begin = process.hrtime.bigint()
  await new Promise((resolve) => {
    socket.on('data', () => {
      if (--left === 0) resolve()
      else socket.write(chunk)
    })
    socket.write(chunk)
  })
  const seconds = Number(process.hrtime.bigint() - begin) / 1e9
  socket.destroy()
  return messages / seconds
}

async function connectPeer() {
  const stream = await new Promise((resolve, reject) => {
    const made = native.streamConnect(
      { path: join(directory, 'stream') },
      { ...nothing, onConnect: () => resolve(made), onClose: reject },
    )
  })
  const peer = peerOver(stream, 0)
  const channel = await peer.connect('bench', { wait: 10_000 })
  return { peer, channel, stream }
}

async function leave(peer, stream) {
  await peer.close()
  stream.close()
}

async function pathOneWay(size, messages) {
  const { peer, channel, stream } = await connectPeer()
  const bytes = new Uint8Array(size).fill(7)
  const done = new Promise((resolve) => channel.once('message', resolve))
  const begin = process.hrtime.bigint()
  await channel.send(count(messages))
  for (let n = 0; n < messages; n++) {
    if (size > channel.inlineLimit) await channel.send(bytes)
    else while (!channel.trySend(bytes)) await new Promise((resolve) => channel.once('drain', resolve))
  }
  await done
  const seconds = Number(process.hrtime.bigint() - begin) / 1e9
  await leave(peer, stream)
  return messages / seconds
}

async function pathRoundTrips(messages) {
  const { peer, channel, stream } = await connectPeer()
  const bytes = new Uint8Array(64).fill(1)
  await channel.send(count(0))
  await new Promise((resolve) => setTimeout(resolve, 20))
  let left = messages
  const begin = process.hrtime.bigint()
  await new Promise((resolve) => {
    channel.on('message', () => {
      if (--left === 0) resolve()
      else channel.trySend(bytes)
    })
    channel.trySend(bytes)
  })
  const seconds = Number(process.hrtime.bigint() - begin) / 1e9
  await leave(peer, stream)
  return messages / seconds
}

/** Clock ticks that a process has used (proc(5): utime and stime). */
function ticks(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ')
  return Number(fields[11]) + Number(fields[12])
}

async function measure() {
  const quick = process.argv.includes('--quick')
  const rounds = quick ? 3 : 7
  const scale = quick ? 0.2 : 1
  const other = fork(import.meta.filename, ['child', directory])
  await new Promise((resolve) => other.once('message', resolve))
  const cases = [
    ['round trip, 64 B', () => netRoundTrips(4000 * scale), () => pathRoundTrips(4000 * scale)],
    ...[
      [64, 200_000],
      [1024, 100_000],
      [65_536, 8000],
      [1 << 20, 500],
    ].map(([size, n]) => [
      `one way, ${size} B`,
      () => netOneWay(size, n * scale),
      () => pathOneWay(size, n * scale),
    ]),
  ]
  const results = []
  for (const [name, byNet, byPath] of cases) {
    const figures = { net: [], path: [] }
    const used = { net: 0, path: 0 }
    for (let round = 0; round < rounds; round++) {
      // the order changes, so that a drift of the machine meets both
      for (const which of round % 2 === 0 ? ['net', 'path'] : ['path', 'net']) {
        const before = ticks(process.pid) + ticks(other.pid)
        figures[which].push(await (which === 'net' ? byNet() : byPath()))
        used[which] += ticks(process.pid) + ticks(other.pid) - before
      }
    }
    const [perSecondNet, perSecondPath] = [median(figures.net), median(figures.path)]
    const processorRatio = used.path / used.net
    results.push({ name, perSecondNet, perSecondPath, ratio: perSecondPath / perSecondNet, processorRatio })
  }
  other.disconnect()
  rmSync(directory, { recursive: true, force: true })
  if (process.argv.includes('--json')) {
    console.log(JSON.stringify({ node: process.versions.node, arch: process.arch, rounds, results }, null, 2))
  } else {
    for (const { name, perSecondNet, perSecondPath, ratio, processorRatio } of results) {
      const figure = (value) => Math.round(value).toLocaleString('en').padStart(10)
      console.log(
        `${name.padEnd(22)} node:net ${figure(perSecondNet)}/s   stream path ${figure(perSecondPath)}/s   ×${ratio.toFixed(2)}   processor time ×${processorRatio.toFixed(2)}`,
      )
    }
  }
  process.exit(0)
}

await (child ? serve() : measure())
