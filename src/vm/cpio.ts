// A writer of "newc" archives, the format of initramfs: with it nobody needs cpio, or root to make /dev/console.

const DIRECTORY = 0o040000
const FILE = 0o100000
const LINK = 0o120000
const DEVICE = 0o020000

export class Cpio {
  #parts: Buffer[] = []
  #inode = 1
  #folders = new Set<string>()

  folder(path: string, mode = 0o755): void {
    if (path === '' || path === '.' || this.#folders.has(path)) return
    this.#parents(path)
    this.#folders.add(path)
    this.#entry(path, DIRECTORY | mode, Buffer.alloc(0))
  }

  file(path: string, data: Buffer | string, mode = 0o644): void {
    this.#parents(path)
    this.#entry(path, FILE | mode, Buffer.from(data))
  }

  link(path: string, target: string): void {
    this.#parents(path)
    this.#entry(path, LINK | 0o777, Buffer.from(target))
  }

  device(path: string, major: number, minor: number, mode = 0o600): void {
    this.#parents(path)
    this.#entry(path, DEVICE | mode, Buffer.alloc(0), major, minor)
  }

  end(): Buffer {
    this.#entry('TRAILER!!!', 0, Buffer.alloc(0))
    return Buffer.concat(this.#parts)
  }

  #parents(path: string): void {
    const at = path.lastIndexOf('/')
    if (at > 0) this.folder(path.slice(0, at))
  }

  #entry(path: string, mode: number, data: Buffer, major = 0, minor = 0): void {
    const name = Buffer.from(`${path}\0`)
    // inode, mode, uid, gid, links, mtime, size, device, device of the node, length of the name, checksum
    const fields = [this.#inode++, mode, 0, 0, 1, 0, data.length, 0, 0, major, minor, name.length, 0]
    const head = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`
    this.#parts.push(padded(Buffer.concat([Buffer.from(head), name])), padded(data))
  }
}

function padded(data: Buffer): Buffer {
  const rest = data.length % 4
  return rest === 0 ? data : Buffer.concat([data, Buffer.alloc(4 - rest)])
}
