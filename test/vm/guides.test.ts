// The walkthroughs of docs/guides, block by block as they are written. `vmring` and `sudo` are on the PATH, as after an
// installation; QEMU's command lines keep their ivshmem options and lose what the bed gives a guest in place of a disk.
import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Bed, type Guest, type Job } from '../../src/vm/index.js'
import { output } from '../../src/vm/tools.js'
import { cli } from './ring.js'

const page = readFileSync(resolve(import.meta.dirname, '../../docs/guides/walkthroughs.md'), 'utf8')

interface Block {
  walkthrough: number
  /** 'host', 'qemu a', 'a', 'a prints' */
  where: string
  stays: boolean
  body: string
}

const blocks: Block[] = [
  ...page.matchAll(/<!-- walkthrough (\d): ([\w ]+?)(, stays)? -->\n```\w*\n([\s\S]*?)```/g),
].map(([, walkthrough, where, stays, body]) => ({
  walkthrough: Number(walkthrough),
  where: where!,
  stays: stays !== undefined,
  body: body!,
}))

let bed: Bed
let bin: string
let env: NodeJS.ProcessEnv
const guests = new Map<string, Guest>()
const staying = new Map<string, Job>()
const children: ChildProcess[] = []

beforeAll(async () => {
  bed = await Bed.open()
  bin = join(bed.folder, 'bin')
  mkdirSync(bin)
  const program = (name: string, script: string) => {
    writeFileSync(join(bin, name), `#!/bin/sh\n${script}\n`)
    chmodSync(join(bin, name), 0o755)
  }
  program('vmring', `exec ${cli.join(' ')} "$@"`)
  program('sudo', 'exec "$@"')
  program('qemu-system-x86_64', `printf '%s\\n' "$@"`)
  env = { ...process.env, PATH: `${bin}:${process.env.PATH}`, XDG_RUNTIME_DIR: bed.folder }
  delete env.VMRING_SOCKET
  delete env.VMRING_REGION
})

afterAll(async () => {
  await bed?.close()
  for (const { pid } of children) {
    try {
      process.kill(-pid!, 'SIGKILL') // its group: the shell and what it started
    } catch {
      // ended by itself
    }
  }
}, 30_000)

function onHost(body: string): Promise<string> {
  return new Promise((done, fail) => {
    const child = spawn('/bin/sh', ['-e', '-c', body], { env, detached: true })
    children.push(child)
    let said = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (said += chunk))
    child.stdin.end()
    child.on('close', (code) => (code === 0 ? done(said) : fail(new Error(`${body}: ${code}: ${said}`))))
  })
}

/** Returns when it says that it listens. */
function staysOnHost(body: string): Promise<void> {
  return new Promise((done, fail) => {
    const child = spawn('/bin/sh', ['-e', '-c', body], { env, detached: true })
    children.push(child)
    let said = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk) => {
        said += chunk
        if (said.includes('listening')) done()
      })
    }
    child.on('close', () => fail(new Error(`${body}: ${said}`)))
  })
}

/** Boots a guest with the options of a command line, less those that a bed has its own of. */
async function boot(name: string, command: string): Promise<Guest> {
  const words = (
    await output('/bin/sh', ['-ec', `PATH=${bin}:$PATH XDG_RUNTIME_DIR=${bed.folder}; ${command}`])
  )
    .toString()
    .trim()
    .split('\n')
  const qemu: string[] = []
  for (let at = 0; at < words.length; at += 2) {
    const [option, value] = [words[at]!, words[at + 1]!]
    const own = ['-M', '-accel', '-cpu', '-m', '-drive'].includes(option) || value.startsWith('intel-iommu')
    if (!own) qemu.push(option, value)
  }
  const iommu = words.includes('intel-iommu,intremap=on')
  expect(words).toContain(iommu ? 'q35,kernel-irqchip=split' : 'q35')
  // no modules: `vmring bind` loads them
  return bed.boot({ name, qemu, iommu, modules: [], sparePorts: 0 })
}

const inGuest = () => ({ timeout: 120_000, env: { PATH: `${bin}:/usr/sbin:/usr/bin:/sbin:/bin` } })

async function follow({ where, stays, body }: Block): Promise<void> {
  const [first, second] = where.split(' ') as [string, string | undefined]
  if (first === 'host') return stays ? staysOnHost(body) : void (await onHost(body))
  if (first === 'qemu') {
    guests.set(second!, await boot(second!, body))
    return
  }
  if (second === 'prints') {
    const { stdout } = await staying.get(first)!.success()
    expect(stdout).toContain(body.trim())
    return
  }
  const guest = guests.get(first)!
  if (stays) staying.set(first, guest.start(['/bin/sh', '-ec', body], inGuest()))
  else await guest.sh(body, inGuest())
}

function vmring(guest: Guest, ...args: string[]) {
  return guest.start([...cli, ...args], inGuest()).done
}

describe('walkthroughs', () => {
  it('every block of the page is marked', () => {
    expect(page.match(/^```\w*$/gm)!.length).toBe(2 * blocks.length)
    expect(new Set(blocks.map(({ walkthrough }) => walkthrough))).toEqual(new Set([1, 2, 3]))
  })

  for (const number of [1, 2, 3]) {
    it(`${number}, as written`, async () => {
      for (const block of blocks.filter(({ walkthrough }) => walkthrough === number)) await follow(block)
    }, 240_000)
  }
})

describe('in the guests of the walkthroughs', () => {
  it('bind and unbind change what they say, once', async () => {
    const a = guests.get('a')!
    const again = JSON.parse((await vmring(a, 'bind', '--json')).stdout)
    expect(again).toMatchObject({ driver: 'vfio-pci', changed: false, commands: [] })
    const dry = await vmring(a, 'unbind', '--dry-run')
    expect(dry.stdout).toContain(`echo ${again.address} > `)
    const free = JSON.parse((await vmring(a, 'unbind', again.address, '--json')).stdout)
    expect(free).toMatchObject({ driver: '', changed: true })
    expect(JSON.parse((await vmring(a, 'unbind', '--json')).stdout)).toMatchObject({ changed: false })
    const doctor = await vmring(a, 'doctor', '--open', '--json')
    const findings = JSON.parse(doctor.stdout) as { check: string; status: string; fix?: string }[]
    expect(findings.find(({ check }) => check === 'driver')).toMatchObject({
      status: 'note',
      fix: `sudo vmring bind ${again.address}`,
    })
    // sysfs memory is looked at as well
    expect(findings.find(({ check }) => check === 'section')).toMatchObject({ status: 'ok' })
    expect(doctor.code).toBe(0)
    const bound = JSON.parse((await vmring(a, 'bind', '--json')).stdout)
    expect(bound).toMatchObject({ driver: 'vfio-pci', changed: true, path: again.path })
  })

  it('a device in use stays with its process, and doctor says whose it is', async () => {
    const a = guests.get('a')!
    const job = a.start([...cli, 'cat', '--listen', 'held'], inGuest())
    const busy = async () => {
      const { stdout } = await vmring(a, 'doctor', '--json')
      return (JSON.parse(stdout) as { check: string; message: string }[]).find(
        ({ check }) => check === 'in use',
      )
    }
    let held = await busy()
    for (let tries = 0; held === undefined && tries < 10; tries++) held = await busy()
    expect(held!.message).toContain(`process ${job.pid}`)
    const refused = await vmring(a, 'unbind')
    expect(refused.code).toBe(1)
    expect(refused.stderr).toContain('ERR_VMRING_DEVICE_BUSY')
    expect(refused.stderr).toContain(`kill ${job.pid}`)
    job.kill('TERM')
    await job.done
  })

  it('without an IOMMU bind says so, and doctor finds nothing wrong with a plain device', async () => {
    const c = guests.get('c')!
    const refused = await vmring(c, 'bind')
    expect(refused.code).toBe(1)
    expect(refused.stderr).toContain('ERR_VMRING_NO_IOMMU')
    const { code, stdout } = await vmring(c, 'doctor')
    expect(stdout).toContain('ivshmem-plain, 16 MiB, no driver')
    expect(stdout).not.toContain('WRONG')
    expect(code).toBe(0)
  })
})
