/** Redis and PostgreSQL of Debian's packages, on sockets of their own in a scratch directory. */
import { chmodSync, existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { answers, Process, scratch, until } from '../support/processes.js'

export interface Backend {
  process: Process
  /** for `vmring proxy --to` */
  address: string
}

function program(name: string, ...places: string[]): string {
  const found = places.find((place) => existsSync(place))
  if (found !== undefined) return found
  throw new Error(`${name} is not here: looked for ${places.join(', ')}; .ci/run installs it`)
}

async function answering(process_: Process, path: string): Promise<Backend> {
  await until(async () => {
    if (!process_.alive) throw new Error(`it ended:\n${process_.stdout}${process_.stderr}`)
    return await answers(path)
  }, 30_000)
  return { process: process_, address: `unix:${path}` }
}

/** Debian's redis-tools carries the server too, under another name, and starts no service. */
export async function redis(): Promise<Backend> {
  const file = program('the Redis server', '/usr/bin/redis-server', '/usr/bin/redis-check-rdb')
  const directory = scratch()
  const path = join(directory, 'redis.sock')
  const options = [
    '--port',
    '0',
    '--unixsocket',
    path,
    '--dir',
    directory,
    '--save',
    '',
    '--maxclients',
    '500',
  ]
  return answering(new Process(file, options, { argv0: 'redis-server' }), path)
}

const versions = '/usr/lib/postgresql'

export async function postgres(): Promise<Backend> {
  const installed = existsSync(versions) ? readdirSync(versions) : []
  const bin = installed
    .map((version) => join(versions, version, 'bin'))
    .find((dir) => existsSync(join(dir, 'initdb')))
  if (bin === undefined) throw new Error(`PostgreSQL is not in ${versions}; .ci/run installs it`)
  const directory = scratch()
  const data = join(directory, 'data')
  // it refuses to run as root
  const root = process.getuid?.() === 0
  const as = root ? ['setpriv', '--reuid=postgres', '--regid=postgres', '--clear-groups', '--'] : []
  if (root) chmodSync(directory, 0o777)
  const run = (name: string, ...args: string[]) => {
    const [command, ...rest] = [...as, join(bin, name), ...args]
    return new Process(command!, rest, { cwd: directory })
  }
  const { code, stderr } = await run(
    'initdb',
    '-D',
    data,
    '-U',
    'me',
    '-A',
    'trust',
    '-N',
    '--no-instructions',
  ).finish()
  if (code !== 0) throw new Error(`initdb: ${stderr}`)
  const settings = {
    listen_addresses: '',
    unix_socket_directories: directory,
    max_connections: '150',
    fsync: 'off',
  }
  const options = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  return answering(run('postgres', '-D', data, ...options), join(directory, '.s.PGSQL.5432'))
}
