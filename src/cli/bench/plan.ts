/** From options to the runs of a bench. What cannot be is said here, before anything is measured. */
import { closeSync, existsSync, openSync, rmSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { VmringError } from '../../errors.js'
import { argument, formatSize, parseCount, parseSeconds, parseSize } from '../../host/options.js'
import type { Mode } from '../../native/types.js'
import { MIN_SIZE } from './content.js'
import { APIS, FILLS, type Job, MODES, overLocalMemory, type Test, TOUCHES, TRANSPORTS } from './job.js'
import { isModule } from './transports.js'
import { loadZeromq } from './zeromq-link.js'

const MAX_SIZE = 16 * 2 ** 20
const MIN_RING = 64 * 1024
const MAX_RING = 16 * 2 ** 20
const MAX_PEERS = 200
const MAX_CHANNELS = 10_000
const MAX_SECONDS = 3600
/** idle channels stand in small rings */
const SCALE_RING = 16 * 1024

export interface BenchOptions {
  transport?: string
  mode: string
  size: string
  api: string
  fill: string
  touch: string
  idleGap: string
  duration: string
  warmup: string
  runs: string
  rate: string
  peers: string
  channels: string
  ring?: string
  cpu?: string
  region?: string
  listen?: string
  connect?: string
  wait: string
  json?: string
  hgrm?: string
  svg?: string
  html?: string
}

export interface Plan {
  test: Test
  jobs: Job[]
  rounds: number
  cpus: [number, number] | null
  /** bytes, and sections, of a region for all of it */
  region: { size: number; sections: number }
}

function list<T extends string>(text: string, name: string, known: readonly T[]): T[] {
  const words = [...new Set(text.split(',').map((word) => word.trim()))]
  for (const word of words) {
    if (!known.includes(word as T)) throw argument(`${name}: '${word}' is none of ${known.join(', ')}`)
  }
  return words as T[]
}

function numbers(text: string, name: string, min: number, max: number): number[] {
  return [...new Set(text.split(',').map((word) => parseCount(word.trim(), name, min, max)))]
}

function sizes(text: string): number[] {
  return [...new Set(text.split(',').map(parseSize))].map((size) => {
    if (size < MIN_SIZE || size > MAX_SIZE)
      throw argument(`--size: ${size} bytes; messages have ${MIN_SIZE} bytes to ${formatSize(MAX_SIZE)}`)
    return size
  })
}

function processors(text: string | undefined): [number, number] | null {
  if (text === undefined) return null
  const cpus = text.split(',').map((word) => parseCount(word.trim(), '--cpu', 0, 1023))
  if (cpus.length !== 2) throw argument(`--cpu names two processors, such as 0,1; not '${text}'`)
  for (const cpu of cpus) {
    if (!existsSync(`/sys/devices/system/cpu/cpu${cpu}`))
      throw argument(`--cpu: there is no processor ${cpu}; this machine has ${availableParallelism()}`)
  }
  return cpus as [number, number]
}

const powerAbove = (value: number) => 2 ** Math.ceil(Math.log2(value))

function ringFor(size: number, test: Test, chosen: string | undefined): number {
  if (chosen === undefined) {
    if (test === 'scale' && size <= SCALE_RING / 4) return SCALE_RING
    return Math.min(MAX_RING, Math.max(MIN_RING, powerAbove(size * 8)))
  }
  const ring = parseSize(chosen)
  if (ring < 4096 || ring > 2 ** 30 || powerAbove(ring) !== ring)
    throw argument(`--ring is a power of two from 4K to 1G; not '${chosen}'`)
  return ring
}

function transports(text: string, remote: boolean): string[] {
  const names = [...new Set(text.split(',').map((word) => word.trim()))]
  for (const name of names) {
    if (!(TRANSPORTS as readonly string[]).includes(name) && !isModule(name))
      throw argument(`--transport: '${name}' is none of ${TRANSPORTS.join(', ')}, nor the path of a module`)
    if (isModule(name) && !existsSync(name)) throw argument(`--transport: there is no file ${name}`)
    if (name === 'vsock' && !remote)
      throw new VmringError(
        'ERR_VMRING_NOT_SUPPORTED',
        "transport 'vsock' is measured between guests, or a guest and its host: vmring bench … --listen SERVICE in one, --connect SERVICE in the other",
      )
    if (remote && (name === 'unix' || name === 'messageport'))
      throw argument(`--transport: '${name}' does not lead to another machine`)
  }
  return names
}

/** Every combination of what was asked for, once. */
export async function planOf(test: Test, options: BenchOptions): Promise<Plan> {
  if (options.listen !== undefined && options.connect !== undefined)
    throw argument('--listen and --connect are for the two sides; this is one of them')
  const remote = options.connect !== undefined
  const cpus = processors(options.cpu)
  const rounds = parseCount(options.runs, '--runs', 1, 1000)
  const common = {
    test,
    duration: parseSeconds(options.duration, '--duration', 0.01, MAX_SECONDS),
    warmup: parseSeconds(options.warmup, '--warmup', 0, MAX_SECONDS),
    idleGap: parseCount(options.idleGap, '--idle-gap', 0, 1000 * MAX_SECONDS),
    rate: parseCount(options.rate, '--rate', 1, 10_000_000),
    cpus,
  }
  const modes = list(options.mode, '--mode', MODES) as Mode[]
  const apis = list(options.api, '--api', APIS)
  const fills = list(options.fill, '--fill', FILLS)
  const touches = list(options.touch, '--touch', TOUCHES)
  const peerCounts = numbers(options.peers, '--peers', 2, MAX_PEERS)
  const channelCounts = numbers(options.channels, '--channels', 1, MAX_CHANNELS)
  const names = transports(options.transport ?? (remote ? 'shm,socket' : 'shm,unix'), remote)
  if (test !== 'scale' && (channelCounts.length > 1 || peerCounts.length > 1))
    throw argument('--peers and --channels take several values in vmring bench scale alone')
  if (remote && peerCounts.some((count) => count !== 2))
    throw argument('--peers is for processes of one machine; between two there are as many as have joined')
  if (names.includes('zeromq')) await loadZeromq()

  const jobs: Job[] = []
  for (const size of sizes(options.size)) {
    const ring = ringFor(size, test, options.ring)
    for (const touch of touches) {
      for (const channels of channelCounts) {
        for (const transport of names) {
          const base = { ...common, transport, size, touch, ring, channels }
          const single = ['messageport', 'zeromq', 'vsock'].includes(transport) || isModule(transport)
          if (single && channels > 1) throw argument(`--channels: '${transport}' is measured with one`)
          if (!overLocalMemory(base)) {
            jobs.push({ ...base, api: 'event', fill: 'copy', peers: 2 })
            continue
          }
          for (const peers of peerCounts) {
            for (const mode of modes) {
              for (const api of transport === 'shm' ? apis : (['event'] as const)) {
                for (const fill of transport === 'shm' ? fills : (['copy'] as const)) {
                  if (fill === 'reserve' && size > ring / 4)
                    throw argument(
                      `--fill reserve: ${size} bytes are above a quarter of the ring (${formatSize(ring)}); see --ring`,
                    )
                  jobs.push({ ...base, mode, api, fill, peers })
                }
              }
            }
          }
        }
      }
    }
  }
  const perSection = Math.max(
    ...jobs.map(({ ring, channels, size }) => (ring + 2048) * channels + size * 4 + 2 ** 20),
  )
  const sections = Math.max(...peerCounts) + 2
  return { test, jobs, rounds, cpus, region: { size: powerAbove(perSection * sections), sections } }
}

/** An output file that cannot be written is not found out after the measuring. */
export function checkOutputs(options: BenchOptions): void {
  for (const path of [options.json, options.hgrm, options.svg, options.html]) {
    if (path === undefined || path === '-') continue
    const isNew = !existsSync(path)
    closeSync(openSync(path, 'a'))
    if (isNew) rmSync(path)
  }
}
