// A daemon on the host and guests that have joined its region.
import { join } from 'node:path'
import { Bed, type Device, type Guest, type GuestOptions } from '../../src/vm/index.js'
import { Daemon, devices, setDriver } from './ring.js'

export interface GroupOptions {
  guests: string[]
  /** arguments of `vmring host` */
  host: string[]
  /** doorbell devices of each guest, iv0, iv1, …: one serves one process; default 1 */
  doorbells?: number
  /** devices besides, whose files may lie in the bed's folder */
  devices?: (folder: string) => Device[]
  /** for each guest */
  machine?: Pick<GuestOptions, 'memory' | 'lifetime'>
}

export class Group implements AsyncDisposable {
  readonly bed: Bed
  readonly daemon: Daemon
  readonly #options: GroupOptions
  readonly #devices: Device[]
  readonly guests: Guest[] = []
  /** PCI addresses of the doorbell devices, the same in every guest; each is bound to vfio-pci */
  addresses: string[] = []

  private constructor(bed: Bed, daemon: Daemon, options: GroupOptions) {
    this.bed = bed
    this.daemon = daemon
    this.#options = options
    const doorbell = (_: unknown, i: number): Device => ({
      kind: 'doorbell',
      id: `iv${i}`,
      socket: daemon.socket,
    })
    this.#devices = [
      ...Array.from({ length: options.doorbells ?? 1 }, doorbell),
      ...(options.devices?.(bed.folder) ?? []),
    ]
  }

  /** When one of them fails, none is left. */
  static async boot(options: GroupOptions): Promise<Group> {
    const bed = await Bed.open()
    let daemon: Daemon | undefined
    try {
      daemon = await Daemon.start(join(bed.folder, 'host'), ...options.host)
      const group = new Group(bed, daemon, options)
      group.guests.push(...(await bed.bootAll(options.guests.map((name) => group.#machine(name)))))
      await Promise.all(group.guests.map((guest) => group.#join(guest)))
      return group
    } catch (error) {
      await bed.close()
      await daemon?.[Symbol.asyncDispose]()
      throw error
    }
  }

  /** One more, or one anew. */
  async boot(name: string): Promise<Guest> {
    const guest = await this.bed.boot(this.#machine(name))
    await this.#join(guest)
    return guest
  }

  /** As `--region` and attach() take them. */
  get regions(): string[] {
    return this.addresses.map((address) => `pci:${address}`)
  }

  #machine(name: string): GuestOptions {
    // twenty times what it takes where nothing else runs
    return { bootTimeout: 240_000, ...this.#options.machine, name, devices: this.#devices }
  }

  async #join(guest: Guest): Promise<void> {
    this.addresses = (await devices(guest)).filter((one) => one.interrupts).map(({ address }) => address)
    for (const address of this.addresses) await setDriver(guest, address, 'vfio-pci')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.bed.close()
    await this.daemon[Symbol.asyncDispose]()
  }
}
