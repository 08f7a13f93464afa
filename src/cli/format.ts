/** `vmring format`: makes a plain region file, or frees an entry of one whose owner is gone for good. */
import {
  chmodSync,
  closeSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Command } from 'commander'
import { VmringError } from '../errors.js'
import { parseCount, parseSize } from '../host/options.js'
import type { NativeBinding, NativeRegion } from '../native/types.js'
import { bytes, printJson } from './output.js'
import { Progress } from './progress.js'

const DEFAULT_SIZE = '64M'
const DEFAULT_SECTIONS = '16'
const MAX_SECTIONS = 256
const MIN_SIZE = 2 ** 20
const MAX_SIZE = 2 ** 40
const STATE_FREE = 0
/** heartbeats come every 250 ms; this is long enough to see one */
const WATCH_MS = 1200

interface FormatOptions {
  size?: string
  sections?: string
  force?: boolean
  release?: string
  json?: boolean
}

export function formatCommand(): Command {
  return new Command('format')
    .summary('make a plain region file')
    .description(
      'Makes a plain region file: shared memory without a daemon, for processes that open the same file (or guests with ' +
        'ivshmem-plain). Without --force it never touches a file that has something in it.',
    )
    .argument('<file>', 'path, best in /dev/shm')
    .option(
      '--size <size>',
      `a power of two of at least 1M (default: ${DEFAULT_SIZE}, or the size of the file)`,
    )
    .option(
      '--sections <count>',
      `how many processes can join, 2 to ${MAX_SECTIONS} (default: ${DEFAULT_SECTIONS})`,
    )
    .option(
      '--force',
      'replace the file whatever is in it; processes that have the old one open keep the old one',
    )
    .option('--release <section>', 'free the entry of a process that is gone, instead of formatting')
    .option('--json', 'print the result as JSON')
    .addHelpText(
      'after',
      `
Examples:
  $ vmring format /dev/shm/ring --size 16M --sections 4
  $ vmring ls --file /dev/shm/ring                  who is in it
  $ vmring format /dev/shm/ring --release 2         the process in section 2 was killed: free its place`,
    )
    .action(async (file: string, options: FormatOptions) => {
      const { native } = await import('../native/binding.js')
      const result =
        options.release === undefined ? format(native, file, options) : await release(native, file, options)
      if (options.json) printJson(result)
      else process.stdout.write(`${result.text}\n`)
    })
}

type Result = { text: string } & Record<string, unknown>

function format(native: NativeBinding, file: string, options: FormatOptions): Result {
  const sections = parseCount(options.sections ?? DEFAULT_SECTIONS, '--sections', 2, MAX_SECTIONS)
  const wanted = options.size === undefined ? null : parseSize(options.size)
  const present = statSync(file, { throwIfNoEntry: false })
  if (present !== undefined && !present.isFile()) {
    throw new VmringError('ERR_VMRING_ARGUMENT', `${file} is no regular file; name one, best in /dev/shm`)
  }
  const found = present !== undefined && present.size > 0 ? present.size : null
  const size = wanted ?? found ?? parseSize(DEFAULT_SIZE)
  if (size < MIN_SIZE || size > MAX_SIZE || 2 ** Math.round(Math.log2(size)) !== size) {
    throw new VmringError(
      'ERR_VMRING_REGION_SIZE',
      `${size} bytes is no power of two of at least 1 MiB; give one with --size, such as --size ${DEFAULT_SIZE}`,
    )
  }
  if (present === undefined) replace(native, file, size, sections, 0o600)
  else if (options.force) replace(native, file, size, sections, present.mode & 0o7777)
  else if (found === null) fill(native, file, size, sections)
  else {
    refuseContents(file)
    if (size !== found) {
      throw new VmringError(
        'ERR_VMRING_ARGUMENT',
        `${file} is ${bytes(found)} long, not ${bytes(size)}; leave --size out, or replace the file with --force`,
      )
    }
    fill(native, file, size, sections)
  }
  return {
    text: `${file}: ${bytes(size)}, room for ${sections} processes; join it with the region file:${file}`,
    file,
    size,
    sections,
    region: `file:${file}`,
  }
}

/** Throws unless the file begins with a page of zeros, as a region does that nobody has formatted. */
function refuseContents(file: string): void {
  const fd = openSync(file, 'r')
  try {
    const page = Buffer.alloc(4096)
    const length = readSync(fd, page, 0, page.length, 0)
    if (page.subarray(0, length).every((byte) => byte === 0)) return
  } finally {
    closeSync(fd)
  }
  throw new VmringError(
    'ERR_VMRING_ARGUMENT',
    `${file} has something in it, perhaps a region in use; --force replaces it`,
  )
}

/** Formats in place: the file is new, empty, or all zeros. */
function fill(native: NativeBinding, file: string, size: number, sections: number): void {
  const fd = openSync(file, 'r+')
  try {
    if (fstatSync(fd).size < size) ftruncateSync(fd, size)
  } finally {
    closeSync(fd)
  }
  const region = native.Region.open(file)
  try {
    region.formatTogether(sections)
    const { sections: made } = region.geometry()
    if (made === sections) return
    throw new VmringError(
      'ERR_VMRING_ARGUMENT',
      `${file} was formatted by somebody else meanwhile, for ${made} processes; --force replaces it`,
    )
  } finally {
    region.close()
  }
}

/** Formats a new file and puts it in the old one's place: nobody sees half a region, and the old memory stays what it was. */
function replace(native: NativeBinding, file: string, size: number, sections: number, mode: number): void {
  const fresh = `${file}.${process.pid}.new`
  closeSync(openSync(fresh, 'wx', 0o600))
  try {
    fill(native, fresh, size, sections)
    chmodSync(fresh, mode)
    renameSync(fresh, file)
  } finally {
    rmSync(fresh, { force: true })
  }
}

async function release(native: NativeBinding, file: string, options: FormatOptions): Promise<Result> {
  statSync(file)
  const region = native.Region.open(file)
  try {
    const geometry = region.geometry()
    if (!geometry.plain) {
      throw new VmringError(
        'ERR_VMRING_NOT_SUPPORTED',
        `${file} belongs to a daemon, which frees entries itself; --release is for plain region files`,
      )
    }
    const section = parseCount(options.release!, '--release', 0, geometry.sections - 1)
    const text = `${file}: section ${section}`
    const result = { file, section, released: true }
    if ((region.readEntry(section)?.state ?? STATE_FREE) === STATE_FREE) {
      return { ...result, released: false, text: `${text} is free already` }
    }
    if (!options.force && (await beats(region, section))) {
      const pid = region.readIdentity(section)?.pid
      throw new VmringError(
        'ERR_VMRING_ARGUMENT',
        `section ${section} is in use: its owner (process ${pid}) is alive; end that first`,
      )
    }
    region.releaseEntry(section)
    return { ...result, text: `${text} is free now` }
  } finally {
    region.close()
  }
}

async function beats(region: NativeRegion, section: number): Promise<boolean> {
  const progress = new Progress(`watching section ${section} for a sign of life`)
  const before = region.readIdentity(section)?.heartbeat
  await sleep(WATCH_MS)
  progress.stop()
  return region.readIdentity(section)?.heartbeat !== before
}
