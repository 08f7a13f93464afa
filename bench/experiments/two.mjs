// A daemon, and the experiment's own program once more as the other side, on processor 1; this one stays on processor 0.
import { fork } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const REGION = 'VMRING_EXPERIMENT_REGION'
const first = (emitter, name) => new Promise((done) => emitter.once(name, (...all) => done(all)))

/** True in the other side. */
export const other = process.env[REGION] !== undefined

/** In the other side: the channel that the first one opens. `root`: of the build that is looked at. */
export async function accept(root, mode) {
  const { attach, native } = await parts(root)
  native.benchPin(1)
  const server = await (await attach({ region: process.env[REGION], mode })).listen('experiment')
  process.send('up')
  return (await first(server, 'channel'))[0]
}

/** In the first side: starts the rest and opens a channel to `file`, which is this program. `end()` when all is over. */
export async function open(file, args, root, mode) {
  const directory = mkdtempSync(join(tmpdir(), 'vmring-experiment-'))
  const socket = join(directory, 'host')
  const command = ['host', '--socket', socket, '--size', '64M']
  const host = fork(join(root, 'dist/cli/main.js'), command, { silent: true })
  await first(host.stdout, 'data')
  const region = `unix:${socket}`
  const child = fork(file, args, { env: { ...process.env, [REGION]: region } })
  await first(child, 'message')
  const { attach, native } = await parts(root)
  native.benchPin(0)
  const peer = await attach({ region, mode })
  const channel = await peer.connect('experiment', { wait: 10_000, ringSize: 65536 })
  const end = async () => {
    child.kill('SIGKILL')
    host.kill('SIGTERM')
    await first(host, 'close')
    rmSync(directory, { recursive: true, force: true })
    process.exit(0)
  }
  return { channel, child, end }
}

async function parts(root) {
  const { attach } = await import(join(root, 'dist/index.js'))
  const { native } = await import(join(root, 'dist/native/binding.js'))
  return { attach, native }
}
