/** Ctrl-C of a long run: it ends soon, says how to go on, and leaves nothing behind. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { environment, root, scratch, sleep } from '../support/processes.js'

/** Processes that were started with this in their environment, whoever their parent is by now. */
function processesWith(text: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        return readFileSync(`/proc/${pid}/environ`, 'latin1').includes(text)
      } catch {
        return false // it has just ended
      }
    })
    .map(Number)
}

test('Ctrl-C of a long run leaves no process and no file', async () => {
  const folder = scratch()
  const run = spawn(process.execPath, [join(root, 'scripts/long.mjs'), 'storm'], {
    env: environment({ TMPDIR: folder }),
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
  })
  try {
    let said = ''
    run.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text
    })
    // itself, the unit, the daemon and three processes in the region
    while (processesWith(folder).length < 6) {
      expect(run.exitCode, said).toBe(null)
      await sleep(100)
    }
    const ended = once(run, 'close')
    process.kill(-run.pid!, 'SIGINT') // as a terminal does
    expect(await ended, said).toEqual([130, null])
    expect(said).toContain('the same command goes on')
    while (processesWith(folder).length > 0) await sleep(50)
    expect(readdirSync(folder)).toEqual([])
  } finally {
    for (const pid of processesWith(folder)) process.kill(pid, 'SIGKILL')
  }
}, 120_000)
