/** What the daemon says about its relay: part of the answer to `{"op":"status"}`. */
export interface RelayStatus {
  /** null: not listening there */
  unix: string | null
  /** port, of any CID of this machine */
  vsock: number | null
  policy: { file: string; rules: number } | null
  peers: RelayPeerStatus[]
  connections: number
  splices: number
  counters: RelayCounters
}

export interface RelayPeerStatus {
  /** 32 hexadecimal digits */
  uuid: string
  incarnation: number
  /** 'cid:3' or 'uid:1000', as the kernel says */
  origin: string
  /** of the process that connected; null for a guest's */
  pid: number | null
  /** false: its control connection has gone, splices are left */
  present: boolean
  /** milliseconds since its first HELLO */
  connected: number
  /** the first 64 */
  services: string[]
  serviceCount: number
  /** splices to other peers now */
  connections: number
  /** bytes through the relay from it and to it */
  sent: number
  received: number
  /** it has been told to leave shared memory */
  revoked: boolean
}

export interface RelayCounters {
  /** connections taken */
  accepted: number
  /** pairs joined so far */
  spliced: number
  /** by reason: 'POLICY', 'BUSY', 'UNKNOWN_PEER', 'IDENTITY', 'VERSION', 'HANDSHAKE', 'NO_SERVICE', … */
  refused: Record<string, number>
}
