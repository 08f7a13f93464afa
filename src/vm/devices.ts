// QEMU's words for the ivshmem devices of a guest. Each sits on a root port of its own: that gives it an IOMMU group of
// its own, and q35 plugs and unplugs only there.

export const DEFAULT_VECTORS = 2

/** Needs a listening ivshmem server. `id` names the device for plug and unplug. */
export interface DoorbellDevice {
  kind: 'doorbell'
  id: string
  socket: string
  /** default 2 */
  vectors?: number
}

export interface PlainDevice {
  kind: 'plain'
  id: string
  file: string
  /** bytes, a power of two, the size of the file */
  size: number
}

export type Device = DoorbellDevice | PlainDevice

export function rootPort(index: number): string[] {
  return ['-device', `pcie-root-port,id=port${index},chassis=${index + 1},slot=${index + 1}`]
}

export function deviceArguments(device: Device, port: number): string[] {
  if (device.kind === 'plain') {
    return [
      '-object',
      `memory-backend-file,id=${device.id}-mem,size=${device.size},share=on,mem-path=${device.file}`,
      '-device',
      `ivshmem-plain,id=${device.id},memdev=${device.id}-mem,bus=port${port}`,
    ]
  }
  return [
    '-chardev',
    `socket,path=${device.socket},id=${device.id}-server`,
    '-device',
    `ivshmem-doorbell,id=${device.id},vectors=${device.vectors ?? DEFAULT_VECTORS},chardev=${device.id}-server,bus=port${port}`,
  ]
}

export interface QmpCommand {
  command: string
  args: Record<string, unknown>
}

export function plugCommands(device: Device, port: number): QmpCommand[] {
  const at = { id: device.id, bus: `port${port}` }
  if (device.kind === 'plain') {
    const id = `${device.id}-mem`
    return [
      {
        command: 'object-add',
        args: {
          'qom-type': 'memory-backend-file',
          id,
          size: device.size,
          share: true,
          'mem-path': device.file,
        },
      },
      { command: 'device_add', args: { driver: 'ivshmem-plain', memdev: id, ...at } },
    ]
  }
  const id = `${device.id}-server`
  const addr = { type: 'unix', data: { path: device.socket } }
  return [
    { command: 'chardev-add', args: { id, backend: { type: 'socket', data: { addr, server: false } } } },
    {
      command: 'device_add',
      args: { driver: 'ivshmem-doorbell', vectors: device.vectors ?? DEFAULT_VECTORS, chardev: id, ...at },
    },
  ]
}

/** After DEVICE_DELETED: ends the connection to the server, so that the others hear of the leave. */
export function afterUnplug(device: Device): QmpCommand {
  return device.kind === 'plain'
    ? { command: 'object-del', args: { id: `${device.id}-mem` } }
    : { command: 'chardev-remove', args: { id: `${device.id}-server` } }
}
