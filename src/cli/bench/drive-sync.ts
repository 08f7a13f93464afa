/**
 * Runs over the synchronous interface, which only vmring has: receiveSync() and trySend(), no event in between. The event loop
 * gets its turn between slices, for the notes of the other side.
 */
import { setImmediate as turn } from 'node:timers/promises'
import { clock } from './clock.js'
import type { ClientDriver } from './drive-event.js'
import { PATIENCE_MS, type Side } from './side.js'

const SLICE_MS = 50
const WAIT = { timeout: 10 }
const BRIEFLY = { timeout: 1 }
const MESSAGES_PER_LOOK = 64
/** attempts to send into a full ring before waiting for the event */
const SPINS = 2000

const cell = new Int32Array(new SharedArrayBuffer(4))

/** Takes messages until told to stop. */
export function receiveLoop(side: Side): { stop(): void; done: Promise<void> } {
  const { checker } = side
  const channel = side.link.channel!
  let stopped = false
  const loop = async () => {
    while (!stopped) {
      const end = performance.now() + SLICE_MS
      do {
        for (let i = 0; i < MESSAGES_PER_LOOK; i++) {
          const message = channel.receiveSync(WAIT)
          if (message === null) break
          checker.whole(message.view)
          message.release()
        }
      } while (performance.now() < end)
      await turn()
    }
  }
  return {
    stop: () => {
      stopped = true
    },
    done: loop(),
  }
}

export const pingSync: ClientDriver = async (side, meter) => {
  const { writer, checker } = side
  const { idleGap } = side.job
  const channel = side.link.channel!
  let answered = -1
  checker.onMessage = (sequence) => {
    answered = sequence
  }
  const now = clock()
  meter.begin(now)
  let slice = now + SLICE_MS
  for (let sequence = 0; ; sequence++) {
    const pause = idleGap > 0 ? meter.pause(clock()) : 0
    if (pause > 0) Atomics.wait(cell, 0, 0, pause)
    const begin = clock()
    while (writer.send(sequence) < 0 && clock() - begin < PATIENCE_MS);
    let end = begin
    do {
      const message = channel.receiveSync(WAIT)
      if (message !== null) {
        checker.whole(message.view)
        message.release()
      }
      end = clock()
    } while (answered !== sequence && end - begin < PATIENCE_MS)
    if (answered === sequence) meter.record(end - begin)
    if (!meter.tick(end)) return
    if (end > slice) {
      await turn()
      slice = clock() + SLICE_MS
    }
  }
}

export const pushSync: ClientDriver = async (side, meter) => {
  const { writer, link } = side
  const now = performance.now()
  meter.begin(now)
  let slice = now + SLICE_MS
  let sequence = 0
  for (;;) {
    let sent = 0
    let spins = 0
    let result = 1
    while (sent < MESSAGES_PER_LOOK && spins < SPINS && result !== 0) {
      result = writer.send(sequence)
      if (result < 0) {
        spins++
      } else {
        sent++
        sequence++
        meter.count()
      }
    }
    const time = performance.now()
    if (!meter.tick(time)) return
    if (sent < MESSAGES_PER_LOOK) {
      await drained(link)
      slice = performance.now() + SLICE_MS
    } else if (time > slice) {
      await turn()
      slice = performance.now() + SLICE_MS
    }
  }
}

function drained(link: Side['link']): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer)
      link.onDrain = () => {}
      resolve()
    }
    const timer = setTimeout(done, PATIENCE_MS)
    link.onDrain = done
  })
}

export const rateSync: ClientDriver = async (side, meter) => {
  const { writer, checker } = side
  const channel = side.link.channel!
  const interval = 1000 / side.job.rate
  const start = performance.now()
  checker.onMessage = (answer) => {
    const intended = start + answer * interval
    if (meter.measuring && intended >= meter.startedAt) meter.record(performance.now() - intended)
  }
  meter.begin(start)
  let slice = start + SLICE_MS
  for (let sequence = 0; ; ) {
    const now = performance.now()
    if (!meter.tick(now)) break
    if (start + sequence * interval <= now && writer.send(sequence) >= 0) sequence++
    const message = channel.receive()
    if (message !== null) {
      checker.whole(message.view)
      message.release()
    }
    if (now > slice) {
      await turn()
      slice = performance.now() + SLICE_MS
    }
  }
}

/** What is still under way when a driver has ended is taken meanwhile. */
export async function drainSync(side: Side, until: Promise<unknown>): Promise<void> {
  const channel = side.link.channel!
  let over = false
  const end = () => {
    over = true
  }
  until.then(end, end)
  while (!over) {
    for (;;) {
      const message = channel.receiveSync(BRIEFLY)
      if (message === null) break
      side.checker.whole(message.view)
      message.release()
    }
    await turn()
  }
}
