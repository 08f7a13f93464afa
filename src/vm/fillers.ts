// A way around a bug of QEMU (seen in 7.2) that would end every second test of unplugging.
//
// Without KVM's irqfd, an unplugged ivshmem-doorbell closes the eventfds of its vectors, but leaves them in QEMU's main
// loop together with a pointer to freed memory. The next file that happens to get such a number (the 9p share opens files
// all the time) becomes readable, and QEMU dies of SIGSEGV. So the numbers are taken at once by listening sockets to which
// nobody ever connects: polling those finds nothing, for ever. With KVM no such handler exists, and this does no harm.
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

/** Takes every number that was in `before` and has been closed. Sockets lie in `folder`. */
export async function fill(qmp: Qmp, pid: number, before: Set<number>, folder: string): Promise<void> {
  const after = new Set(readdirSync(`/proc/${pid}/fd`).map(Number))
  const missing = [...before].filter((fd) => !after.has(fd))
  if (missing.length === 0) return
  // The lowest free number comes first, so all free ones below the last missing one have to be taken.
  const last = Math.max(...missing)
  let free = 0
  for (let fd = 0; fd <= last; fd++) if (!after.has(fd)) free++
  const adding: Promise<unknown>[] = []
  for (let i = 0; i < free; i++) {
    const id = `fill${count++}`
    const addr = { type: 'unix', data: { path: join(folder, id) } }
    const backend = { type: 'socket', data: { addr, server: true, wait: false } }
    adding.push(qmp.command('chardev-add', { id, backend }))
  }
  await Promise.all(adding)
}
