/** `vmring ls`: who is in which region. Asks the daemons; joins nothing and opens no device. */
import { Command } from 'commander'
import { defaultSocket } from '../default-socket.js'
import { VmringError } from '../errors.js'
import { type HostPeer, type HostStatus, hostStatus } from '../host/admin-client.js'
import type { RelayStatus } from '../host/relay-status.js'
import { describeFailure } from './failure.js'
import { bytes, printJson, table } from './output.js'
import { explainSocket } from './sockets.js'

interface LsOptions {
  socket?: string[]
  file?: string[]
  json?: boolean
}

interface FileSection {
  section: number
  pid: number
  incarnation: number
  alive: boolean
}

interface FileStatus {
  file: string
  uuid: string
  size: number
  sections: number
  peers: FileSection[]
}

/** longer than the 250 ms between two heartbeats */
const WATCH_MS = 600

export function lsCommand(): Command {
  const more = (value: string, before: string[] = []) => [...before, value]
  return new Command('ls')
    .summary('list regions, peers, services and channels')
    .description(
      'Lists the regions of daemons on this host, the processes in them, their services and channels.',
    )
    .option(
      '-s, --socket <socket>',
      'socket of a daemon; may be repeated (default: VMRING_SOCKET, else the usual one)',
      more,
    )
    .option('-f, --file <file>', 'plain region file; may be repeated', more)
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Examples:
  $ vmring ls
  $ vmring ls --socket /run/vmring/a.sock --socket /run/vmring/b.sock --json
  $ vmring ls --file /dev/shm/ring`,
    )
    .action(run)
}

async function run(options: LsOptions): Promise<void> {
  const files = options.file ?? []
  const sockets = options.socket ?? (files.length > 0 ? [] : [defaultSocket()])
  const failures: Error[] = []
  const regions: (HostStatus | FileStatus)[] = []
  const answers = await Promise.allSettled([...sockets.map(askSocket), ...files.map(readFile)])
  for (const answer of answers) {
    if (answer.status === 'fulfilled') regions.push(answer.value)
    else failures.push(answer.reason as Error)
  }
  if (options.json) printJson(regions)
  else
    for (const region of regions) process.stdout.write('file' in region ? fileText(region) : hostText(region))
  // those that answer are shown even when others do not
  for (const failure of failures.slice(0, -1)) process.stderr.write(describeFailure(failure))
  const last = failures.at(-1)
  if (last !== undefined) throw last
}

async function askSocket(socket: string): Promise<HostStatus> {
  try {
    return await hostStatus(socket)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === undefined || code.startsWith('ERR_')) throw error
    const { message, fix } = explainSocket(socket, error as NodeJS.ErrnoException)
    throw Object.assign(new Error(`${message}; try: ${fix}`, { cause: error }), { code })
  }
}

async function readFile(file: string): Promise<FileStatus> {
  const { native } = await import('../native/binding.js')
  const region = native.Region.open(file)
  try {
    const { uuid, plain, size, sections } = region.geometry()
    if (!plain) {
      throw new VmringError(
        'ERR_VMRING_NOT_SUPPORTED',
        `${file} belongs to a daemon; ask that one with --socket`,
      )
    }
    const taken = Array.from({ length: sections }, (_, section) => section).filter(
      (section) => (region.readEntry(section)?.state ?? 0) !== 0,
    )
    const before = new Map(taken.map((section) => [section, region.readIdentity(section)?.heartbeat]))
    if (taken.length > 0) await new Promise((resolve) => setTimeout(resolve, WATCH_MS))
    const peers = taken.map((section) => {
      const identity = region.readIdentity(section)
      const alive = identity !== null && identity.heartbeat !== before.get(section)
      return { section, pid: identity?.pid ?? 0, incarnation: identity?.incarnation ?? 0, alive }
    })
    return { file, uuid: Buffer.from(uuid).toString('hex'), size, sections, peers }
  } finally {
    region.close()
  }
}

function hostText(status: HostStatus): string {
  const { region, peers } = status
  const head = `unix:${status.socket}  ${bytes(region.size)}, ${region.sections} sections (${region.freeSections} free), daemon ${status.pid} since ${duration(status.uptime)}\n`
  if (peers.length === 0) return `${head}  nobody has joined\n${relayText(status.relay)}`
  const rows = [['  peer', 'section', 'pid', 'uid', 'since', 'waiting']]
  for (const peer of peers) {
    rows.push([
      `  ${peer.id}`,
      peer.section === null ? 'none' : String(peer.section),
      String(peer.pid),
      String(peer.uid),
      duration(peer.connected),
      String(peer.queued),
    ])
  }
  return (
    head +
    table(rows, [0, 1, 2, 3, 4, 5]) +
    servicesText(peers) +
    channelsText(peers) +
    limitsText(peers) +
    relayText(status.relay)
  )
}

const who = (peer: HostPeer | undefined) => (peer === undefined ? 'somebody else' : `process ${peer.pid}`)

function servicesText(peers: HostPeer[]): string {
  const rows: string[][] = []
  for (const peer of peers) {
    for (const service of peer.report?.services ?? []) rows.push([`  service ${service}`, who(peer)])
    const more = (peer.report?.serviceCount ?? 0) - (peer.report?.services.length ?? 0)
    if (more > 0) rows.push([`  and ${more} services more`, who(peer)])
  }
  return table(rows)
}

/** Both ends tell of a channel; it is shown once, from the end that connected when that one is known. */
function channelsText(peers: HostPeer[]): string {
  const seen = new Map<string, { initiator: boolean; row: string[] }>()
  const rest: string[][] = []
  for (const peer of peers) {
    for (const { id, service, section, path, initiator } of peer.report?.channels ?? []) {
      if (seen.get(id)?.initiator === true) continue
      const other = who(peers.find((candidate) => candidate.section === section))
      const ends = initiator ? [who(peer), `→ ${other}`] : [other, `→ ${who(peer)}`]
      seen.set(id, { initiator, row: [`  channel to ${service}`, ...ends, path] })
    }
    const more = (peer.report?.channelCount ?? 0) - (peer.report?.channels.length ?? 0)
    if (more > 0) rest.push([`  and ${more} channels more`, who(peer)])
  }
  return table([...[...seen.values()].map(({ row }) => row), ...rest])
}

/** What processes have refused each other. */
function limitsText(peers: HostPeer[]): string {
  const rows: string[][] = []
  for (const peer of peers) {
    const { channels = 0, ringBytes = 0, waiting = 0, muted = 0 } = peer.report?.limits ?? {}
    const reached = Object.entries({
      'channels of one process': channels,
      'bytes of a ring': ringBytes,
      'channels that wait to be taken': waiting,
      'doorbells a second': muted,
    }).filter(([, count]) => count > 0)
    for (const [name, count] of reached) rows.push([`  limit reached: ${name}`, `${count} times`, who(peer)])
  }
  return table(rows)
}

/** Names from guests may hold anything; a terminal must not obey them. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the ones to be shown harmless
const plain = (name: string) => name.replace(/[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g, '?')

function relayText(relay: RelayStatus | null): string {
  if (relay === null) return ''
  const where = [relay.unix, relay.vsock === null ? null : `vsock port ${relay.vsock}`].filter(
    (a) => a !== null,
  )
  const policy = relay.policy === null ? 'no policy' : `policy ${relay.policy.file}`
  const head = `  relay ${where.join(', ')}  ${policy}, ${relay.splices} connections\n`
  const rows = relay.peers.map((peer) => {
    const more = peer.serviceCount - peer.services.length
    const services = peer.services.map(plain).join(' ') + (more > 0 ? ` and ${more} more` : '')
    const state = [peer.present ? '' : 'gone', peer.revoked ? 'revoked' : ''].join(' ').trim()
    return [
      `  ${peer.origin}`,
      peer.uuid,
      peer.pid === null ? '' : `process ${peer.pid}`,
      `${peer.connections} connections`,
      `${bytes(peer.sent)} sent`,
      `${bytes(peer.received)} received`,
      state,
      services,
    ]
  })
  const refused = Object.entries(relay.counters.refused).map(([reason, count]) => `${count} ${reason}`)
  return head + table(rows) + (refused.length === 0 ? '' : `  refused ${refused.join(', ')}\n`)
}

function fileText(status: FileStatus): string {
  const head = `file:${status.file}  ${bytes(status.size)}, ${status.sections} sections (${status.sections - status.peers.length} free)\n`
  if (status.peers.length === 0) return `${head}  nobody has joined\n`
  const rows = [['  section', 'pid', 'state']]
  for (const peer of status.peers) {
    const cure = `no sign of life; if it is gone for good: vmring format ${status.file} --release ${peer.section}`
    rows.push([`  ${peer.section}`, String(peer.pid), peer.alive ? 'alive' : cure])
  }
  return head + table(rows)
}

function duration(milliseconds: number): string {
  const seconds = Math.round(milliseconds / 1000)
  if (seconds < 120) return `${seconds} s`
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`
  return `${Math.round(seconds / 86_400)} d`
}
