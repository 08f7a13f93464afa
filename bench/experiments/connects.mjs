// What opening a channel to another process costs beside connecting a Unix socket, as `vmring bench scale` opens them: fresh
// processes on processors 0 and 1, a thousand one after the other. Builds and transports take turns.
//   node bench/experiments/connects.mjs [ROUNDS] [ROOT OF A BUILD] …
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'

const COUNT = 1000
const at = (times, share) => [...times].sort((a, b) => a - b)[Math.floor(times.length * share)]

async function side(role, transport, root, socket) {
  const { native } = await import(join(root, 'dist/native/binding.js'))
  const { attach } = await import(join(root, 'dist/index.js'))
  native.benchPin(role === 'client' ? 0 : 1)
  const kept = []
  const shm = transport === 'shm'
  const peer = shm ? await attach({ region: `unix:${socket}`, mode: process.env.MODE ?? 'adaptive' }) : null
  if (role === 'server') {
    const take = (channel) => {
      kept.push(channel)
      if (kept.length === COUNT) process.send({ cpu: process.cpuUsage(before), ...peer?.counters() })
    }
    if (shm) (await peer.listen('connects', { backlog: 1024 })).on('channel', take)
    else await once(net.createServer(take).listen(`${socket}.data`), 'listening')
    let before = process.cpuUsage()
    process.on('message', () => {
      before = process.cpuUsage()
      process.send('begun')
    })
    process.send('up')
    return
  }
  const times = []
  process.send('up')
  await once(process, 'message')
  const before = process.cpuUsage()
  const sleeps = peer?.counters().sleeps
  for (let i = 0; i < COUNT; i++) {
    const begin = performance.now()
    if (shm) kept.push(await peer.connect('connects', { wait: 30_000, ringSize: 16384, paths: ['shm'] }))
    else
      kept.push(
        await new Promise((done, fail) => {
          const stream = net.connect(`${socket}.data`)
          stream.once('connect', () => done(stream)).once('error', fail)
        }),
      )
    times.push((performance.now() - begin) * 1000)
  }
  const after = peer?.counters()
  process.send({
    times,
    cpu: process.cpuUsage(before),
    doorbells: after?.doorbells,
    sleeps: after?.sleeps - sleeps,
  })
}

async function round(transport, root) {
  const directory = mkdtempSync(join(tmpdir(), 'vmring-connects-'))
  const socket = join(directory, 'host')
  const host = fork(
    join(root, 'dist/cli/main.js'),
    ['host', '--socket', socket, '--size', '256M', '--sections', '4'],
    { silent: true },
  )
  await once(host.stdout, 'data')
  const sides = []
  for (const role of ['server', 'client']) {
    sides.push(fork(import.meta.filename, ['side', role, transport, root, socket]))
    await once(sides.at(-1), 'message')
  }
  const [server, client] = sides
  server.send('begin')
  await once(server, 'message')
  const far = once(server, 'message')
  client.send('begin')
  const [[mine], [theirs]] = await Promise.all([once(client, 'message'), far])
  for (const child of [client, server]) child.kill('SIGKILL')
  host.kill('SIGTERM')
  await once(host, 'close')
  rmSync(directory, { recursive: true, force: true })
  const cpu = ({ cpu: { user, system } }) => (user + system) / COUNT
  return {
    half: at(mine.times, 0.5),
    tenth: at(mine.times, 0.1),
    late: at(mine.times.slice(COUNT / 2), 0.5),
    client: cpu(mine),
    server: cpu(theirs),
    sleeps: mine.sleeps,
    farSleeps: theirs.sleeps,
    doorbells: mine.doorbells,
  }
}

if (process.argv[2] === 'side') {
  await side(...process.argv.slice(3))
} else {
  const [rounds = '3', ...given] = process.argv.slice(2)
  const roots = given.length > 0 ? given : [resolve(import.meta.dirname, '../..')]
  const kinds = [...roots.map((root) => ['shm', root]), ['unix', roots[0]]]
  const found = kinds.map(() => [])
  for (let i = 0; i < Number(rounds); i++) {
    const order = kinds.map((_, index) => index)
    for (const index of i % 2 === 0 ? order : order.reverse()) found[index].push(await round(...kinds[index]))
  }
  const unix = found.at(-1)
  for (const [index, [transport, root]] of kinds.entries()) {
    const all = found[index]
    const mid = (name) =>
      at(
        all.map((one) => one[name]),
        0.5,
      ).toFixed(0)
    const ratio = at(
      all.map((one, i) => one.half / unix[i].half),
      0.5,
    ).toFixed(2)
    console.log(
      `${transport} ${root}: half ${mid('half')} µs (${ratio} of unix), tenth ${mid('tenth')}, of the later 500 ${mid('late')}; ` +
        `processor ${mid('client')} + ${mid('server')} µs` +
        (transport === 'shm'
          ? `; sleeps ${mid('sleeps')}, ${mid('farSleeps')}; doorbells ${mid('doorbells')}`
          : ''),
    )
  }
  process.exit(0)
}
