// Round trips of 64 bytes, as in trips.mjs, beside idle channels and further peers of the region, which sit in a process of their own.
//   node bench/experiments/beside.mjs [sync | event | iterate] [busy | adaptive] [ROOT OF ANOTHER BUILD] [IDLE CHANNELS] [FURTHER PEERS]
import { fork } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { FloorKind } from '../../dist/native/bench-types.js'
import { summary } from './rounds.mjs'
import { answer, measure } from './trip.mjs'

const [api = 'sync', mode = 'busy', root = resolve(import.meta.dirname, '../..'), idle = '0', others = '0'] =
  process.argv.slice(2)
const { attach } = await import(join(root, 'dist/index.js'))
const { native } = await import(join(root, 'dist/native/binding.js'))
const SECONDS = idle === '0' && others === '0' ? 4 : 2

if (process.env.CROWD !== undefined) {
  const region = `unix:${process.env.HOST}`
  const peers = []
  while (peers.length < Number(others)) peers.push(await attach({ region, mode: 'event' }))
  process.send('up')
} else if (process.send !== undefined) {
  native.benchPin(1)
  const region = `unix:${process.env.HOST}`
  const server = await (await attach({ region, mode })).listen('trips', { backlog: 4096 })
  const channels = []
  const all = new Promise((done) => {
    server.on('channel', (channel) => {
      if (channels.push(channel) > Number(idle)) done()
      else channel.on('message', () => {})
    })
  })
  process.send('up')
  await all
  answer(channels.pop(), api)
} else {
  const directory = mkdtempSync(join(tmpdir(), 'vmring-trips-'))
  const socket = join(directory, 'host')
  const host = fork(
    join(root, 'dist/cli/main.js'),
    ['host', '--socket', socket, '--size', '1G', '--sections', '40'],
    {
      silent: true,
    },
  )
  await new Promise((done) => host.stdout.once('data', done))
  const other = fork(import.meta.filename, [api, mode, root, idle, others], {
    env: { ...process.env, HOST: socket },
  })
  await new Promise((done) => other.once('message', done))
  native.benchPin(0)
  const peer = await attach({ region: `unix:${socket}`, mode })
  const crowd = fork(import.meta.filename, [api, mode, root, idle, others], {
    env: { ...process.env, HOST: socket, CROWD: '1' },
  })
  await new Promise((done) => crowd.once('message', done))
  const opened = []
  for (let i = 0; i < Number(idle); i++) {
    opened.push(await peer.connect('trips', { wait: 10_000, ringSize: 16384 }))
    opened.at(-1).on('message', () => {})
  }
  const channel = await peer.connect('trips', { wait: 10_000, ringSize: 65536 })
  measure(channel, api, SECONDS, (times) => {
    const line = native.benchFloor(FloorKind.CACHE_LINE, 0, 1, 2e8, 0, 64, 65536)
    console.log(
      `${api}, ${mode}, ${idle} idle, ${others} more: ${summary(times)}; a cache line ${line.toFixed(0)} ns`,
    )
    other.kill('SIGKILL')
    crowd.kill('SIGKILL')
    host.kill('SIGTERM')
    host.once('close', () => {
      rmSync(directory, { recursive: true, force: true })
      process.exit(0)
    })
  })
}
