// A way around a bug of QEMU (seen in 7.2) that would end every second test of unplugging.
//
// Without KVM's irqfd, an unplugged ivshmem-doorbell closes the eventfds of its vectors, but leaves them in QEMU's main
// loop together with a pointer to freed memory. The next file that happens to get such a number (the 9p share opens files
// all the time) becomes readable, and QEMU dies of SIGSEGV. So the numbers are taken at once by listening sockets to which
// nobody ever connects: polling those finds nothing, for ever. Until that is done, files get other numbers: a system gives
// out the lowest free one, and a reserve of low ones, held by such sockets since before the device was there, is set free
// before the unplugging. With KVM no such handler exists, and this does no harm.
import { readdirSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import type { Qmp } from './qmp.js'

/** Descriptors of a process that are eventfds. */
export function eventfds(pid: number): Set<number> {
  const found = new Set<number>()
  for (const name of readdirSync(`/proc/${pid}/fd`)) {
    try {
      if (readlinkSync(`/proc/${pid}/fd/${name}`) === 'anon_inode:[eventfd]') found.add(Number(name))
    } catch {
      // closed meanwhile
    }
  }
  return found
}

let count = 0

/** Numbers for the files that a guest opens while one of its devices goes. */
const RESERVE = 48

/** QEMU arguments for a reserve from the start, before those of any device; the ids. */
export function reserveArguments(folder: string): { args: string[]; ids: string[] } {
  const ids = Array.from({ length: RESERVE }, () => `fill${count++}`)
  const one = (id: string) => ['-chardev', `socket,id=${id},path=${join(folder, id)},server=on,wait=off`]
  return { args: ids.flatMap(one), ids }
}

/** Before a device is plugged: what a reserve of that size needs to be whole; the ids. */
export function reserve(qmp: Qmp, folder: string, have: number): Promise<string[]> {
  return add(qmp, folder, Math.max(0, RESERVE - have))
}

export async function release(qmp: Qmp, ids: string[]): Promise<void> {
  await Promise.all(ids.map((id) => qmp.command('chardev-remove', { id })))
}

async function add(qmp: Qmp, folder: string, number: number): Promise<string[]> {
  const ids = Array.from({ length: number }, () => `fill${count++}`)
  const adding = ids.map((id) => {
    const addr = { type: 'unix', data: { path: join(folder, id) } }
    const backend = { type: 'socket', data: { addr, server: true, wait: false } }
    return qmp.command('chardev-add', { id, backend })
  })
  await Promise.all(adding)
  return ids
}

/**
 * Takes every number that was in `before` and has been closed; the guest must be stopped. The lowest free number comes first, so all free ones below have to be taken too; and a file that is closed
 * meanwhile makes one more, so it looks again.
 */
export async function fill(qmp: Qmp, pid: number, before: Set<number>, folder: string): Promise<void> {
  for (let tries = 0; tries < 20; tries++) {
    const after = new Set(readdirSync(`/proc/${pid}/fd`).map(Number))
    const missing = [...before].filter((fd) => !after.has(fd))
    if (missing.length === 0) return
    let free = 0
    for (let fd = 0; fd <= Math.max(...missing); fd++) if (!after.has(fd)) free++
    await add(qmp, folder, free)
  }
}
