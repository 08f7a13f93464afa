/**
 * vmring/vsock behaves as net.Socket does: each scenario runs once with the one and once with the other, and what they tell (events in
 * their order, errors, counters, states) has to be the same. The other end is a net.Socket both times.
 */
import { once } from 'node:events'
import * as net from 'node:net'
import { join } from 'node:path'
import { setImmediate as turn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import * as vsock from '../../src/vsock/index.js'
import { StandInMonitor } from '../support/monitor.js'
import { scratch, sleep, until, within } from '../support/processes.js'

type Subject = net.Socket | vsock.Socket
interface Pair {
  subject: Subject
  peer: net.Socket
  log: string[]
}
interface Options {
  allowHalfOpen?: boolean
}

function record(subject: Subject): string[] {
  const log: string[] = []
  for (const name of ['connect', 'ready', 'end', 'finish', 'timeout', 'pause', 'resume'])
    subject.on(name, () => log.push(name))
  subject.on('error', (error: NodeJS.ErrnoException) => log.push(`error ${error.code}`))
  subject.on('close', (hadError: boolean) => log.push(`close ${hadError}`))
  return log
}

const code = (error: unknown) => (error as NodeJS.ErrnoException | null | undefined)?.code

/** How it stands at the end. */
function state(subject: Subject): object {
  const { destroyed, connecting, pending, readyState, bytesRead, bytesWritten, timeout } = subject
  const { readableEnded, writableEnded, writableFinished, closed } = subject
  const stream = { readableEnded, writableEnded, writableFinished, closed }
  return { destroyed, connecting, pending, readyState, bytesRead, bytesWritten, timeout, ...stream }
}

type Kind = 'net' | 'vsock'
type Side = 'client' | 'server'

async function open(
  kind: Kind,
  side: Side,
  options: Options,
  body: (pair: Pair) => Promise<void>,
): Promise<void> {
  const uds = join(scratch(), 'v')
  const monitor = await StandInMonitor.start(uds)
  const path = `${uds}_1`
  if (side === 'server') {
    const server = kind === 'net' ? net.createServer(options) : vsock.createServer(options)
    const accepted = new Promise<Subject>((resolve) => server.on('connection', resolve as never))
    if (server instanceof net.Server) server.listen(path)
    else server.listen({ uds, port: 1 })
    await once(server, 'listening')
    const connecting = monitor.guestConnect(1)
    const subject = await accepted
    const log = record(subject)
    await body({ subject, peer: await connecting, log })
    server.close()
  } else {
    const arrived = new Promise<net.Socket>((resolve) => monitor.guest.set(1, resolve))
    const plain = net.createServer({ allowHalfOpen: true }, (socket) => {
      socket.on('error', () => {})
      monitor.guest.get(1)!(socket)
    })
    plain.listen(path)
    await once(plain, 'listening')
    const subject =
      kind === 'net' ? net.connect({ path, ...options }) : vsock.connect({ uds, port: 1, ...options })
    const log = record(subject)
    await once(subject, 'connect')
    await body({ subject, peer: await arrived, log })
    plain.close()
  }
  await monitor.close()
}

const closed = ({ log }: Pair) => until(() => log.some((one) => one.startsWith('close')), 10_000, 'close')

const settled = () => sleep(60)

interface Scenario {
  name: string
  options?: Options
  sides?: Side[]
  /** must be in the log, so that nobody compares two empty ones */
  has: string
  run(pair: Pair): Promise<void>
}

const scenarios: Scenario[] = [
  {
    name: 'the other side speaks and ends; this side ends by itself',
    has: 'close false',
    async run(pair) {
      const { subject, peer, log } = pair
      subject.on('data', (data: Buffer) => log.push(`data ${data}`))
      peer.end('hello')
      await closed(pair)
    },
  },
  {
    name: 'the other side ends without a word, nobody reads here',
    has: 'end',
    async run(pair) {
      const { peer } = pair
      peer.end()
      await closed(pair)
    },
  },
  {
    name: 'the other side ends behind data that nobody reads here',
    has: 'state',
    async run(pair) {
      const { subject, peer, log } = pair
      peer.end('unread')
      await settled()
      log.push('reads now')
      subject.resume()
      await closed(pair)
      log.push('state')
    },
  },
  {
    name: 'allowHalfOpen: this side goes on speaking',
    options: { allowHalfOpen: true },
    has: 'peer heard more',
    async run(pair) {
      const { subject, peer, log } = pair
      let heard = ''
      peer.on('data', (data) => {
        heard += data
      })
      subject.resume()
      peer.end('done')
      await once(subject, 'end')
      await settled()
      log.push(`${subject.readyState} ${subject.writable}`)
      subject.write('mo')
      subject.end('re')
      await closed(pair)
      await until(() => peer.readableEnded, 5000)
      log.push(`peer heard ${heard}`)
    },
  },
  {
    name: 'allowHalfOpen: this side ends first and goes on hearing',
    options: { allowHalfOpen: true },
    has: 'data late',
    async run(pair) {
      const { subject, peer, log } = pair
      subject.end('bye', () => log.push('end callback'))
      subject.on('data', (data: Buffer) => log.push(`data ${data}`))
      await once(peer.resume(), 'end')
      await settled()
      log.push(subject.readyState)
      peer.end('late')
      await closed(pair)
    },
  },
  {
    name: 'writing after the other side has ended: EPIPE',
    has: 'error EPIPE',
    async run(pair) {
      const { subject, peer, log } = pair
      peer.pause()
      // keeps the own end waiting, so that the socket is still there
      subject.write(Buffer.alloc(3_000_000))
      subject.resume()
      subject.on('end', () => {
        // a turn later the own direction has been ended too
        setImmediate(() =>
          log.push(`write ${subject.write('late', (error) => log.push(`told ${code(error)}`))}`),
        )
      })
      peer.end()
      await closed(pair)
    },
  },
  {
    name: 'writing after the own end',
    has: 'error ERR_STREAM_WRITE_AFTER_END',
    async run(pair) {
      const { subject, peer, log } = pair
      peer.resume()
      subject.end()
      subject.write('late', (error) => log.push(`told ${code(error)}`))
      await closed(pair)
    },
  },
  {
    name: 'destroy() without and with what was written',
    has: 'told undefined',
    async run(pair) {
      const { subject, log } = pair
      subject.write('gone', (error) => log.push(`told ${code(error)}`))
      await turn()
      subject.destroy()
      log.push(`destroyed ${subject.destroyed}`)
      await closed(pair)
    },
  },
  {
    name: 'destroy(error)',
    has: 'error E_OWN',
    async run(pair) {
      const { subject } = pair
      subject.destroy(Object.assign(new Error('own'), { code: 'E_OWN' }))
      await closed(pair)
    },
  },
  {
    name: 'writing after destroy()',
    has: 'told ERR_STREAM_DESTROYED',
    async run(pair) {
      const { subject, log } = pair
      subject.destroy()
      subject.write('late', (error) => log.push(`told ${code(error)}`))
      await closed(pair)
      await settled()
    },
  },
  {
    name: 'the other side is gone with bytes unread: ECONNRESET',
    has: 'error ECONNRESET',
    async run(pair) {
      const { subject, peer } = pair
      subject.resume()
      peer.pause()
      // more than the other side takes from its kernel
      subject.write(Buffer.alloc(150_000))
      await settled()
      peer.destroy()
      await closed(pair)
    },
  },
  {
    name: 'the other side is gone while much is queued',
    has: 'error E',
    async run(pair) {
      const { subject, peer } = pair
      subject.pause()
      await settled()
      subject.write(Buffer.alloc(8 << 20))
      peer.pause()
      await settled()
      peer.destroy()
      await closed(pair)
    },
  },
  {
    name: 'end() behind much: finished when all has gone',
    has: 'got 3000005',
    async run(pair) {
      const { subject, peer, log } = pair
      let got = 0
      subject.write(Buffer.alloc(3_000_000), () => log.push('written'))
      subject.end('tail!')
      await settled()
      log.push(`finished ${subject.writableFinished}`)
      peer.on('data', (data) => {
        got += data.length
      })
      await once(peer, 'end')
      log.push(`got ${got}`)
      peer.end()
      subject.resume()
      await closed(pair)
    },
  },
  {
    name: 'pause and resume',
    has: 'data second',
    async run(pair) {
      const { subject, peer, log } = pair
      subject.on('data', (data: Buffer) => log.push(`data ${data}`))
      peer.write('first')
      await until(() => log.includes('data first'), 5000)
      subject.pause()
      peer.write('second')
      await settled()
      log.push('goes on')
      subject.resume()
      await until(() => log.includes('data second'), 5000)
      peer.end()
      await closed(pair)
    },
  },
  {
    name: 'setEncoding, strings in other encodings',
    has: 'data äö',
    async run(pair) {
      const { subject, peer, log } = pair
      subject.setEncoding('utf8')
      subject.on('data', (data: string) => log.push(`data ${data}`))
      peer.end(Buffer.from('äö'))
      const hearing = once(peer, 'data')
      subject.write('686921', 'hex')
      await closed(pair)
      // behind everything else: which of the two sockets has its data first is up to the kernel
      const [heard] = await hearing
      log.push(`peer heard ${heard}`)
    },
  },
  {
    name: 'setTimeout: one event, again after traffic, off with 0',
    has: 'timeout',
    async run(pair) {
      const { subject, peer, log } = pair
      subject.resume()
      subject.setTimeout(40, () => log.push('callback'))
      await once(subject, 'timeout')
      await sleep(120)
      log.push(`stands ${subject.readyState}`)
      peer.write('x')
      await once(subject, 'timeout')
      subject.setTimeout(0)
      peer.write('x')
      await sleep(120)
      subject.destroy()
      await closed(pair)
    },
  },
  {
    name: 'resetAndDestroy(), and once more',
    sides: ['client'],
    has: 'again',
    async run(pair) {
      const { subject, log } = pair
      // net knows it for TCP only
      if (subject instanceof vsock.Socket) subject.resetAndDestroy()
      else subject.destroy()
      await closed(pair)
      log.push('again')
      subject.destroy()
      await settled()
    },
  },
]

const cases = scenarios.flatMap((scenario) =>
  (scenario.sides ?? (['client', 'server'] as const)).map((side): [string, Scenario, Side] => [
    `${side}: ${scenario.name}`,
    scenario,
    side,
  ]),
)

test.each(cases)('%s', async (_name, scenario, side) => {
  const told: Record<Kind, unknown[]> = { net: [], vsock: [] }
  for (const kind of ['net', 'vsock'] as const) {
    await open(kind, side, scenario.options ?? {}, async (pair) => {
      await within(scenario.run(pair), 20_000, () => `${kind} stopped behind ${pair.log}`)
      told[kind] = [...pair.log, state(pair.subject)]
      pair.subject.destroy()
      pair.peer?.destroy()
    })
  }
  expect(
    told.net.some((one) => typeof one === 'string' && one.startsWith(scenario.has)),
    `${told.net}`,
  ).toBe(true)
  expect(told.vsock).toEqual(told.net)
})
