// A way around a bug of QEMU (seen in 7.2) that would end every second test of unplugging.
//
// Without KVM's irqfd, an unplugged ivshmem-doorbell closes the eventfds of its vectors, but leaves them in QEMU's main
// loop together with a pointer to freed memory. The next file that happens to get such a number (the 9p share opens files
// all the time) becomes readable, and QEMU dies of SIGSEGV. So those numbers are taken by listening sockets to which nobody
// ever connects: polling those finds nothing, for ever. Until that is done, files must get other numbers: a system gives
// out the lowest free one, so a reserve of lower ones, held by such sockets since before the device was there, is set free
// before the unplugging. With KVM no such handler exists.
//
// Numbers are given out while the guest stands still, because one that runs opens and closes files meanwhile.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Qmp } from './qmp.js'

/** Numbers for the files that a guest opens while one of its devices goes. */
const RESERVE = 96
const PREFIX = 'fill'
const ARRIVAL_MS = 5000

/** The sockets that hold numbers of one QEMU process. */
export class Fillers {
  readonly #folder: string
  /** chardevs that hold a number for nothing but later */
  #reserve: string[] = []
  #count = 0

  /** `folder`: where its sockets may lie. */
  constructor(folder: string) {
    this.#folder = folder
  }

  /** QEMU arguments for a reserve from the start; they must stand before those of any device. */
  arguments(): string[] {
    this.#reserve = this.#names(RESERVE)
    return this.#reserve.flatMap((id) => [
      '-chardev',
      `socket,id=${id},path=${join(this.#folder, id)},server=on,wait=off`,
    ])
  }

  /** Plugs a device by `add`, above a whole reserve. Returns when its `vectors` eventfds have come from the server. */
  async plug(qmp: Qmp, pid: number, vectors: number, add: () => Promise<void>): Promise<void> {
    await qmp.command('stop')
    this.#reserve.push(...(await this.#add(qmp, RESERVE - this.#reserve.length)))
    const before = eventfds(pid).size
    await add()
    const until = Date.now() + ARRIVAL_MS
    while (eventfds(pid).size < before + vectors && Date.now() < until) await sleep(5)
    await qmp.command('cont')
  }

  /** Takes a device out by `remove`. */
  async unplug(qmp: Qmp, pid: number, remove: () => Promise<void>): Promise<void> {
    const before = eventfds(pid)
    await Promise.all(this.#reserve.splice(0).map((id) => qmp.command('chardev-remove', { id })))
    await remove()
    const still = eventfds(pid)
    const gone = [...before].filter((fd) => !still.has(fd))
    await qmp.command('stop')
    const added: string[] = []
    // The lowest free number comes first, so all free ones below are taken too. A file may still be closed meanwhile.
    for (let free = freeBelow(pid, gone); free > 0; free = freeBelow(pid, gone))
      added.push(...(await this.#add(qmp, free)))
    const holders = this.#numbers(pid)
    this.#reserve = added.filter((id) => !gone.includes(holders.get(id) ?? -1))
    await qmp.command('cont')
  }

  #names(number: number): string[] {
    return Array.from({ length: Math.max(0, number) }, () => `${PREFIX}${this.#count++}`)
  }

  async #add(qmp: Qmp, number: number): Promise<string[]> {
    const ids = this.#names(number)
    const adding = ids.map((id) => {
      const addr = { type: 'unix', data: { path: join(this.#folder, id) } }
      const backend = { type: 'socket', data: { addr, server: true, wait: false } }
      return qmp.command('chardev-add', { id, backend })
    })
    await Promise.all(adding)
    return ids
  }

  /** Which number each chardev holds: its path leads to an inode, the inode to the number. */
  #numbers(pid: number): Map<string, number> {
    const paths = new Map<string, string>()
    for (const line of readFileSync('/proc/net/unix', 'utf8').split('\n')) {
      const [, , , , , , inode, path] = line.split(' ').filter((word) => word !== '')
      if (path?.startsWith(join(this.#folder, PREFIX)))
        paths.set(`socket:[${inode}]`, path.slice(this.#folder.length + 1))
    }
    const found = new Map<string, number>()
    for (const [fd, link] of files(pid)) {
      const id = paths.get(link)
      if (id !== undefined) found.set(id, fd)
    }
    return found
  }
}

/** What a process has open: the link of each number. */
function files(pid: number): [number, string][] {
  return readdirSync(`/proc/${pid}/fd`).flatMap((name): [number, string][] => {
    try {
      return [[Number(name), readlinkSync(`/proc/${pid}/fd/${name}`)]]
    } catch {
      return [] // closed meanwhile
    }
  })
}

function eventfds(pid: number): Set<number> {
  return new Set(files(pid).flatMap(([fd, link]) => (link === 'anon_inode:[eventfd]' ? [fd] : [])))
}

/** How many sockets it takes until none of the numbers `wanted` is free. */
function freeBelow(pid: number, wanted: number[]): number {
  const taken = new Set(files(pid).map(([fd]) => fd))
  const highest = Math.max(-1, ...wanted.filter((fd) => !taken.has(fd)))
  let free = 0
  for (let fd = 0; fd <= highest; fd++) if (!taken.has(fd)) free++
  return free
}
