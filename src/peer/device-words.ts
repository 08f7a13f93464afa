/**
 * What attach() and `vmring doctor` both say about a device. Without the addon: doctor speaks also when that does not load.
 */
export const VFIO = 'vfio-pci'

export interface Words {
  message: string
  /** the command that mends it */
  fix: string
}

interface Bound {
  /** 0000:00:02.0 */
  address: string
  /** '' for none */
  driver: string
  /** ivshmem-doorbell; false: ivshmem-plain */
  interrupts: boolean
}

/** Null: vfio-pci has the device, or nobody. With any other driver neither way of using it is ours to take. */
export function foreignDriver({ address, driver, interrupts }: Bound): Words | null {
  if (driver === VFIO || driver === '') return null
  return {
    message: `the driver ${driver} has the device; it is used through ${VFIO}, or through sysfs without any driver`,
    // a plain device has no interrupts, for which alone vfio-pci would be worth having
    fix: `sudo vmring ${interrupts ? 'bind' : 'unbind'} ${address}`,
  }
}
