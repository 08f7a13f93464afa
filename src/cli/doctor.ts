/** `vmring doctor`: what is there, what is missing, the command that mends it. Joins nothing. */
import { accessSync, constants, lstatSync, readFileSync, statfsSync } from 'node:fs'
import { connect } from 'node:net'
import { Command } from 'commander'
import { defaultSocket } from '../default-socket.js'
import { type HostStatus, hostStatus } from '../host/admin-client.js'
import type { NativeBinding } from '../native/types.js'
import { examineGuest } from './doctor-guest.js'
import type { Finding } from './finding.js'
import { bytes, printJson } from './output.js'
import { explainSocket } from './sockets.js'
import { SYSTEM } from './sysfs.js'

const LEAST_SHM = 64 * 2 ** 20
const LEAST_FILES = 1024
const LEAST_NODE = [20, 19]

export function doctorCommand(): Command {
  return new Command('doctor')
    .summary('look for what is missing, and say what mends it')
    .description(
      'Looks at this machine and says what is there, what is missing, and the command that mends it.',
    )
    .option('--open', "open a guest's devices that nobody uses for a moment: their sections and their speed")
    .option('--json', 'print the findings as JSON')
    .addHelpText(
      'after',
      `
Devices are left alone unless --open is given: a program that attaches while one is open finds it in use.

Exit code: 0 when nothing is wrong, else 1.

Examples:
  $ vmring doctor
  $ vmring doctor --open
  $ VMRING_SOCKET=/tmp/a.sock vmring doctor --json`,
    )
    .action(async (options: { json?: boolean; open?: boolean }) => {
      const findings = await examine(options.open === true)
      if (options.json) printJson(findings)
      else process.stdout.write(findings.map(line).join(''))
      if (findings.some(({ status }) => status === 'wrong')) process.exitCode = 1
    })
}

function line({ check, status, message, fix, code }: Finding): string {
  const sign = { ok: 'ok   ', note: 'note ', wrong: 'WRONG' }[status]
  const named = code === undefined ? '' : ` (${code})`
  return `${sign}  ${check.padEnd(11)}  ${message}${named}\n${fix === undefined ? '' : `${' '.repeat(20)}→ ${fix}\n`}`
}

async function examine(open: boolean): Promise<Finding[]> {
  const findings = [node()]
  const { finding, native } = await addon()
  findings.push(finding, sharedMemory(), ...limits())
  const region = process.env.VMRING_REGION
  const guest = examineGuest(SYSTEM, { region, native: open ? native : null })
  findings.push(...guest.findings)
  const socket = defaultSocket()
  const status = await hostStatus(socket, 2000).catch((error: NodeJS.ErrnoException) => error)
  if (status instanceof Error) {
    const stale = status.code === 'ENOENT' ? await staleSocket(socket) : null
    if (guest.devices > 0 && stale === null && status.code === 'ENOENT') {
      const message = 'none here, and a guest needs none: it runs on the host'
      findings.push({ check: 'daemon', status: 'ok', message })
    } else findings.push(stale ?? { check: 'daemon', status: 'wrong', ...explainSocket(socket, status) })
  } else {
    findings.push(...daemon(socket, status))
  }
  if (native !== null) findings.push(...namedRegion(native))
  return findings
}

function node(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  const good = major > LEAST_NODE[0]! || (major === LEAST_NODE[0] && minor >= LEAST_NODE[1]!)
  const message = `Node ${process.versions.node} on ${process.platform} ${process.arch}`
  if (good && process.platform === 'linux') return { check: 'node', status: 'ok', message }
  if (good) return { check: 'node', status: 'wrong', message: `${message}: vmring runs on Linux only` }
  const least = LEAST_NODE.join('.')
  return {
    check: 'node',
    status: 'wrong',
    message: `${message} is older than ${least}`,
    fix: 'npm install --global n && n lts',
  }
}

async function addon(): Promise<{ finding: Finding; native: NativeBinding | null }> {
  const check = 'addon'
  try {
    const { native } = await import('../native/binding.js')
    const { version, arch, sanitizer } = native.buildInfo
    const extra = sanitizer === '' || sanitizer === 'none' ? '' : `, built with the ${sanitizer} sanitizer`
    return {
      finding: { check, status: 'ok', message: `version ${version} for ${arch} loads${extra}` },
      native,
    }
  } catch (error) {
    const finding = {
      check,
      status: 'wrong' as const,
      message: (error as Error).message,
      fix: 'npm ci && npm run build',
    }
    return { finding, native: null }
  }
}

function sharedMemory(): Finding {
  const check = '/dev/shm'
  try {
    const { type, bsize, blocks, bavail } = statfsSync('/dev/shm')
    const message = `${bytes(blocks * bsize)}, ${bytes(bavail * bsize)} free`
    const TMPFS = 0x01021994
    if (type !== TMPFS) {
      return {
        check,
        status: 'note',
        message: `${message}; it is no tmpfs: plain region files there touch a disk`,
      }
    }
    if (bavail * bsize >= LEAST_SHM) return { check, status: 'ok', message }
    const fix = 'mount -o remount,size=1G /dev/shm'
    return {
      check,
      status: 'wrong',
      message: `${message}: too little for a plain region of ${bytes(LEAST_SHM)}`,
      fix,
    }
  } catch (error) {
    const fix = 'mkdir -p /dev/shm && mount -t tmpfs -o mode=1777 shm /dev/shm'
    return { check, status: 'wrong', message: (error as Error).message, fix }
  }
}

/** The soft limits of this process, which those that it starts inherit. */
function limits(): Finding[] {
  const text = readFileSync('/proc/self/limits', 'utf8')
  const soft = (name: string) => {
    const value = new RegExp(`^${name}\\s+(\\S+)`, 'm').exec(text)?.[1]
    return value === 'unlimited' ? Number.POSITIVE_INFINITY : Number(value)
  }
  const files = soft('Max open files')
  const locked = soft('Max locked memory')
  return [
    files >= LEAST_FILES
      ? { check: 'open files', status: 'ok', message: `limit ${files}` }
      : {
          check: 'open files',
          status: 'wrong',
          message: `limit ${files}: a daemon needs some ${LEAST_FILES} for many peers`,
          fix: `ulimit -n ${LEAST_FILES}`,
        },
    {
      check: 'memlock',
      status: 'ok',
      message: `limit ${Number.isFinite(locked) ? bytes(locked) : 'none'}; nothing on this side locks memory`,
    },
  ]
}

/** The administration socket is missing. A plain socket file may still be there, with or without somebody behind it. */
async function staleSocket(socket: string): Promise<Finding | null> {
  const check = 'daemon'
  const stat = lstatSync(socket, { throwIfNoEntry: false })
  if (stat === undefined) return null
  if (!stat.isSocket()) {
    return {
      check,
      status: 'wrong',
      message: `${socket} is in the way: it is no socket`,
      fix: `rm ${socket}`,
    }
  }
  // an ivshmem server gives an id to whoever connects; a stale one refuses
  const error = await new Promise<NodeJS.ErrnoException | null>((resolve) => {
    const probe = connect(socket)
    probe.on('error', resolve)
    probe.on('connect', () => {
      probe.destroy()
      resolve(null)
    })
  })
  if (error !== null) return { check, status: 'wrong', ...explainSocket(socket, error) }
  const fix = 'start `vmring host` with another --socket'
  return { check, status: 'wrong', message: `${socket} belongs to another ivshmem server`, fix }
}

function daemon(socket: string, status: HostStatus): Finding[] {
  const { region, peers, ids, vectors } = status
  const findings: Finding[] = [
    {
      check: 'daemon',
      status: 'ok',
      message: `process ${status.pid} answers at ${socket}, version ${status.version}; ${peers.length} peers, ${vectors} vectors each`,
    },
  ]
  const sane =
    region.size >= 2 ** 20 &&
    Number.isInteger(Math.log2(region.size)) &&
    region.sections > 0 &&
    region.sections * region.sectionSize < region.size
  const shape = `${bytes(region.size)}, ${region.sections} sections of ${bytes(region.sectionSize)}, ${region.freeSections} free`
  const restart = `kill ${status.pid}; vmring host --socket ${socket}`
  findings.push(
    sane
      ? { check: 'region', status: 'ok', message: shape }
      : { check: 'region', status: 'wrong', message: `${shape}: that does not add up`, fix: restart },
  )
  if (region.freeSections === 0) {
    const fix = `${restart} --sections ${Math.min(256, region.sections * 2)}`
    findings.push({ check: 'sections', status: 'wrong', message: 'all are taken: nobody else can join', fix })
  }
  if (ids.available === 0) {
    findings.push({
      check: 'peer ids',
      status: 'wrong',
      message: 'used up until the oldest peers leave',
      fix: restart,
    })
  }
  try {
    accessSync(socket, constants.R_OK | constants.W_OK)
  } catch (error) {
    const { message, fix } = explainSocket(socket, error as NodeJS.ErrnoException)
    findings.push({ check: 'permission', status: 'wrong', message, fix })
  }
  for (const peer of peers.filter(({ queued }) => queued > 1000)) {
    const message = `peer ${peer.id} (process ${peer.pid}) does not read: ${peer.queued} messages wait for it`
    findings.push({ check: 'slow peer', status: 'note', message, fix: `kill -CONT ${peer.pid}` })
  }
  return findings
}

/** VMRING_REGION, when it names a plain file. */
function namedRegion(native: NativeBinding): Finding[] {
  const name = process.env.VMRING_REGION
  if (!name?.startsWith('file:')) return []
  const file = name.slice('file:'.length)
  try {
    accessSync(file, constants.R_OK | constants.W_OK)
    const region = native.Region.open(file)
    try {
      const { size, sections } = region.geometry()
      return [
        {
          check: 'region',
          status: 'ok',
          message: `${file} (VMRING_REGION): ${bytes(size)}, ${sections} sections`,
        },
      ]
    } finally {
      region.close()
    }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const fix =
      code === 'EACCES' ? `chmod g+rw ${file}` : `vmring format ${file}${code === 'ENOENT' ? '' : ' --force'}`
    return [{ check: 'region', status: 'wrong', message: `VMRING_REGION: ${message}`, fix }]
  }
}
