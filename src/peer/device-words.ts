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

interface Measured {
  /** bytes per second */
  readSpeed: number
  kind: 'vfio' | 'sysfs'
}

/** Mappings of vfio-pci and of resource2 are uncached by themselves; under KVM on Intel the hypervisor overrules that. */
export function slowMemory({ readSpeed, kind }: Measured): Words {
  return {
    message: `${speedWords(readSpeed)} through ${kind}: the memory is mapped uncached, or the processor is emulated; messages are right, but slow`,
    fix:
      'on the host: QEMU with -accel kvm on a processor of Intel, where the memory is cached whatever the guest asks for. ' +
      'A processor of AMD does what the guest asks for, and neither vfio-pci nor resource2 asks for caching',
  }
}

/** KVM's interrupts of ivshmem, and an IOMMU that remaps them: native/linux/vfio.cc, enable_again(). */
export const silentDevice = (address: string): Words => ({
  message: 'no interrupt of the device arrives: it is polled instead',
  fix:
    `under KVM, with \`-device intel-iommu,intremap=on\`, QEMU sets the interrupts up only for a process that may write /sys/bus/pci/devices/${address}/config ` +
    '(root, in a kernel that is not locked down); for others start QEMU with intremap=off and the guest with vfio_iommu_type1.allow_unsafe_interrupts=1. ' +
    'Otherwise see what QEMU says, and whether `vmring host` runs',
})

export function speedWords(readSpeed: number): string {
  return readSpeed >= 1e9 ? `${(readSpeed / 1e9).toFixed(1)} GB/s` : `${(readSpeed / 1e6).toFixed(0)} MB/s`
}
