/** The transports by name. */
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { MessagePort } from 'node:worker_threads'
import type { Transport } from './link.js'
import { messagePort } from './port-link.js'
import { type PeerSource, shm } from './shm-link.js'
import { socket, tcp, unix, vsock } from './stream-link.js'

/** Names that are no name of a transport are files of modules whose default export is one. */
export function isModule(name: string): boolean {
  return /^[./]/.test(name)
}

export async function transportOf(name: string, source: PeerSource, port?: MessagePort): Promise<Transport> {
  switch (name) {
    case 'shm':
      return shm(source)
    case 'socket':
      return socket(source)
    case 'unix':
      return unix
    case 'tcp':
      return tcp
    case 'vsock':
      return vsock(source)
    case 'messageport':
      return messagePort(port!)
    case 'zeromq':
      return (await import('./zeromq-link.js')).zeromq
    default:
      return ((await import(pathToFileURL(resolve(name)).href)) as { default: Transport }).default
  }
}
