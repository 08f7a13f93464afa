import { createHash, randomBytes } from 'node:crypto'
import { closeSync, createReadStream, openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import {
  type Process,
  SLACK,
  scratch,
  sleep,
  startCli,
  startDaemon,
  until,
  vmring,
} from '../support/processes.js'

const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')

const peakKilobytes = (process_: Process) =>
  Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${process_.pid}/status`, 'utf8'))?.[1] ?? 0)

test('64 MiB each way at once, whole and unchanged', async () => {
  const { region } = await startDaemon(['--size', '16M', '--sections', '4'])
  const directory = scratch()
  const [there, back] = [randomBytes(64 * 2 ** 20), randomBytes(64 * 2 ** 20)]
  writeFileSync(join(directory, 'there'), there)
  writeFileSync(join(directory, 'back'), back)
  const run = (args: string[], input: string, output: string) => {
    const fds = [openSync(join(directory, input), 'r'), openSync(join(directory, output), 'w')]
    const process_ = startCli(['cat', '--region', region, ...args], { stdio: [fds[0], fds[1], 'pipe'] })
    for (const fd of fds) closeSync(fd!)
    return process_
  }
  const listener = run(['--listen', 'bulk'], 'back', 'there.received')
  const connector = run(['bulk'], 'there', 'back.received')
  const ends = await Promise.all([listener.finish(30_000 * SLACK), connector.finish(30_000 * SLACK)])
  for (const { code, stderr } of ends) expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  expect(sha256(readFileSync(join(directory, 'there.received')))).toBe(sha256(there))
  expect(sha256(readFileSync(join(directory, 'back.received')))).toBe(sha256(back))
}, 200_000)

test('half close: the answer comes after the end of the question', async () => {
  const { region } = await startDaemon()
  const listener = startCli(['cat', '--listen', 'ask', '--region', region])
  const connector = startCli(['cat', 'ask', '--region', region])
  connector.child.stdin!.end('question')
  await until(() => listener.stdout.toString() === 'question', 20_000, 'the question arrived')
  await sleep(300)
  expect([listener.alive, connector.alive]).toEqual([true, true])
  listener.child.stdin!.end('answer')
  const output = await connector.finish()
  expect(output).toMatchObject({ code: 0, stderr: '' })
  expect(output.stdout.toString()).toBe('answer')
  expect(await listener.finish()).toMatchObject({ code: 0, stderr: '' })
})

test('the connector waits for the listener', async () => {
  const { region } = await startDaemon()
  const connector = startCli(['cat', 'late', '--region', region])
  connector.child.stdin!.end('patience')
  await sleep(1000)
  expect(connector.alive).toBe(true)
  const listener = await vmring(['cat', '--listen', 'late', '--region', region])
  expect(listener).toMatchObject({ code: 0, text: 'patience', stderr: '' })
  expect((await connector.finish()).code).toBe(0)
})

test('nobody listens: exit code 1 after the wait, and what to do', async () => {
  const { region } = await startDaemon()
  const begin = Date.now()
  const { code, stderr, text } = await vmring(['cat', '--wait', '0.5', 'nobody', '--region', region])
  expect({ code, text }).toEqual({ code: 1, text: '' })
  expect(stderr).toMatch(/^vmring: .*nobody.*\(ECONNREFUSED\)\n {2}cure: /)
  expect(Date.now() - begin).toBeGreaterThan(450)
})

test('nobody connects: the listener gives up when told how long to wait', async () => {
  const { region } = await startDaemon()
  const { code, stderr } = await vmring(['cat', '--listen', '--wait', '0.3', 'lonely', '--region', region])
  expect(code).toBe(1)
  expect(stderr).toContain('(ERR_VMRING_TIMEOUT)')
})

test('no daemon: exit code 1, and the path that was tried', async () => {
  const socket = join(scratch(), 'none.sock')
  const { code, stderr } = await vmring(['cat', 'x', '--region', `unix:${socket}`])
  expect(code).toBe(1)
  expect(stderr).toMatch(/^vmring: .*\(ENOENT\)/)
  expect(stderr).toContain(socket)
})

test('--stats writes what happened as JSON, on both sides', async () => {
  const { region } = await startDaemon()
  const directory = scratch()
  const files = [join(directory, 'listener.json'), join(directory, 'connector.json')]
  const listener = startCli(['cat', '--listen', 'counted', '--region', region, '--stats', files[0]!])
  listener.child.stdin!.end('four')
  const connector = await vmring(['cat', 'counted', '--region', region, '--stats', files[1]!], {
    input: randomBytes(100_000),
  })
  expect(connector.code).toBe(0)
  expect((await listener.finish()).code).toBe(0)
  const [received, sent] = files.map((file) => JSON.parse(readFileSync(file, 'utf8')))
  expect(sent).toMatchObject({
    service: 'counted',
    path: 'shm',
    channel: { sentBytes: 100_000, receivedBytes: 4 },
  })
  expect(received).toMatchObject({
    service: 'counted',
    path: 'shm',
    channel: { sentBytes: 4, receivedBytes: 100_000 },
  })
  expect(received.channel.receivedMessages).toBe(sent.channel.sentMessages)
  expect(sent.peer.doorbells).toBeTypeOf('number')
})

test('only the first connector is served', async () => {
  const { region } = await startDaemon()
  const listener = startCli(['cat', '--listen', 'one', '--region', region])
  const first = startCli(['cat', 'one', '--region', region])
  first.child.stdin!.write('first')
  await until(() => listener.stdout.toString() === 'first', 20_000, 'the first one is served')
  const second = await vmring(['cat', '--wait', '0.2', 'one', '--region', region], {
    input: Buffer.from('second'),
  })
  expect(second.code).toBe(1)
  first.child.stdin!.end()
  listener.child.stdin!.end()
  expect((await first.finish()).code).toBe(0)
  const { code, stdout } = await listener.finish()
  expect({ code, text: stdout.toString() }).toEqual({ code: 0, text: 'first' })
})

test('a reader that does not read holds the sender back, in bounded memory', async () => {
  const { region } = await startDaemon(['--size', '4M', '--sections', '2'])
  const file = join(scratch(), 'large')
  const data = randomBytes(128 * 2 ** 20)
  writeFileSync(file, data)
  const listener = startCli(['cat', '--listen', 'slow', '--region', region])
  listener.child.stdin!.end()
  listener.child.stdout!.pause()
  const connector = startCli(['cat', 'slow', '--region', region])
  const before = peakKilobytes(connector)
  createReadStream(file).pipe(connector.child.stdin!)
  await sleep(2000)
  expect(connector.alive).toBe(true)
  const peaks = [peakKilobytes(listener), peakKilobytes(connector)]
  // 128 MiB are on their way; either process may hold a small part of them
  for (const peak of peaks) expect(peak - before).toBeLessThan(110 * 1024)
  listener.child.stdout!.resume()
  const [received] = await Promise.all([listener.finish(60_000), connector.finish(60_000)])
  expect(received.code).toBe(0)
  expect(sha256(received.stdout)).toBe(sha256(data))
}, 150_000)

test('the reader of our output goes away: exit code 1, one line, and the other side hears of it', async () => {
  const { region } = await startDaemon()
  const listener = startCli(['cat', '--listen', 'pipe', '--region', region])
  const connector = startCli(['cat', 'pipe', '--region', region])
  connector.child.stdin!.write('hello')
  await until(() => listener.stdout.toString() === 'hello', 20_000, 'hello arrived')
  listener.child.stdout!.destroy()
  const feed = setInterval(() => connector.child.stdin!.write('more'), 50)
  const [left, right] = await Promise.all([listener.finish(), connector.finish()])
  clearInterval(feed)
  expect(left.code).toBe(1)
  expect(left.stderr).toMatch(/^vmring: .*EPIPE/)
  expect(right.code).toBe(1)
})

test.each(['SIGINT', 'SIGTERM'] as const)(
  '%s ends it at once, and the other side hears of it',
  async (name) => {
    const { region } = await startDaemon()
    const listener = startCli(['cat', '--listen', 'signal', '--region', region])
    const connector = startCli(['cat', 'signal', '--region', region])
    connector.child.stdin!.write('hello')
    await until(() => listener.stdout.toString() === 'hello', 20_000, 'hello arrived')
    connector.signal(name)
    expect((await connector.finish()).code).toBe(name === 'SIGINT' ? 130 : 143)
    const other = await listener.finish()
    expect(other.code).toBe(1)
    expect(other.stderr).toMatch(/^vmring: .*\(ERR_VMRING_(RESET|PEER_GONE|CLOSED)\)/)
  },
)

test('a plain region file works without a daemon', async () => {
  const file = join(scratch(), 'ring')
  await vmring(['format', file, '--size', '4M', '--sections', '2'])
  const listener = startCli(['cat', '--listen', 'plain', '--region', `file:${file}`])
  listener.child.stdin!.end('back')
  const connector = await vmring(['cat', 'plain', '--region', `file:${file}`], {
    input: Buffer.from('there'),
  })
  expect(connector).toMatchObject({ code: 0, text: 'back', stderr: '' })
  const { stdout, code } = await listener.finish()
  expect({ code, text: stdout.toString() }).toEqual({ code: 0, text: 'there' })
})
