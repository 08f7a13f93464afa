// A bed of guests, for `vmring demo --vm` and the VM tests: real ones under unmodified QEMU, booted in seconds without KVM, without root and without installing
// anything beyond qemu-system-x86, busybox-static and kmod.
//
//   await using bed = await Bed.open()
//   const guest = await bed.boot({ devices: [{ kind: 'doorbell', id: 'iv0', socket }] })
//   const { stdout } = await guest.run(['node', '-p', '1 + 1'])
//
// A guest sees the host's root read-only (its own writes go to memory) and one writable folder, /job. Every wait has a
// limit; QEMU dies with this process; all files are in a folder of its own, so any number of beds run side by side.
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { BedMissing } from './errors.js'
import { Guest, type GuestOptions } from './guest.js'
import { needPrograms } from './tools.js'

export type { Device, DoorbellDevice, PlainDevice } from './devices.js'
export { BedMissing, GuestError, JobError } from './errors.js'
export { Guest, type GuestOptions } from './guest.js'
export { DEFAULT_MODULES } from './init.js'
export { Job, type JobOptions, type JobResult, quote } from './job.js'
export { kernel } from './kernel.js'

export class Bed {
  readonly folder: string
  readonly guests: Guest[] = []
  #count = 0
  #closed = false
  /** those that are still booting too */
  #all = new Set<Guest>()

  private constructor(folder: string) {
    this.folder = folder
  }

  /** A short name in /tmp: Unix sockets lie in it, whose paths end at 107 bytes. */
  static async open(parent = tmpdir()): Promise<Bed> {
    if (process.arch !== 'x64') {
      throw new BedMissing(
        'an x86-64 machine',
        'guests run the programs of this machine, on a kernel for x86-64',
      )
    }
    needPrograms(['qemu-system-x86_64', 'busybox', 'depmod', 'modprobe'])
    return new Bed(mkdtempSync(join(parent, 'vmbed-')))
  }

  /** Boots one more guest. */
  async boot(options: GuestOptions = {}): Promise<Guest> {
    const name = options.name ?? `g${this.#count}`
    const folder = join(this.folder, `${this.#count++}-${name}`)
    mkdirSync(folder)
    const guest = new Guest(folder, { ...options, name })
    this.#all.add(guest)
    if (this.#closed) await guest.kill() // it says so itself when it is to boot
    await guest.boot()
    this.guests.push(guest)
    return guest
  }

  /** Boots several at once; when one fails, none is left running. */
  async bootAll(all: GuestOptions[]): Promise<Guest[]> {
    const results = await Promise.allSettled(all.map((options) => this.boot(options)))
    const failed = results.find((result) => result.status === 'rejected')
    if (failed) {
      await Promise.all(
        results.map((result) => (result.status === 'fulfilled' ? result.value.kill() : undefined)),
      )
      throw failed.reason
    }
    return results.map((result) => (result as PromiseFulfilledResult<Guest>).value)
  }

  /** Kills what still runs and removes all files. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#all].map((guest) => guest.kill()))
    rmSync(this.folder, { recursive: true, force: true })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}
