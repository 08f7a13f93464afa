/** What a process tells its daemon about itself, so that `vmring ls` can show it. Nothing else is built on it. */

/** Bounds of one report, so that it fits in one line of the administration socket. */
export const MAX_SERVICES = 64
export const MAX_CHANNELS = 96
const MAX_NAME_BYTES = 255

export interface ChannelReport {
  /** hexadecimal, the same at both ends */
  id: string
  service: string
  /** of the process at the other end, −1 when it is not in the region */
  section: number
  path: string
  /** true at the end that connected */
  initiator: boolean
}

/** How often limits were reached: see src/session/limits.ts, and `muted` of the counters. */
export interface LimitReport {
  channels: number
  ringBytes: number
  waiting: number
  /** times that doorbells were not listened to for a while, because there were too many */
  muted: number
}

export interface PeerReport {
  /** the first 64 and 96 of them; the counts are whole */
  services: string[]
  channels: ChannelReport[]
  serviceCount: number
  channelCount: number
  limits: LimitReport
}

const isName = (value: unknown): value is string =>
  typeof value === 'string' && Buffer.byteLength(value) <= MAX_NAME_BYTES
const isCount = (value: unknown): value is number => Number.isInteger(value) && (value as number) >= 0

function isChannel(value: unknown): value is ChannelReport {
  if (typeof value !== 'object' || value === null) return false
  const { id, service, section, path, initiator } = value as Record<string, unknown>
  return (
    typeof id === 'string' &&
    /^[0-9a-f]{48}$/.test(id) &&
    isName(service) &&
    Number.isInteger(section) &&
    isName(path) &&
    typeof initiator === 'boolean'
  )
}

/** A copy of what is well-formed; null when anything is not. */
export function checkReport(value: Record<string, unknown>): PeerReport | null {
  const { services, channels, serviceCount, channelCount, limits } = value
  if (!Array.isArray(services) || services.length > MAX_SERVICES || !services.every(isName)) return null
  if (!Array.isArray(channels) || channels.length > MAX_CHANNELS || !channels.every(isChannel)) return null
  if (!isCount(serviceCount) || !isCount(channelCount)) return null
  const reached = limitsOf(limits)
  if (reached === null) return null
  const copies = channels.map(({ id, service, section, path, initiator }) => ({
    id,
    service,
    section,
    path,
    initiator,
  }))
  return { services: [...services], channels: copies, serviceCount, channelCount, limits: reached }
}

function limitsOf(value: unknown): LimitReport | null {
  if (typeof value !== 'object' || value === null) return null
  const { channels, ringBytes, waiting, muted } = value as Record<string, unknown>
  if (!isCount(channels) || !isCount(ringBytes) || !isCount(waiting) || !isCount(muted)) return null
  return { channels, ringBytes, waiting, muted }
}
