import { chmodSync, truncateSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { scratch, startDaemon, vmring } from '../support/processes.js'

interface Finding {
  check: string
  status: 'ok' | 'note' | 'wrong'
  message: string
  fix?: string
}

async function doctor(env: NodeJS.ProcessEnv) {
  const output = await vmring(['doctor', '--json'], { env })
  const findings = JSON.parse(output.text) as Finding[]
  const wrong = findings.filter(({ status }) => status === 'wrong')
  // everything wrong comes with its cure
  for (const finding of wrong) expect(finding.fix, finding.message).toBeTruthy()
  return { code: output.code, findings, wrong }
}

test('a sound machine with a daemon: nothing wrong, exit code 0', async () => {
  const daemon = await startDaemon()
  const env = { VMRING_SOCKET: daemon.socket }
  const { code, findings, wrong } = await doctor(env)
  expect(wrong).toEqual([])
  expect(code).toBe(0)
  const checks = findings.map(({ check }) => check)
  expect(checks).toEqual(
    expect.arrayContaining(['node', 'addon', '/dev/shm', 'open files', 'memlock', 'daemon', 'region']),
  )
  const { text } = await vmring(['doctor'], { env })
  expect(text).toContain(String(daemon.process.pid))
  expect(text).not.toContain('WRONG')
})

test('no daemon: the command that starts it, exit code 1', async () => {
  const socket = join(scratch(), 'none.sock')
  const { code, wrong } = await doctor({ VMRING_SOCKET: socket })
  expect(code).toBe(1)
  expect(wrong).toMatchObject([
    { check: 'daemon', fix: expect.stringContaining(`vmring host --socket ${socket}`) },
  ])
})

test('the socket of a daemon that was killed', async () => {
  const daemon = await startDaemon()
  daemon.process.signal('SIGKILL')
  await daemon.process.ended
  const { code, wrong } = await doctor({ VMRING_SOCKET: daemon.socket })
  expect(code).toBe(1)
  expect(wrong).toMatchObject([{ check: 'daemon', message: expect.stringContaining('left over') }])
})

test('another server at the socket, and a file in the way', async () => {
  const socket = join(scratch(), 'other.sock')
  const server = createServer((connection) => connection.destroy())
  await new Promise<void>((resolve) => server.listen(socket, resolve))
  try {
    const { wrong } = await doctor({ VMRING_SOCKET: socket })
    expect(wrong).toMatchObject([{ message: expect.stringContaining('another ivshmem server') }])
  } finally {
    server.close()
  }
  const file = join(scratch(), 'file.sock')
  writeFileSync(file, '')
  expect((await doctor({ VMRING_SOCKET: file })).wrong).toMatchObject([{ fix: `rm ${file}` }])
})

test('a missing addon: everything else is still looked at', async () => {
  const daemon = await startDaemon()
  const { code, findings, wrong } = await doctor({
    VMRING_SOCKET: daemon.socket,
    VMRING_ADDON: '/nowhere/vmring.node',
  })
  expect(code).toBe(1)
  expect(wrong.map(({ check }) => check)).toEqual(['addon'])
  expect(findings.find(({ check }) => check === 'daemon')).toMatchObject({ status: 'ok' })
})

test('all sections taken', async () => {
  const daemon = await startDaemon(['--sections', '1', '--size', '1M'])
  const { remote } = await import('../support/remote.js')
  const member = await remote()
  await member.run(async ({ vmring }, region) => {
    await vmring.attach({ region })
  }, daemon.region)
  const { code, wrong } = await doctor({ VMRING_SOCKET: daemon.socket })
  expect(code).toBe(1)
  expect(wrong).toMatchObject([{ check: 'sections', fix: expect.stringContaining('--sections 2') }])
})

test('VMRING_REGION that names a damaged file', async () => {
  const daemon = await startDaemon()
  const file = join(scratch(), 'ring')
  await vmring(['format', file, '--size', '1M', '--sections', '2'])
  const env = { VMRING_SOCKET: daemon.socket, VMRING_REGION: `file:${file}` }
  expect((await doctor(env)).code).toBe(0)
  chmodSync(file, 0o600)
  truncateSync(file, 4096)
  const { code, wrong } = await doctor(env)
  expect(code).toBe(1)
  expect(wrong).toMatchObject([{ check: 'region', fix: `vmring format ${file} --force` }])
})
