// The ivshmem server of ivshmem_hub.py, as a child of the test.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, ftruncateSync, openSync } from 'node:fs'
import { join } from 'node:path'

export interface Hub extends AsyncDisposable {
  socket: string
  file: string
}

/** Serves a memory of `size` bytes in `folder`. */
export async function startHub(folder: string, size: number, vectors = 2): Promise<Hub> {
  const file = join(folder, 'memory')
  const socket = join(folder, 'ivshmem')
  sparseFile(file, size)
  const program = join(import.meta.dirname, 'ivshmem_hub.py')
  const args = [program, socket, file, String(vectors)]
  const child: ChildProcess = spawn('python3', args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const exit = once(child, 'exit')
  const said = await Promise.race([once(child.stdout!, 'data').then(() => true), exit.then(() => false)])
  if (!said) throw new Error('ivshmem_hub.py did not start; it needs Python 3.10 or later')
  return {
    socket,
    file,
    async [Symbol.asyncDispose]() {
      child.stdin!.end()
      await exit
    },
  }
}

export function sparseFile(path: string, size: number): void {
  const fd = openSync(path, 'w', 0o600)
  ftruncateSync(fd, size)
  closeSync(fd)
}
