/** Finding somebody who listens under a name: among the processes that are known, then through the relay. */
import { connectionRefused, VmringError } from '../errors.js'
import { abortable } from './dialer.js'
import type { ConnectOptions, SessionHub } from './hub.js'
import { openSession } from './open.js'
import type { Remote } from './remote.js'
import type { Session } from './session.js'

/** ANNOUNCE may get lost, and the relay may know more by now: both are asked again after this time, ms. */
const ASK_AGAIN_MS = 250
const ATTEMPTS_TOLD = 8

/** Rejects with ECONNREFUSED, ERR_VMRING_NO_PATH, ERR_VMRING_POLICY, …, and what the attempts met. */
export async function connectService(
  hub: SessionHub,
  service: string,
  options: ConnectOptions,
): Promise<Session> {
  const { signal } = options
  const deadline = performance.now() + (options.wait ?? 0)
  const helloDeadline = performance.now() + hub.timing.helloLimit
  const attempts: string[] = []
  let lastError: Error | null = null
  let asked = false
  let dialled = false
  for (;;) {
    signal?.throwIfAborted()
    if (hub.closed) throw new VmringError('ERR_VMRING_CLOSED', 'this peer is closed; attach() a new one')
    for (const remote of [...hub.remotes.values()].filter((r) => r.services.has(service)).sort(stalledLast)) {
      const outcome = await openSession(hub, remote, service, options)
      if (outcome.session !== null) return outcome.session
      attempts.push(...outcome.attempts)
      lastError = outcome.error ?? lastError
    }
    const untold = helloDeadline - performance.now()
    if (untold > 0 && someUntold(hub)) {
      await hub.change(untold, signal)
      continue
    }
    // Who has just begun to listen has said so, but perhaps it has not come here yet: nobody is refused on old news.
    if (!asked) {
      asked = true
      for (const remote of hub.remotes.values()) remote.ask()
      continue
    }
    if (!dialled && mayDial(hub, options)) {
      try {
        await abortable(hub.dialer!.dialService(service), signal)
        dialled = true
        continue
      } catch (error) {
        signal?.throwIfAborted()
        attempts.push(`relay: ${(error as Error).message}`)
        if ((error as VmringError).code === 'ERR_VMRING_POLICY') lastError = error as Error
      }
    }
    const left = deadline - performance.now() // dialling took its time
    if (left <= 0) break
    await hub.change(Math.min(left, ASK_AGAIN_MS), signal)
    for (const remote of hub.remotes.values()) remote.greet()
  }
  if (lastError !== null && (lastError as VmringError).code !== 'ECONNREFUSED') throw lastError
  throw connectionRefused(service, [...new Set(attempts)].slice(-ATTEMPTS_TOLD))
}

/** Resolves once everybody who is there has told what he listens under; at the latest after the time that HELLO may take. */
export async function introductions(hub: SessionHub): Promise<void> {
  const deadline = performance.now() + hub.timing.helloLimit
  for (;;) {
    const left = deadline - performance.now()
    if (hub.closed || left <= 0 || !someUntold(hub)) return
    await hub.change(left)
  }
}

/** Is there somebody who has not told yet what he listens under, and may still do so? */
function someUntold({ remotes }: SessionHub): boolean {
  return [...remotes.values()].some((remote) => !remote.known && !remote.stalled)
}

function mayDial({ dialer }: SessionHub, { paths }: ConnectOptions): boolean {
  return dialer !== null && (paths === undefined || paths.some((name) => dialer.names.includes(name)))
}

function stalledLast(a: Remote, b: Remote): number {
  return Number(a.stalled) - Number(b.stalled)
}
