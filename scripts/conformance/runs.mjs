// Child processes of the conformance run: tests, each with a limit of time, and the daemons whose memory they use.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { root } from '../lib.mjs'

const KEPT = 64 * 1024

const running = new Set()
process.on('exit', () => {
  for (const child of running) end(child)
})
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1))

/** Kills a child that leads its own group, and what it has started. */
function end(child) {
  try {
    process.kill(-child.pid, 'SIGKILL')
  } catch {}
}

/** Runs it to its end: { status: 'pass' | 'fail' | 'timeout', output, ms }. */
export function testRun({ command, args, cwd, env, limit }) {
  return new Promise((resolve) => {
    const started = Date.now()
    const child = spawn(command, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'], detached: true })
    running.add(child)
    let output = ''
    const keep = (chunk) => {
      output = (output + chunk).slice(-KEPT)
    }
    child.stdout.on('data', keep)
    child.stderr.on('data', keep)
    let late = false
    const timer = setTimeout(() => {
      late = true
      end(child)
    }, limit)
    let exit = null
    const finish = () => {
      clearTimeout(timer)
      running.delete(child)
      end(child)
      const [code, signal] = exit
      const status = late ? 'timeout' : code === 0 ? 'pass' : 'fail'
      if (status === 'fail') output += `\nexit code ${code}, signal ${signal}`
      resolve({ status, output, ms: Date.now() - started })
    }
    child.on('error', (error) => {
      output += error.message
      exit = [1, null]
      finish()
    })
    child.on('exit', (code, signal) => {
      exit = [code, signal]
      // what it has left behind may hold the pipes
      setTimeout(() => end(child), 1000).unref()
    })
    child.on('close', finish)
  })
}

/** `vmring host` for one worker: tests of one worker follow each other, so their names do not meet. */
export async function startHost(socket) {
  const main = join(root, 'dist/cli/main.js')
  const args = [main, 'host', '--socket', socket, '--size', '256M', '--sections', '16', '--no-relay']
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'], detached: true })
  running.add(child)
  let alive = true
  child.once('exit', () => {
    alive = false
    running.delete(child)
  })
  await new Promise((resolve, reject) => {
    child.stdout.once('data', resolve)
    child.once('exit', () => reject(new Error('vmring host ended')))
  })
  return {
    socket,
    alive: () => alive,
    close: () =>
      new Promise((resolve) => {
        if (!alive) return resolve()
        child.once('exit', resolve)
        process.kill(child.pid, 'SIGTERM')
      }),
  }
}
