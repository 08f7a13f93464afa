/** `vmring cat`: standard input to a channel, the channel to standard output. */
import { writeFileSync } from 'node:fs'
import { Command, Option } from 'commander'
import { VmringError } from '../errors.js'
import { parseSeconds } from '../host/options.js'
import type { Channel, Peer } from '../index.js'
import { onInterrupt } from './interrupt.js'
import { bytes } from './output.js'
import { Progress } from './progress.js'

const DEFAULT_WAIT_SECONDS = 60

interface CatOptions {
  listen?: boolean
  region?: string
  path?: string
  wait?: string
  stats?: string
}

export function catCommand(): Command {
  return new Command('cat')
    .summary('connect standard input and output to a service')
    .description(
      'Sends standard input to a service and writes what comes back to standard output, as netcat does for sockets. End of ' +
        'input closes this direction only; the command ends when both directions have ended.',
    )
    .argument('<service>', 'name of the service')
    .option('-l, --listen', 'offer the service instead, and serve one channel')
    .option('-r, --region <address>', 'region to join (default: VMRING_REGION, else what attach() finds)')
    .addOption(new Option('-p, --path <path>', 'use this path only').choices(['shm', 'vsock', 'unix']))
    .option(
      '-w, --wait <seconds>',
      `how long to wait for the other side (default: ${DEFAULT_WAIT_SECONDS}; without end with --listen)`,
    )
    .option('--stats <file>', 'write the statistics of channel and peer to a file, as JSON')
    .addHelpText(
      'after',
      `
Examples:
  $ vmring cat --listen backup > backup.tar        on one side
  $ tar c . | vmring cat backup                    on the other
  $ vmring cat -r file:/dev/shm/ring -w 5 time     a plain region file, at most 5 seconds of patience`,
    )
    .action(run)
}

async function run(service: string, options: CatOptions): Promise<void> {
  const wait = options.wait === undefined ? null : parseSeconds(options.wait, '--wait')
  const begin = performance.now()
  let peer: Peer | null = null
  let channel: Channel | null = null
  const interrupt = onInterrupt(async () => {
    channel?.destroy()
    await peer?.close()
  })
  const progress = new Progress('joining the region')
  try {
    const { attach } = await import('../index.js')
    const joined = await attach(options.region === undefined ? {} : { region: options.region })
    peer = joined
    progress.update(
      options.listen ? `waiting for somebody to connect to ${service}` : `waiting for ${service}`,
    )
    channel = options.listen
      ? await accept(joined, service, wait)
      : await joined.connect(service, {
          wait: wait ?? DEFAULT_WAIT_SECONDS * 1000,
          signal: interrupt.signal,
          ...(options.path === undefined ? {} : { paths: [options.path] }),
        })
    const open = channel
    const count = setInterval(() => {
      const { sentBytes, receivedBytes } = open.stats()
      progress.update(`sent ${bytes(sentBytes)}, received ${bytes(receivedBytes)}`)
    }, 200)
    count.unref()
    try {
      await converse(open)
    } finally {
      clearInterval(count)
    }
    progress.stop()
    await open.close()
  } finally {
    progress.stop()
    if (options.stats !== undefined && peer !== null) {
      const seconds = (performance.now() - begin) / 1000
      const stats = {
        service,
        path: channel?.path ?? null,
        seconds,
        channel: channel?.stats() ?? null,
        peer: peer.counters(),
      }
      writeFileSync(options.stats, `${JSON.stringify(stats, null, 2)}\n`)
    }
    channel?.destroy()
    await peer?.close()
    interrupt.dispose()
  }
}

/** The first channel that somebody opens; later ones are refused. */
async function accept(peer: Peer, service: string, wait: number | null): Promise<Channel> {
  const server = await peer.listen(service)
  let timer: NodeJS.Timeout | undefined
  try {
    return await new Promise<Channel>((resolve, reject) => {
      let served = false
      server.on('channel', (channel: Channel) => {
        if (served) channel.destroy()
        else resolve(channel)
        served = true
      })
      if (wait === null) return
      timer = setTimeout(() => {
        reject(
          new VmringError(
            'ERR_VMRING_TIMEOUT',
            `nobody connected to ${service} within ${wait / 1000} s; start the other side, or give a longer --wait`,
          ),
        )
      }, wait)
    })
  } finally {
    clearTimeout(timer)
    await server.close()
  }
}

/** Both directions at once, each with its own back-pressure. Whichever fails ends the other. */
async function converse(channel: Channel): Promise<void> {
  const stop = new AbortController()
  const fail = (error: unknown): never => {
    stop.abort()
    channel.destroy()
    throw error
  }
  const results = await Promise.allSettled([
    upstream(channel, stop.signal).catch(fail),
    downstream(channel).catch(fail),
  ])
  // the first to fail is the cause; the other one failed because the channel was gone
  const failures = results
    .filter((result) => result.status === 'rejected')
    .map((result) => result.reason as unknown)
  const cause =
    failures.find((error) => (error as { code?: string }).code !== 'ERR_VMRING_CLOSED') ?? failures[0]
  if (cause !== undefined) throw cause
}

async function upstream(channel: Channel, signal: AbortSignal): Promise<void> {
  const input = process.stdin
  const stop = () => input.destroy()
  signal.addEventListener('abort', stop, { once: true })
  try {
    for await (const chunk of input as AsyncIterable<Buffer>) await channel.send(chunk)
    if (!signal.aborted) await channel.end()
  } catch (error) {
    if (!signal.aborted) throw error
  } finally {
    signal.removeEventListener('abort', stop)
  }
}

/**
 * Each message is written before the next is taken. Written is a private copy: the pages of a device cannot be pinned, so
 * file systems that write straight from user memory (9p does) fail with EFAULT on the ring's own.
 */
async function downstream(channel: Channel): Promise<void> {
  // failures reach write() below
  process.stdout.on('error', () => {})
  for await (const message of channel) {
    if (message.length > 0) await write(message.copy())
  }
}

function write(data: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    process.stdout.write(data, (error) => {
      if (error) reject(error)
      else resolve()
    })
  })
}
