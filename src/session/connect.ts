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
  let asked = 0
  let askAgain = 0
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
    if (untold > 0 && untellers(hub, asked).length > 0) {
      await hub.change(untold, signal)
      continue
    }
    // Who has just begun to listen has said so, but perhaps it has not come here yet: nobody is refused on old news.
    if (asked === 0) {
      asked = performance.now()
      for (const remote of hub.remotes.values()) remote.greet()
      continue
    }
    // An answer wakes this too, as does all that anybody says: who asked at once again would never stop asking.
    const now = performance.now()
    const due = now >= askAgain
    if (due) {
      if (askAgain > 0) for (const remote of hub.remotes.values()) remote.remind()
      askAgain = now + ASK_AGAIN_MS
    }
    if (due && !dialled && mayDial(hub, options)) {
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
    await hub.change(Math.min(left, Math.max(1, askAgain - performance.now())), signal)
  }
  for (const { section } of untellers(hub, asked)) {
    const patience = hub.timing.helloLimit / 1000
    attempts.push(
      `the process in section ${section} lives, but has not said within ${patience} s what it listens under`,
    )
  }
  if (lastError !== null && (lastError as VmringError).code !== 'ECONNREFUSED') throw lastError
  throw connectionRefused(service, [...new Set(attempts)].slice(-ATTEMPTS_TOLD))
}

/** Resolves once everybody who is there has told what he listens under; at the latest after the time that HELLO may take. */
export async function introductions(hub: SessionHub): Promise<void> {
  await answers(hub, 0)
}

async function answers(hub: SessionHub, since: number): Promise<void> {
  const deadline = performance.now() + hub.timing.introductionLimit
  for (;;) {
    const left = deadline - performance.now()
    if (hub.closed || left <= 0 || untellers(hub, since).length === 0) return
    await hub.change(left)
  }
}

/** Asks everybody anew what he listens under; resolves as introductions() does. */
export async function whatAllListenTo(hub: SessionHub): Promise<void> {
  const asked = performance.now()
  for (const remote of hub.remotes.values()) remote.greet()
  await answers(hub, asked)
}

/** Those who have not told since then what they listen under (0: at all), and may still do so. */
function untellers({ remotes }: SessionHub, since: number): Remote[] {
  return [...remotes.values()].filter(({ toldAt, stalled }) => !stalled && toldAt <= since)
}

function mayDial({ dialer }: SessionHub, { paths }: ConnectOptions): boolean {
  return dialer !== null && (paths === undefined || paths.some((name) => dialer.names.includes(name)))
}

function stalledLast(a: Remote, b: Remote): number {
  return Number(a.stalled) - Number(b.stalled)
}
