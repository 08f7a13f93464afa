// The kernel that guests boot, and their initramfs: Debian's package, downloaded and unpacked without installing it,
// made ready once and kept in a cache folder. Two runs at once may both make it; the first to finish wins.
import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { Cpio } from './cpio.js'
import { BedMissing } from './errors.js'
import { initScript, MODULES } from './init.js'
import { findProgram, needProgram, output } from './tools.js'

export interface Kernel {
  /** as `uname -r` says it */
  version: string
  /** for -kernel: an uncompressed ELF file where we could make one, since unpacking it costs a second at each boot */
  image: string
  initramfs: string
}

const PACKAGE = 'linux-image-amd64'
const OWN_KERNEL = `point VMRING_VM_KERNEL at an unpacked copy of Debian's package ${PACKAGE}`

function cacheFolder(): string {
  if (process.env.VMRING_VM_CACHE) return process.env.VMRING_VM_CACHE
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'vmring', 'vm')
}

let ready: Promise<Kernel> | undefined

/** The kernel, made ready at the first call. Throws BedMissing when something has to be installed. */
export function kernel(): Promise<Kernel> {
  ready ??= prepare().catch((error: unknown) => {
    ready = undefined
    throw error
  })
  return ready
}

async function prepare(): Promise<Kernel> {
  const busybox = needProgram('busybox')
  const program = readFileSync(busybox)
  if (program.includes('/lib64/ld-linux-x86-64.so.2\0')) {
    throw new BedMissing('a static busybox', 'run `sudo apt-get install busybox-static`')
  }
  // Any change of init, modules or busybox makes another folder.
  const recipe = createHash('sha256').update(initScript).update(MODULES.join()).update(program)
  const cache = cacheFolder()
  mkdirSync(cache, { recursive: true })
  const work = mkdtempSync(join(cache, 'work-'))
  const clear = () => rmSync(work, { recursive: true, force: true })
  process.once('exit', clear) // Ctrl-C during a download
  try {
    const given = process.env.VMRING_VM_KERNEL
    const source = given ?? (await kernelPackage(cache, work))
    const target = join(cache, `guest-${recipe.update(source).digest('hex').slice(0, 16)}`)
    if (!existsSync(join(target, 'version'))) {
      const made = join(work, 'guest')
      mkdirSync(made)
      await make(given ?? (await unpack(source, work)), program, made)
      settle(made, target)
    }
    prune(cache, target)
    return read(target)
  } finally {
    process.off('exit', clear)
    clear()
  }
}

function read(folder: string): Kernel {
  const image = existsSync(join(folder, 'vmlinux')) ? 'vmlinux' : 'vmlinuz'
  return {
    version: readFileSync(join(folder, 'version'), 'utf8').trim(),
    image: join(folder, image),
    initramfs: join(folder, 'initramfs'),
  }
}

/** Moves a finished folder to its place; somebody else's, there already, is as good. */
function settle(made: string, target: string): void {
  try {
    renameSync(made, target)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error
  }
}

/** Drops what no run has used for a day: QEMU reads its files at the start only. */
function prune(cache: string, current: string): void {
  const now = Date.now()
  utimesSync(current, now / 1000, now / 1000)
  for (const name of readdirSync(cache)) {
    const path = join(cache, name)
    if (!/^(guest|work)-/.test(name)) continue
    if (now - (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? now) < 86_400_000) continue
    rmSync(path, { recursive: true, force: true })
  }
}

/** The newest kernel package in the cache, else one downloaded now. */
async function kernelPackage(cache: string, work: string): Promise<string> {
  const have = readdirSync(cache).filter((name) => /^linux-image-.*\.deb$/.test(name))
  have.sort((a, b) => a.localeCompare(b, 'en', { numeric: true }))
  const newest = have.at(-1)
  if (newest !== undefined) return join(cache, newest)
  const aptGet = findProgram('apt-get')
  const aptCache = findProgram('apt-cache')
  if (aptGet === null || aptCache === null)
    throw new BedMissing('a kernel', `there is no apt here; ${OWN_KERNEL}`)
  const { name, options } = await findPackage(aptGet, aptCache, work)
  let said = 'it gave nothing'
  await output(aptGet, [...options, 'download', name], { cwd: work, timeout: 300_000 }).catch(
    (error: Error) => {
      said = error.message
    },
  )
  const file = readdirSync(work).find((entry) => entry.endsWith('.deb'))
  if (file === undefined) {
    throw new BedMissing(`Debian's package ${name}`, `apt-get could not download it (${said}); ${OWN_KERNEL}`)
  }
  renameSync(join(work, file), join(cache, file))
  return join(cache, file)
}

async function unpack(file: string, work: string): Promise<string> {
  const unpacked = join(work, 'unpacked')
  await output(needProgram('dpkg-deb'), ['-x', file, unpacked], { timeout: 120_000 })
  return unpacked
}

/** The versioned package behind the meta package, with this machine's package lists or, without, with lists of our own. */
async function findPackage(
  aptGet: string,
  aptCache: string,
  work: string,
): Promise<{ name: string; options: string[] }> {
  let options: string[] = []
  let name = await versioned(aptCache, options)
  if (name === null) {
    const state = join(work, 'apt')
    mkdirSync(join(state, 'lists', 'partial'), { recursive: true })
    mkdirSync(join(state, 'archives', 'partial'), { recursive: true })
    options = ['-o', `Dir::State::lists=${join(state, 'lists')}`, '-o', `Dir::Cache=${state}`]
    await output(aptGet, [...options, 'update'], { timeout: 180_000 }).catch(() => {})
    name = await versioned(aptCache, options)
  }
  if (name === null) {
    throw new BedMissing(
      `Debian's package ${PACKAGE}`,
      `run \`sudo apt-get update\`; on another system ${OWN_KERNEL}`,
    )
  }
  return { name, options }
}

async function versioned(aptCache: string, options: string[]): Promise<string | null> {
  try {
    const text = (await output(aptCache, [...options, 'depends', PACKAGE])).toString()
    return /Depends: (linux-image-\S+)/.exec(text)?.[1] ?? null
  } catch {
    return null
  }
}

async function make(unpacked: string, busybox: Buffer, target: string): Promise<void> {
  const image = readdirSync(join(unpacked, 'boot')).find((name) => name.startsWith('vmlinuz-'))
  if (image === undefined)
    throw new BedMissing(
      'a kernel',
      `${unpacked} has no boot/vmlinuz-…; point VMRING_VM_KERNEL at an unpacked linux-image package`,
    )
  const version = image.slice('vmlinuz-'.length)
  const compressed = readFileSync(join(unpacked, 'boot', image))
  const plain = await decompressed(compressed)
  writeFileSync(join(target, plain === null ? 'vmlinuz' : 'vmlinux'), plain ?? compressed)
  writeFileSync(join(target, 'initramfs'), await initramfs(unpacked, version, busybox, target))
  writeFileSync(join(target, 'version'), `${version}\n`)
}

/** The ELF file in a bzImage whose payload is xz and whose kernel can start as one (PVH); null: boot the bzImage. */
async function decompressed(image: Buffer): Promise<Buffer | null> {
  const xz = findProgram('xz')
  const setup = ((image[0x1f1] || 4) + 1) * 512
  const from = setup + image.readUInt32LE(0x248)
  const payload = image.subarray(from, from + image.readUInt32LE(0x24c))
  if (xz === null || payload.subarray(1, 5).toString() !== '7zXZ') return null
  try {
    // four bytes behind the stream give its length
    const elf = await output(xz, ['-dc', '--single-stream'], { input: payload.subarray(0, -4) })
    return elf.subarray(1, 4).toString() === 'ELF' && elf.includes('Xen\0') ? elf : null
  } catch {
    return null
  }
}

async function initramfs(unpacked: string, version: string, busybox: Buffer, work: string): Promise<Buffer> {
  const depmod = needProgram('depmod')
  const modprobe = needProgram('modprobe')
  const all = join('lib', 'modules', version)
  if (!existsSync(join(unpacked, all, 'modules.dep'))) await output(depmod, ['-b', unpacked, version])
  const files = new Set<string>()
  for (const module of MODULES) {
    const name = module.replace('*', '')
    const text = await output(modprobe, ['-d', unpacked, '-S', version, '--show-depends', name]).catch(
      () => null,
    )
    // not in every kernel: KVM modules and the like are a convenience
    for (const line of text?.toString().split('\n') ?? []) {
      const path = /^insmod (\S+)/.exec(line)?.[1]
      if (path !== undefined) files.add(path.slice(path.indexOf(all)))
    }
  }
  // A tree with only these, so that modprobe works in the guest and offers nothing that is not there.
  const small = join(work, 'tree')
  for (const file of [
    ...files,
    join(all, 'modules.order'),
    join(all, 'modules.builtin'),
    join(all, 'modules.builtin.modinfo'),
  ]) {
    if (!existsSync(join(unpacked, file))) continue
    mkdirSync(join(small, file, '..'), { recursive: true })
    writeFileSync(join(small, file), readFileSync(join(unpacked, file)))
  }
  await output(depmod, ['-b', small, version])
  const archive = new Cpio()
  for (const folder of ['dev', 'proc', 'sys', 'root', 'bin', 'sbin', 'usr/bin', 'usr/sbin', 'etc', 'run'])
    archive.folder(folder)
  archive.device('dev/console', 5, 1)
  archive.file('bin/busybox', busybox, 0o755)
  archive.link('sbin/modprobe', '/bin/busybox')
  archive.file('init', initScript, 0o755)
  for (const file of readdirSync(small, { recursive: true, withFileTypes: true })) {
    if (!file.isFile()) continue
    const path = join(file.parentPath, file.name)
    archive.file(path.slice(small.length + 1), readFileSync(path))
  }
  rmSync(small, { recursive: true, force: true })
  return archive.end()
}
