import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { VmringError } from '../errors.js'

const UNITS: Record<string, number> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 }

/** '64M' → 67108864. K, M, G and T are powers of 1024; 'MiB' and the like are understood too. */
export function parseSize(text: string): number {
  const match = /^(\d+)\s*([kmgt]?)(i?b)?$/i.exec(text.trim())
  const bytes = match ? Number(match[1]) * UNITS[match[2]!.toLowerCase()]! : Number.NaN
  if (!Number.isSafeInteger(bytes))
    throw argument(`a size is a number with K, M or G behind it, such as 64M; not '${text}'`)
  return bytes
}

/** '0660' → 0o660 */
export function parseMode(text: string): number {
  if (!/^0?[0-7]{3}$/.test(text)) throw argument(`a mode is three octal digits, such as 0660; not '${text}'`)
  return Number.parseInt(text, 8)
}

/** A whole number from `min` to `max`. */
export function parseCount(text: string, name: string, min: number, max: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN
  if (!(value >= min && value <= max))
    throw argument(`${name} is a number from ${min} to ${max}; not '${text}'`)
  return value
}

/** Seconds, such as 5 or 0.5, from `min` to `max`, as milliseconds. At most what a timer takes. */
export function parseSeconds(text: string, name: string, min = 0, max = 2_000_000): number {
  const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN
  if (!(value >= min && value <= max))
    throw argument(`${name} is a number of seconds from ${min} to ${max}, such as 5 or 0.5; not '${text}'`)
  return Math.round(value * 1000)
}

/** The id of a group given by name or number. Names come from /etc/group, or from wherever `getent` finds them. */
export function groupId(group: string): number {
  if (/^\d+$/.test(group)) return Number(group)
  const find = (lines: string) => lines.split('\n').find((line) => line.startsWith(`${group}:`))
  let line: string | undefined
  try {
    line = find(readFileSync('/etc/group', 'utf8'))
  } catch {
    // a system without the file may still have a directory service
  }
  line ??= find(spawnSync('getent', ['group', '--', group], { encoding: 'utf8' }).stdout ?? '')
  const gid = Number(line?.split(':')[2])
  if (!line || !Number.isInteger(gid))
    throw argument(`there is no group '${group}' on this machine; see getent group`)
  return gid
}

export function formatSize(bytes: number): string {
  for (const [unit, factor] of [
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ] as const) {
    if (bytes >= factor && bytes % factor === 0) return `${bytes / factor} ${unit}`
  }
  return `${bytes} bytes`
}

export function argument(message: string): VmringError {
  return new VmringError('ERR_VMRING_ARGUMENT', message)
}
