import { createConnection } from 'node:net'
import { VmringError } from '../errors.js'
import type { PeerReport } from '../session/report.js'
import type { RelayStatus } from './relay-status.js'

/** What the daemon says about itself: the answer to `{"op":"status"}`. */
export interface HostStatus {
  version: string
  pid: number
  socket: string
  /** milliseconds since it started */
  uptime: number
  region: {
    uuid: string
    /** bytes */
    size: number
    sections: number
    /** bytes */
    sectionSize: number
    freeSections: number
    daemonIncarnation: number
  }
  /** eventfds per peer */
  vectors: number
  peers: HostPeer[]
  ids: {
    /** how many more clients could join while those who are connected stay */
    available: number
  }
  counters: HostCounters
  /** null: the daemon runs without one */
  relay: RelayStatus | null
}

export interface HostPeer {
  id: number
  /** index in the peer table; null when no section was free */
  section: number | null
  generation: number | null
  /** credentials of the process that connected (of QEMU, for a guest) */
  pid: number
  uid: number
  /** milliseconds since it joined */
  connected: number
  /** messages that wait because it does not read */
  queued: number
  sent: number
  /** services and channels, in its own words; null when it has said nothing (guests do not) */
  report: PeerReport | null
}

export interface HostCounters {
  joins: number
  leaves: number
  /** clients turned away: no id, no descriptor */
  refused: number
  /** clients closed because they broke the protocol or did not read */
  dropped: number
  /** doorbells rung because membership changed */
  bells: number
}

/** Connects to a path and sends `line`; what it returns ends the connection, and nothing is called after it. */
export type Dial = (path: string, line: string, events: DialEvents) => () => void

export interface DialEvents {
  /** the bytes are its to keep */
  onData(bytes: Buffer): void
  /** `error`: the system's, or null when the other side just ended */
  onOver(error: Error | null): void
}

const overNet: Dial = (path, line, { onData, onOver }) => {
  const connection = createConnection(path)
  connection.on('error', onOver)
  connection.on('connect', () => connection.write(line))
  connection.on('end', () => onOver(null))
  connection.on('data', onData)
  return () => connection.destroy()
}

/**
 * One request to the administration socket of the daemon at `socket`.
 * Rejects with the system's error when no daemon is there, ERR_VMRING_TIMEOUT after `timeout` ms, and ERR_VMRING_PROTOCOL
 * when what answers is no vmring daemon.
 */
export function askHost(
  socket: string,
  request: { op: string; [key: string]: unknown },
  timeout = 5000,
  dial = overNet,
): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const path = `${socket}.admin`
    const parts: Buffer[] = []
    const settle = (finish: () => void) => {
      clearTimeout(timer)
      hangUp()
      finish()
    }
    const broken = (cause?: unknown) =>
      settle(() =>
        reject(
          new VmringError('ERR_VMRING_PROTOCOL', `${path} does not answer like a vmring daemon`, { cause }),
        ),
      )
    const hangUp = dial(path, `${JSON.stringify(request)}\n`, {
      onOver: (error) => (error === null ? broken() : settle(() => reject(error))),
      onData(chunk) {
        parts.push(chunk)
        if (!chunk.includes(10)) return
        const text = Buffer.concat(parts).toString('utf8')
        let answer: { ok?: boolean; result?: unknown; error?: { code: string; message: string } }
        try {
          answer = JSON.parse(text.slice(0, text.indexOf('\n')))
        } catch (error) {
          broken(error)
          return
        }
        settle(() => {
          if (answer.ok) resolve(answer.result)
          else
            reject(Object.assign(new Error(answer.error?.message ?? 'refused'), { code: answer.error?.code }))
        })
      },
    })
    const timer = setTimeout(
      () =>
        settle(() =>
          reject(
            new VmringError(
              'ERR_VMRING_TIMEOUT',
              `the daemon at ${path} did not answer within ${timeout} ms; see whether its process is stopped`,
            ),
          ),
        ),
      timeout,
    )
  })
}

/** The answer to `{"op":"revoke"}`. */
export interface RevokeAnswer {
  /** 32 hexadecimal digits */
  uuid: string
  /** control connections that were told */
  told: number
}

/** The status of the daemon at `socket`; errors as askHost. */
export async function hostStatus(socket: string, timeout?: number): Promise<HostStatus> {
  return (await askHost(socket, { op: 'status' }, timeout)) as HostStatus
}
