/** Opening a channel to one process: the paths in their order, each with its own time limit. */
import { VmringError } from '../errors.js'
import { encodeFrame, FrameType, Reason } from '../path/frames.js'
import type { Path, PathEnd } from '../path/path.js'
import { abortable } from './dialer.js'
import {
  type ConnectOptions,
  channelKey,
  DEFAULT_MAX_MESSAGE,
  type SessionHub,
  validCapacity,
} from './hub.js'
import type { Remote } from './remote.js'
import { Session } from './session.js'

export interface Outcome {
  session: Session | null
  /** what each path met, in words */
  attempts: string[]
  error: Error | null
}

export async function openSession(
  hub: SessionHub,
  remote: Remote,
  service: string,
  options: ConnectOptions,
): Promise<Outcome> {
  const attempts: string[] = []
  let error: Error | null = null
  let met = false
  let unreachable: string | null = null
  const dialable = hub.dialer?.names ?? []
  for (const name of options.paths ?? new Set([...remote.pathNames(), ...dialable])) {
    if (hub.steward.avoids(name)) {
      attempts.push(`${name}: this process has been moved off it`)
      continue
    }
    if (remote.pathNamed(name) === null && unreachable === null && dialable.includes(name)) {
      // a relayed path has one name of two, whichever of them was asked for
      if (options.paths === undefined && remote.paths.some((p) => dialable.includes(p.name))) continue
      unreachable = await abortable(hub.reach(remote), options.signal).then(
        () => null,
        (thrown: Error) => thrown.message,
      )
      options.signal?.throwIfAborted()
    }
    const path = remote.pathNamed(name)
    if (path === null) {
      attempts.push(`${name}: ${unreachable ?? 'not available to this peer'}`)
      continue
    }
    met = true
    let capacity = options.ringSize ?? path.defaultCapacity(options.many)
    for (;;) {
      const result = await attempt(hub, remote, path, service, capacity, options)
      if (result instanceof Session) return { session: result, attempts, error: null }
      attempts.push(`${name}: ${result.error.message}`)
      error = result.error
      if (result.reason === Reason.NO_SERVICE) {
        remote.services.delete(service)
        return { session: null, attempts, error: null }
      }
      // The other section has less room than this one: its owner says how much.
      if (!validCapacity(result.capacity) || result.capacity >= capacity) break
      capacity = result.capacity
    }
  }
  if (!met) {
    error = new VmringError(
      'ERR_VMRING_NO_PATH',
      `none of the paths asked for leads to '${service}': ${attempts.join('; ')}`,
      { attempts },
    )
  }
  return { session: null, attempts, error }
}

interface Failure {
  error: Error
  reason: number
  capacity?: number | undefined
}

async function attempt(
  hub: SessionHub,
  remote: Remote,
  path: Path,
  service: string,
  capacity: number,
  options: ConnectOptions,
): Promise<Session | Failure> {
  const { signal, maxMessageSize = DEFAULT_MAX_MESSAGE } = options
  const id = hub.nextChannelId()
  let end: PathEnd
  try {
    end = path.createEnd({ channel: id, epoch: 0, capacity })
    // @step open: end made
  } catch (error) {
    return { error: error as Error, reason: 0 }
  }
  const frame = encodeFrame({
    type: FrameType.OPEN,
    channel: id,
    service,
    offer: end.offer,
    capacity,
    maxMessage: maxMessageSize,
  })
  // Said at once: all that is still to be done here is done while the other side is at it.
  path.send(frame)
  // @step open: OPEN said
  const session = new Session(
    {
      hub,
      remote,
      id,
      key: channelKey(id),
      service,
      initiator: true,
      capacity,
      maxMessage: maxMessageSize,
    },
    end,
  )
  hub.addSession(session)
  let timer: NodeJS.Timeout | undefined
  const onAbort = (): void =>
    session.destroy(new VmringError('ERR_VMRING_CLOSED', 'the connection attempt was aborted'))
  try {
    const failure = await new Promise<Failure | null>((resolve) => {
      session.onOpened = (error, reason) => {
        const details = error as (VmringError & { capacity?: number }) | null
        resolve(error === null ? null : { error, reason, capacity: details?.capacity })
      }
      const started = performance.now()
      // Where others are answered this one is in a queue, behind a slow listener.
      const look = (): void => {
        const now = performance.now()
        const { openLimit, openMax } = hub.timing
        const until = Math.min(Math.max(started, remote.answeredAt) + openLimit, started + openMax)
        if (now < until) {
          timer = setTimeout(look, until - now)
          return
        }
        const waited = Math.round(now - started)
        session.destroy(
          new VmringError('ERR_VMRING_TIMEOUT', `no answer on path ${path.name} within ${waited} ms`),
        )
      }
      session.opening.again(() => path.send(frame))
      signal?.addEventListener('abort', onAbort)
      look()
      path.prepare?.(capacity)
    })
    if (failure === null || failure.reason !== 0) remote.answeredAt = performance.now()
    if (failure === null) return session
    signal?.throwIfAborted()
    return failure
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', onAbort)
    session.onOpened = null
  }
}
