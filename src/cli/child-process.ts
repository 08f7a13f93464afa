/** Child processes of a command: a daemon that does not outlive it, and an end that always comes. */
import type { ChildProcess } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { hostStatus } from '../host/admin-client.js'

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url))
/** a daemon whose starter has died ends as well */
const LEASH = `data:text/javascript,${encodeURIComponent(
  "process.once('disconnect', () => process.kill(process.pid, 'SIGTERM')); process.channel?.unref()",
)}`

/** What Node is to be started with, and an IPC channel, for a `vmring host` that ends when this process does. */
export function daemonArguments(socket: string, ...options: string[]): string[] {
  return ['--import', LEASH, MAIN, 'host', '--socket', socket, ...options]
}

/** Resolves when the daemon answers. Rejects after `limit` ms with why it does not, and with what `check` throws in between. */
export async function answering(socket: string, limit: number, check?: () => unknown): Promise<void> {
  const giveUp = Date.now() + limit
  for (;;) {
    try {
      await hostStatus(socket)
      return
    } catch (error) {
      if (Date.now() > giveUp) throw error
      await check?.()
      await sleep(20)
    }
  }
}

/** SIGTERM, and SIGKILL `grace` ms later; `ended` resolves when the process has. */
export async function endProcess(child: ChildProcess, ended: Promise<void>, grace: number): Promise<void> {
  if (child.exitCode === null && child.signalCode === null && child.pid !== undefined) {
    child.kill('SIGTERM')
    const patience = setTimeout(() => child.kill('SIGKILL'), grace)
    await ended
    clearTimeout(patience)
  }
  if (child.connected) child.disconnect()
}
