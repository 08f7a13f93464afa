/** Addresses of ordinary sockets on a command line: 'tcp:HOST:PORT', 'tcp:[::1]:PORT', 'unix:PATH'. */
import type { NetConnectOpts } from 'node:net'
import { VmringError } from '../errors.js'

export type Endpoint = { kind: 'tcp'; host: string; port: number } | { kind: 'unix'; path: string }

/** sun_path of unix(7), less the closing zero */
const MAX_PATH_BYTES = 107
const TCP = /^tcp:(?:\[([0-9a-f:.%\w]{2,64})\]|([^\s:[\]/]{1,253})):(\d{1,5})$/i

/** Throws ERR_VMRING_ARGUMENT. Port 0 takes a free one where something listens, and nothing where something connects. */
export function parseEndpoint(text: string, use: 'listen' | 'connect'): Endpoint {
  const tcp = TCP.exec(text)
  if (tcp !== null) {
    const port = Number(tcp[3])
    if (port <= 65_535 && (port > 0 || use === 'listen'))
      return { kind: 'tcp', host: tcp[1] ?? tcp[2]!, port }
    throw wrong(text, `the port is a number from ${use === 'listen' ? 0 : 1} to 65535`)
  }
  if (text.startsWith('unix:')) {
    const path = text.slice('unix:'.length)
    if (path !== '' && !path.includes('\0') && Buffer.byteLength(path) <= MAX_PATH_BYTES)
      return { kind: 'unix', path }
    throw wrong(text, `the path of a Unix socket has 1 to ${MAX_PATH_BYTES} bytes`)
  }
  throw wrong(text, 'use tcp:HOST:PORT (tcp:[::1]:PORT for IPv6) or unix:PATH')
}

export function endpointText(endpoint: Endpoint): string {
  if (endpoint.kind === 'unix') return `unix:${endpoint.path}`
  const host = endpoint.host.includes(':') ? `[${endpoint.host}]` : endpoint.host
  return `tcp:${host}:${endpoint.port}`
}

/** For net.createConnection() and server.listen(). */
export function endpointOptions(endpoint: Endpoint): NetConnectOpts & { path?: string } {
  return endpoint.kind === 'unix' ? { path: endpoint.path } : { host: endpoint.host, port: endpoint.port }
}

function wrong(text: string, cure: string): VmringError {
  return new VmringError(
    'ERR_VMRING_ARGUMENT',
    `${JSON.stringify(text.slice(0, 200))} is no socket address: ${cure}`,
  )
}
