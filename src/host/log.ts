export type Level = 'debug' | 'info' | 'warn' | 'error'
export type Fields = Record<string, string | number | boolean | null>
export type Log = (level: Level, message: string, fields?: Fields) => void

export const silent: Log = () => {}

const BURST = 200
const PER_SECOND = 20

export interface LogOptions {
  json?: boolean
  /** also the level `debug` */
  verbose?: boolean
  write?: (line: string) => void
  now?: () => number
}

/**
 * One line per event: time, level, message, fields. A client that misbehaves in a loop cannot fill the disk: above
 * 20 lines a second (200 at once) lines are counted instead of written, and the count is told afterwards.
 */
export function createLog(options: LogOptions = {}): Log {
  const write = options.write ?? ((line: string) => process.stderr.write(line))
  const now = options.now ?? Date.now
  let tokens = BURST
  let refilled = now()
  let dropped = 0

  const line = (time: number, level: Level, message: string, fields: Fields): string => {
    const stamp = new Date(time).toISOString()
    if (options.json) return `${JSON.stringify({ time: stamp, level, message, ...fields })}\n`
    const words = Object.entries(fields).map(([key, value]) => ` ${key}=${quoted(value)}`)
    return `${stamp} ${level.padEnd(5)} ${message}${words.join('')}\n`
  }

  return (level, message, fields = {}) => {
    if (level === 'debug' && !options.verbose) return
    const time = now()
    tokens = Math.min(BURST, tokens + ((time - refilled) / 1000) * PER_SECOND)
    refilled = time
    if (tokens < 1) {
      dropped++
      return
    }
    tokens--
    if (dropped > 0) {
      write(line(time, 'warn', 'lines left out', { count: dropped }))
      dropped = 0
    }
    write(line(time, level, message, fields))
  }
}

function quoted(value: Fields[string]): string {
  const text = String(value)
  return /^[\w./:@+-]+$/.test(text) ? text : JSON.stringify(text)
}
