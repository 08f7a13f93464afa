import { Command, InvalidArgumentError, Option } from 'commander'
import { DEFAULT_SOCKET, defaultSocket } from '../default-socket.js'
import { type Host, startHost } from '../host/daemon.js'
import { createLog } from '../host/log.js'
import { argument, formatSize, groupId, parseCount, parseMode, parseSize } from '../host/options.js'
import { RELAY_PORT } from '../path/relay-frames.js'

interface HostFlags {
  socket: string
  size: number
  sections: number
  vectors: number
  mode: number
  group?: number
  relay: boolean
  relayUnix?: string
  relayVsock?: number
  policy?: string
  json?: boolean
  verbose?: boolean
}

/** commander's way of saying that a value is wrong */
function checked<T>(parse: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return parse(text)
    } catch (error) {
      throw new InvalidArgumentError((error as Error).message)
    }
  }
}

/** `vmring host` */
export function hostCommand(): Command {
  return new Command('host')
    .summary('run the daemon that owns the shared memory')
    .description(
      'Runs the host daemon: it owns a region of shared memory and lets guests and processes join it.',
    )
    .addOption(
      new Option('--socket <path>', 'socket to listen on').default(
        defaultSocket(),
        `VMRING_SOCKET, else ${DEFAULT_SOCKET}`,
      ),
    )
    .addOption(
      new Option('--size <size>', 'size of the region, a power of two')
        .argParser(checked(parseSize))
        .default(64 * 2 ** 20, '64M'),
    )
    .option(
      '--sections <n>',
      'how many peers can take part at once',
      checked((text) => parseCount(text, 'sections', 1, 256)),
      16,
    )
    .option(
      '--vectors <n>',
      'interrupt vectors per peer',
      checked((text) => parseCount(text, 'vectors', 1, 64)),
      2,
    )
    .addOption(
      new Option('--mode <mode>', 'file mode of the sockets')
        .argParser(checked(parseMode))
        .default(0o660, '0660'),
    )
    .option('--group <group>', 'group of the sockets, by name or number', checked(groupId))
    .option('--relay-unix <path>', 'socket of the relay for processes (default: SOCKET.relay)')
    .option(
      '--relay-vsock <port>',
      `also let guests reach the relay, on this virtio socket port; they dial ${RELAY_PORT} unless told otherwise`,
      checked((text) => parseCount(text, 'a port', 1, 0xffff_fffe)),
    )
    .option('--no-relay', 'no relay at all')
    .option(
      '--policy <file>',
      'who may use which services of the relay (default: whoever can open a socket, all)',
    )
    .option('--json', 'one JSON object per line, on standard output when listening and in the log')
    .option('--verbose', 'log every peer that joins or leaves')
    .addHelpText(
      'after',
      `
Examples:
  $ vmring host                                      the usual socket, 64 MiB for 16 peers
  $ vmring host --socket /tmp/a.sock --size 256M --sections 32
  $ vmring host --relay-vsock ${RELAY_PORT} --policy /etc/vmring/policy.json

Everybody who may open the socket can read and write the whole region. For a guest, start QEMU with:
  -chardev socket,path=PATH,id=vmring -device ivshmem-doorbell,chardev=vmring,vectors=N
and N at most the --vectors given here. Start the daemon first: QEMU waits for it once and never connects again.

The relay carries channels between peers that share no memory, or cannot use it now. Without --policy everybody who may open
its socket, and with --relay-vsock every guest, may listen under and connect to every service.

The log goes to standard error. SIGTERM and SIGINT end the daemon and remove its files; so does SIGHUP, but with --policy it
reads that file again (with an error in it, the daemon says so and keeps the policy that it has).`,
    )
    .action(run)
}

async function run(flags: HostFlags): Promise<void> {
  const log = createLog({ json: flags.json === true, verbose: flags.verbose === true })
  const { socket, size, sections, vectors, mode, group, relayUnix, relayVsock, policy } = flags
  if (!flags.relay && (relayUnix ?? relayVsock ?? policy) !== undefined)
    throw argument('--no-relay goes with none of --relay-unix, --relay-vsock and --policy')
  const host = await startHost({
    socket,
    size,
    sections,
    vectors,
    mode,
    log,
    ...(group !== undefined && { group }),
    ...(flags.relay ? relayUnix !== undefined && { relayUnix } : { relayUnix: false as const }),
    ...(relayVsock !== undefined && { relayVsock }),
    ...(policy !== undefined && { policy }),
  })
  const ended = new Promise<void>((resolve) => host.once('close', () => resolve()))
  const stop = (signal: NodeJS.Signals) => {
    log('info', 'ending', { signal })
    void host.close()
  }
  const reload = () => {
    try {
      host.reloadPolicy()
    } catch (error) {
      const { code, message } = error as { code?: string; message: string }
      log('error', 'the old policy stays', { code: code ?? 'unknown', reason: message })
    }
  }
  const hangUp = policy === undefined ? stop : reload
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, stop)
  process.on('SIGHUP', hangUp)
  // also when something unforeseen ends the process
  process.on('exit', () => host.unlink())
  process.stdout.on('error', () => {})
  process.stderr.on('error', () => {})
  process.stdout.write(flags.json ? `${JSON.stringify(ready(host))}\n` : `${readyText(host)}\n`)
  await ended
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.off(signal, stop)
  process.off('SIGHUP', hangUp)
}

function ready(host: Host) {
  const { socket, size, sections, vectors, regionUuid: region } = host
  const relay = host.status().relay
  return {
    event: 'listening',
    socket,
    admin: `${socket}.admin`,
    relay: relay && { unix: relay.unix, vsock: relay.vsock },
    pid: process.pid,
    region,
    size,
    sections,
    vectors,
  }
}

function readyText(host: Host): string {
  return `vmring host: listening on ${host.socket} (${formatSize(host.size)}, ${host.sections} sections, ${host.vectors} vectors)`
}
