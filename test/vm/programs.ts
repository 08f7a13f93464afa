// C and C++ programs for the guests, compiled on the host: guests see the host's files.
import { execFile } from 'node:child_process'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import type { Guest } from '../../src/vm/index.js'

const run = promisify(execFile)
const here = import.meta.dirname
const native = resolve(here, '../../native')
const linux = ['pci', 'vfio', 'sigbus'].map((name) => join(native, 'linux', `${name}.cc`))

/** Compiles test/vm/native/NAME.c or .cc into `folder`; the program's path. */
export async function compile(source: string, folder: string): Promise<string> {
  const program = join(folder, source.replace(/\.cc?$/, ''))
  const path = join(here, 'native', source)
  const flags = ['-O2', '-Wall', '-Wextra', '-Wshadow', '-Werror', '-o', program, path]
  if (source.endsWith('.c')) await run('gcc', flags, { timeout: 60_000 })
  else await run('g++', ['-std=c++20', `-I${native}`, ...flags, ...linux], { timeout: 120_000 })
  return program
}

/** A line of device_probe: a device, or what is in the way. */
export interface Probe {
  address: string
  driver: string
  group: number
  fault: string
  detail: string
  owner: number
  [key: string]: unknown
}

export async function probeDevices(guest: Guest, program: string, ...args: string[]): Promise<Probe[]> {
  const { stdout } = await guest.run([program, ...args])
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))
}
