/** `vmring proxy`: any program's socket as a service, and a service as a socket. */
import { Command, InvalidArgumentError, Option } from 'commander'
import { VmringError } from '../errors.js'
import { createLog, type Log } from '../host/log.js'
import { parseCount, parseMode, parseSeconds } from '../host/options.js'
import type { Peer } from '../index.js'
import type { Endpoint } from '../net/endpoint.js'
import type { ServiceProxy, SocketProxy } from '../net/proxy.js'
import { onInterrupt } from './interrupt.js'

interface ProxyFlags {
  listen?: string
  to?: string
  from?: string
  connect?: string
  region?: string
  path?: string
  /** both in milliseconds */
  wait: number
  timeout: number
  maxConnections: number
  mode: number
  json?: boolean
  verbose?: boolean
}

export function proxyCommand(): Command {
  return new Command('proxy')
    .summary('join a service and a TCP or Unix socket')
    .description(
      'Joins a service and an ordinary socket, in either direction, so that programs in any language and servers such as ' +
        'Redis or PostgreSQL can be reached through shared memory. Each connection is a channel; it ends, or half-closes, as ' +
        'its other side does.',
    )
    .option('-l, --listen <service>', 'offer this service; needs --to')
    .option('-t, --to <address>', 'the socket that each channel of the service is led to')
    .option('-f, --from <address>', 'listen on this socket; needs --connect')
    .option('-c, --connect <service>', 'the service that each connection is led to')
    .option('-r, --region <address>', 'region to join (default: VMRING_REGION, else what attach() finds)')
    .addOption(
      new Option('-p, --path <path>', 'with --connect: use this path only').choices(['shm', 'vsock', 'unix']),
    )
    .addOption(
      new Option(
        '-w, --wait <seconds>',
        'with --connect: how long a new connection waits for somebody to listen',
      )
        .argParser((text) => checked(() => parseSeconds(text, '--wait')))
        .default(0),
    )
    .addOption(
      new Option('--timeout <seconds>', 'with --to: how long to try to reach the socket')
        .argParser((text) => checked(() => parseSeconds(text, '--timeout')))
        .default(10_000, '10'),
    )
    .addOption(
      new Option('--max-connections <n>', 'turn away connections above this number')
        .argParser((text) => checked(() => parseCount(text, '--max-connections', 1, 65_536)))
        .default(1024),
    )
    .addOption(
      new Option('--mode <mode>', 'with --from unix: file mode of the socket')
        .argParser((text) => checked(() => parseMode(text)))
        .default(0o660, '0660'),
    )
    .option('--json', 'one JSON object per line, on standard output when listening and in the log')
    .option('--verbose', 'log every connection')
    .addHelpText(
      'after',
      `
Addresses: tcp:HOST:PORT, tcp:[::1]:PORT, unix:PATH. Port 0 in --from takes a free one; what was taken is printed.

Examples:
  $ vmring proxy --listen cache --to tcp:127.0.0.1:6379       beside the Redis server
  $ vmring proxy --from tcp:127.0.0.1:6379 --connect cache    where its clients are: another guest, say
  $ vmring proxy --from unix:/run/app.sock --connect orders --wait 5

When the socket cannot be reached the channel ends with ECONNRESET; when nobody listens to the service, a TCP connection is
reset and a Unix connection ends. Either way the log, on standard error, says why. When the daemon goes away, open connections
go on, new ones are turned away until it is there again. SIGTERM and SIGINT end the proxy and remove its socket file.`,
    )
    .action(run)
}

async function run(flags: ProxyFlags): Promise<void> {
  const log = createLog({ json: flags.json === true, verbose: flags.verbose === true })
  const { parseEndpoint } = await import('../net/endpoint.js')
  const { from, to } = direction(flags)
  const target = to === undefined ? null : parseEndpoint(to, 'connect')
  const source = from === undefined ? null : parseEndpoint(from, 'listen')
  let peer: Peer | null = null
  let proxy: ServiceProxy | SocketProxy | null = null
  let removeFile = (): void => {}
  const end = async (): Promise<void> => {
    await proxy?.close()
    removeFile()
    await peer?.close()
  }
  const interrupt = onInterrupt(end)
  process.on('exit', () => removeFile())
  process.stdout.on('error', () => {})
  process.stderr.on('error', () => {})
  try {
    const { attach } = await import('../index.js')
    const { ServiceProxy, SocketProxy } = await import('../net/proxy.js')
    peer = await attach({ ...(flags.region && { region: flags.region }), signal: interrupt.signal })
    const failed = watch(peer, log)
    const service = (flags.listen ?? flags.connect)!
    const options = {
      service,
      maxConnections: flags.maxConnections,
      ...(flags.path && { paths: [flags.path] }),
    }
    let bound: Endpoint | null = null
    if (target !== null) {
      proxy = new ServiceProxy(target, flags.timeout, options)
      tell(proxy, log)
      await proxy.start(peer)
    } else {
      proxy = new SocketProxy(peer, flags.wait, options)
      tell(proxy, log)
      let fd: number | null = null
      if (source!.kind === 'unix') {
        const { SocketFile } = await import('../host/socket-file.js')
        const file = new SocketFile(source!.path, flags.mode, -1, '--from')
        removeFile = () => file.unlink()
        fd = file.fd
      }
      bound = await proxy.start(source!, fd)
    }
    await ready(flags, service, bound, target)
    await failed
  } catch (error) {
    if (interrupt.signal.aborted) await new Promise(() => {}) // the process ends when all is undone
    await end()
    throw error
  } finally {
    interrupt.dispose()
  }
}

function direction({ listen, to, from, connect }: ProxyFlags): { from?: string; to?: string } {
  const given = [listen, to, from, connect].map((value) => (value === undefined ? '-' : 'x')).join('')
  if (given === 'xx--') return { to: to! }
  if (given === '--xx') return { from: from! }
  throw new VmringError(
    'ERR_VMRING_ARGUMENT',
    'give either --listen SERVICE and --to ADDRESS, or --from ADDRESS and --connect SERVICE',
  )
}

/** Rejects when the region is lost for good. A daemon may come back. */
function watch(peer: Peer, log: Log): Promise<never> {
  return new Promise((_resolve, reject) => {
    peer.on('lost', (error) => {
      if (peer.region.startsWith('file:')) reject(error)
      else log('error', 'the region is lost; new connections are turned away until it is back', fields(error))
    })
    peer.on('rejoined', () => log('info', 'the region is back'))
  })
}

function tell(proxy: ServiceProxy | SocketProxy, log: Log): void {
  proxy.on('open', (open) => log('debug', 'open', { open }))
  proxy.on('refused', (error) => log('warn', 'turned away', { ...fields(error), open: proxy.open }))
  proxy.on('done', (error, open) => {
    if (error === null) log('debug', 'ended', { open })
    else log('warn', 'broken off', { ...fields(error), open })
  })
}

function fields(error: Error): { code: string; reason: string } {
  return { code: (error as NodeJS.ErrnoException).code ?? 'unknown', reason: error.message }
}

async function ready(
  { json, listen }: ProxyFlags,
  service: string,
  from: Endpoint | null,
  to: Endpoint | null,
): Promise<void> {
  const { endpointText } = await import('../net/endpoint.js')
  const [left, right] = [from && endpointText(from), to && endpointText(to)]
  const line = json
    ? JSON.stringify({ event: 'listening', service, from: left, to: right, pid: process.pid })
    : `vmring proxy: ${listen ?? left} to ${right ?? service}`
  process.stdout.write(`${line}\n`)
}

/** commander's way of saying that a value is wrong */
function checked<T>(parse: () => T): T {
  try {
    return parse()
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}
