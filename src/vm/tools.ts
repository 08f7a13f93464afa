// Programs of this machine: finding them, running them to an end that always comes.
import { execFile } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { BedMissing } from './errors.js'

const PACKAGES: Record<string, string> = {
  'qemu-system-x86_64': 'qemu-system-x86',
  busybox: 'busybox-static',
  depmod: 'kmod',
  modprobe: 'kmod',
  'dpkg-deb': 'dpkg',
  'apt-get': 'apt',
  'apt-cache': 'apt',
}

/** Where a program is, or null. Administrators' folders count too: an ordinary user's PATH often lacks them. */
export function findProgram(name: string): string | null {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin', '/usr/bin', '/bin']
  for (const folder of folders) {
    if (folder === '') continue
    const path = join(folder, name)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {
      // not there: the next folder
    }
  }
  return null
}

export function needProgram(name: string): string {
  needPrograms([name])
  return findProgram(name)!
}

/** Throws one error for all that are not there. */
export function needPrograms(names: string[]): void {
  const missing = names.filter((name) => findProgram(name) === null)
  if (missing.length === 0) return
  const packages = new Set(missing.map((name) => PACKAGES[name] ?? name))
  throw new BedMissing(
    `the program${missing.length > 1 ? 's' : ''} ${missing.join(', ')}`,
    `on Debian or Ubuntu run \`sudo apt-get install ${[...packages].join(' ')}\``,
  )
}

/** Output of a program; throws with what it said when it fails or takes longer than `timeout` ms. */
export function output(
  command: string,
  args: string[],
  options: { cwd?: string; timeout?: number; input?: Buffer } = {},
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const settings = {
      cwd: options.cwd,
      timeout: options.timeout ?? 60_000,
      killSignal: 'SIGKILL' as const,
      maxBuffer: 256 << 20,
      encoding: 'buffer' as const,
    }
    const child = execFile(command, args, settings, (error, stdout, stderr) => {
      if (error === null) resolve(stdout)
      else {
        const said = stderr.toString().trim() || error.message
        reject(new Error(`${command} ${args.join(' ')}: ${said}`, { cause: error }))
      }
    })
    child.stdin?.on('error', () => {}) // it may end before it has read everything
    child.stdin?.end(options.input)
  })
}
