/** `vmring proxy` for tests. */
import { expect } from 'vitest'
import { type Process, startCli, until } from './processes.js'

export interface Listening {
  service: string
  from: string | null
  to: string | null
}

export interface ProxyProcess extends Listening {
  process: Process
  /** of `from`, for net.connect() */
  at: { host: string; port: number } | { path: string }
  log(): Record<string, unknown>[]
}

export async function startProxy(region: string, ...args: string[]): Promise<ProxyProcess> {
  const process_ = startCli(['proxy', '--region', region, '--json', ...args])
  await until(() => !process_.alive || process_.stdout.includes('\n'), 20_000, 'the proxy is ready')
  expect(process_.stderr).toBe('')
  const line = JSON.parse(process_.stdout.toString()) as Listening
  const [, host, port] = /^tcp:\[?([^\]]*)\]?:(\d+)$/.exec(line.from ?? '') ?? []
  const at = host === undefined ? { path: (line.from ?? '').slice(5) } : { host, port: Number(port) }
  const log = () =>
    process_.stderr
      .trim()
      .split('\n')
      .filter(Boolean)
      .map((text) => JSON.parse(text))
  return { ...line, process: process_, at, log }
}
