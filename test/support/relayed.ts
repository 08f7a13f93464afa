/** Peers in processes of their own that share a relay, and perhaps a region, with numbered messages going both ways. */
import { afterEach, expect } from 'vitest'
import type { Channel, Message, Peer, Server } from '../../src/index.js'
import { type Daemon, sleep } from './processes.js'
import { type Remote, remote } from './remote.js'

export interface State {
  peer: Peer
  server: Server
  channel: Channel
  sent: number
  got: number
  wrong: number
  /** which messages came changed; leases that changed later count in `wrong` alone */
  wrongAt: number[]
  paths: string[]
  over: boolean
  ended: string | null
  writing: Promise<void>
  /** ms without a message */
  longest: number
  /** leases that are kept for a while, and what they must still say then */
  held: { message: Message; number: number }[]
}

/** Those that are killed with the test. */
export const open: Remote<State>[] = []
afterEach(async () => {
  for (const one of open.splice(0)) one.child.kill('SIGKILL')
})

export async function peer(region: string | null, relay: string): Promise<Remote<State>> {
  const one = await remote<State>()
  open.push(one)
  await one.run(
    async ({ vmring, state }, where, how) => {
      state.peer = await vmring.attach({ region: where, relay: how })
    },
    region,
    relay,
  )
  return one
}

export const relayOf = (daemon: Daemon): string => `unix:${daemon.socket}.relay`
export const regionOf = (daemon: Daemon): string => `unix:${daemon.socket}`

/** Opens 'orders' from one to the other, and keeps numbered messages of random sizes going both ways. */
export async function traffic(from: Remote<State>, to: Remote<State>, options: object = {}): Promise<void> {
  const begin = async (
    { vmring: _, state, sleep: pause }: { vmring: unknown; state: State; sleep(ms: number): Promise<void> },
    channel?: Channel,
  ) => {
    if (channel !== undefined) state.channel = channel
    Object.assign(state, {
      sent: 0,
      got: 0,
      wrong: 0,
      wrongAt: [],
      paths: [],
      over: false,
      ended: null,
      longest: 0,
      held: [],
    })
    const { channel: c } = state
    let last = performance.now()
    c.on('path', (name) => state.paths.push(name))
    c.closed.then((error) => {
      state.ended = (error as { code?: string } | null)?.code ?? 'in order'
    })
    c.on('message', (message) => {
      const now = performance.now()
      state.longest = Math.max(state.longest, now - last)
      last = now
      const bytes = message.copy()
      const view = new DataView(bytes.buffer, bytes.byteOffset)
      const number = view.getUint32(0)
      if (number !== state.got || bytes.some((byte, at) => at >= 4 && byte !== (number & 255))) {
        state.wrong++
        state.wrongAt.push(state.got)
      }
      state.got++
      if (number % 50 === 0 && state.held.length < 8) state.held.push({ message: message.retain(), number })
      else if (number % 50 === 49) {
        const old = state.held.shift()
        if (old === undefined) return
        const { view } = old.message
        if (new DataView(view.buffer, view.byteOffset).getUint32(0) !== old.number) state.wrong++
        if (view.some((byte, at) => at >= 4 && byte !== (old.number & 255))) state.wrong++
        old.message.release()
      }
    })
    const write = async () => {
      while (!state.over && state.ended === null) {
        const bytes = new Uint8Array(4 + ((state.sent * 7919) % 3000)).fill(state.sent & 255)
        new DataView(bytes.buffer).setUint32(0, state.sent)
        await c.send(bytes)
        state.sent++
        if (state.sent % 8 === 0) await pause(0)
      }
    }
    state.writing = write().catch(() => {})
  }
  await to.run(async ({ state, tell }) => {
    state.server = await state.peer.listen('orders')
    state.server.once('channel', (channel: Channel) => {
      state.channel = channel
      tell('accepted')
    })
  })
  await from.run(async ({ state }, how) => {
    state.channel = await state.peer.connect('orders', { wait: 20_000, ...how })
  }, options)
  await to.next()
  await Promise.all([from.run(begin as never), to.run(begin as never)])
}

export const path = (one: Remote<State>) => one.run(({ state }) => state.channel.path)
export const got = (one: Remote<State>) => one.run(({ state }) => state.got)

export async function until(what: string, test: () => Promise<boolean>, limit = 50_000): Promise<void> {
  const deadline = performance.now() + limit
  while (!(await test())) {
    if (performance.now() > deadline) throw new Error(`${what} did not come about`)
    await sleep(20)
  }
}

export async function flowing(...all: Remote<State>[]): Promise<void> {
  for (const one of all) {
    const before = await got(one)
    await until('traffic', async () => (await got(one)) > before + 50)
  }
}

/** Ends the traffic; everything that was sent has come, once and in order. Returns what each has received. */
export async function settle(a: Remote<State>, b: Remote<State>): Promise<number[]> {
  const finish = async ({ state }: { state: State }) => {
    state.over = true
    await state.writing
    return state.sent
  }
  const [fromA, fromB] = await Promise.all([a.run(finish as never), b.run(finish as never)])
  await until('the last delivery', async () => (await got(b)) === fromA && (await got(a)) === fromB)
  for (const one of [a, b])
    expect(await one.run(({ state }) => [state.wrong, state.ended])).toEqual([0, null])
  return [fromB, fromA] as number[]
}
