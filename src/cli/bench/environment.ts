/** Where figures come from: without it they mean nothing. */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { arch, availableParallelism, cpus, loadavg, release, totalmem } from 'node:os'
import { fileURLToPath } from 'node:url'
import { native } from '../../native/binding.js'

export interface Environment {
  /** of the sources, with '+' behind it when they were changed since; null in an installed package */
  commit: string | null
  cpu: string
  processors: number
  /** who runs the machine (cpuid), null for nobody */
  hypervisor: string | null
  /** the processor is a program: figures compare with each other and with nothing else */
  emulated: boolean
  memory: number
  kernel: string
  node: string
  v8: string
  arch: string
  /** compiler and flags of the addon */
  addon: string
  /** of the last minute, before anything was measured */
  load: number
  arguments: string[]
  placement: string
  startedAt: string
}

const root = fileURLToPath(new URL('../../../', import.meta.url))

function commit(): string | null {
  if (!existsSync(`${root}.git`)) return null
  try {
    const git = (...args: string[]) =>
      execFileSync('git', ['-C', root, ...args], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }).trim()
    return `${git('rev-parse', 'HEAD')}${git('status', '--porcelain', '--', 'src', 'native') === '' ? '' : '+'}`
  } catch {
    return null
  }
}

export function packageVersion(): string {
  return (JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as { version: string }).version
}

export function environment(placed: [number, number] | null): Environment {
  const hypervisor = native.benchHypervisor()
  const cpu = cpus()[0]?.model ?? 'unknown'
  const { version, arch: built, sanitizer } = native.buildInfo
  return {
    commit: commit(),
    cpu,
    processors: availableParallelism(),
    hypervisor: hypervisor === '' ? null : hypervisor,
    emulated: /^TCG/.test(hypervisor) || /TCG/.test(cpu),
    memory: totalmem(),
    kernel: release(),
    node: process.versions.node,
    v8: process.versions.v8,
    arch: arch(),
    addon: `${version} ${built}${sanitizer === 'none' || sanitizer === '' ? '' : ` ${sanitizer}`}`,
    load: loadavg()[0]!,
    arguments: process.argv.slice(2),
    placement:
      placed === null ? 'wherever the scheduler puts them' : `processors ${placed[0]} and ${placed[1]}`,
    startedAt: new Date().toISOString(),
  }
}
