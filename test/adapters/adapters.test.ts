// Every library of docs/guides/adapters.md: its ordinary client and server, each a process of its own, over shared memory.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Process, root, startDaemon, startNode, until } from '../support/processes.js'
import { startProxy } from '../support/proxy.js'
import { type Library, libraries } from './table.js'

const here = join(root, 'test/adapters')
let certificates: string

beforeAll(() => {
  certificates = mkdtempSync(join(tmpdir(), 'vmring-tls-'))
  const file = (name: string) => join(certificates, name)
  const what = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2']
  const whom = ['-subj', '/CN=web', '-addext', 'subjectAltName=DNS:web']
  const out = ['-keyout', file('key.pem'), '-out', file('cert.pem')]
  execFileSync('openssl', ['req', '-x509', ...what, ...whom, ...out], { stdio: 'pipe' })
})

afterAll(() => rmSync(certificates, { recursive: true, force: true }))

async function startServer({ name, backend }: Library, region: string): Promise<Process> {
  if (backend !== undefined) {
    const { process, address } = await backend()
    await startProxy(region, '--listen', name, '--to', address)
    return process
  }
  const env = { VMRING_REGION: region, CERTIFICATES: certificates }
  const server = startNode([join(here, 'server.mjs'), name, `vmring:${name}`], { env })
  await until(() => !server.alive || server.stdout.length > 0, 30_000, 'the server is ready')
  expect(server.stderr).toBe('')
  return server
}

test.each(libraries)('$name', async (library) => {
  const { name, mapped, error } = library
  const { region } = await startDaemon(['--size', '256M', '--sections', '4'])
  const server = await startServer(library, region)
  const env = { VMRING_REGION: region, CERTIFICATES: certificates, NODE_DEBUG: 'vmring' }
  const register = mapped === undefined ? [] : ['--import', 'vmring/register']
  const client = startNode([...register, join(here, 'client.mjs'), name, mapped ?? `vmring:${name}`], {
    env: { ...env, ...(mapped !== undefined && { VMRING_MAP: `${mapped}=${name}` }) },
    cwd: root,
  })
  const lines = () =>
    client.stdout
      .toString()
      .trim()
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line))
  const reached = (step: string) =>
    until(
      () => {
        if (!client.alive)
          throw new Error(`the client ended before '${step}':\n${client.stdout}${client.stderr}`)
        return lines().some(({ done }) => done === step)
      },
      60_000,
      `${name}: ${step}`,
    )
  await reached('hanging')
  expect(
    lines().map(({ done }) => done),
    client.stdout.toString(),
  ).toEqual(['small', 'large', 'many', 'hanging'])
  server.signal('SIGKILL')
  const { code, stderr } = await client.finish(30_000)
  expect(lines().at(-1)).toMatchObject({ done: 'dead', error })
  // nothing but what was asked for, and it says that every connection was in shared memory
  const channels = stderr
    .trim()
    .split('\n')
    .filter((line) => !line.includes(' leads to service '))
  expect(code).toBe(0)
  expect(channels.length).toBeGreaterThanOrEqual(101)
  for (const line of channels) expect(line).toMatch(/^VMRING \d+: .*: a channel of service .*, path shm$/)
})
