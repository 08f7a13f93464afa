// An express app and autocannon, neither changed: over shared memory under vmring/register, over TCP without.
import { once } from 'node:events'
import { type AddressInfo, connect, createServer } from 'node:net'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { root, startDaemon, startNode, until } from '../support/processes.js'

const app = join(root, 'test/adapters/apps/web.mjs')
const autocannon = join(root, 'node_modules/autocannon/autocannon.js')

/** One that nobody has now. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

const answersOnTcp = (port: number) =>
  new Promise<boolean>((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.on('connect', () => resolve(true)).on('error', () => resolve(false))
    socket.on('connect', () => socket.destroy())
  })

test.each([true, false])('with vmring/register: %s', async (registered) => {
  const { region } = await startDaemon(['--size', '256M', '--sections', '4'])
  const port = await freePort()
  const env = {
    PORT: String(port),
    VMRING_REGION: region,
    VMRING_MAP: `127.0.0.1:${port}=web`,
    NODE_DEBUG: 'vmring',
  }
  const options = { env, cwd: root, execArgv: registered ? ['--import', 'vmring/register'] : [] }
  const server = startNode([app], options)
  await until(() => !server.alive || server.stdout.length > 0, 30_000, 'the app listens')
  expect(await answersOnTcp(port)).toBe(!registered)

  const load = ['-c', '64', '-d', '2', '--json', `http://127.0.0.1:${port}/`]
  const { code, stdout, stderr } = await startNode([autocannon, ...load], options).finish()
  expect(code, stderr).toBe(0)
  const { errors, timeouts, non2xx, requests } = JSON.parse(stdout.toString())
  expect({ errors, timeouts, non2xx }).toEqual({ errors: 0, timeouts: 0, non2xx: 0 })
  expect(requests.total).toBeGreaterThan(64)
  const channels = (text: string) =>
    (text.match(/^VMRING \d+: 127\.0\.0\.1:\d+: a channel of service web, path shm$/gm) ?? []).length
  const expected = registered ? 64 : 0
  // autocannon makes one connection more, to see whether somebody is there
  for (const text of [stderr, server.stderr]) {
    expect(channels(text)).toBeGreaterThanOrEqual(expected)
    if (!registered) expect(text).not.toContain('VMRING')
  }
})
