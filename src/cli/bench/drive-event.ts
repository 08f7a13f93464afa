/** Runs over events: the same for every transport. What sends in a handler and what waits for a handler is all there is. */
import { clock } from './clock.js'
import type { ClientReport, ServerReport } from './job.js'
import { Meter } from './meter.js'
import { PATIENCE_MS, type Side } from './side.js'

const nothing = (): void => {}
/** ms of work before others on the event loop get their turn */
const TURN_MS = 2
const MESSAGES_PER_LOOK = 64
/** ms: timers are as coarse as this */
const TIMER_MS = 2
/** bytes between two looks at the clock of the one who only receives */
const BYTES_PER_STAMP = 16 * 1024

export type ClientDriver = (side: Side, meter: Meter) => Promise<void>

/** Asks, and waits for the answer; then the next. */
export const pingEvent: ClientDriver = (side, meter) =>
  new Promise((resolve) => {
    const { writer, checker, link } = side
    const { idleGap } = side.job
    let sequence = 0
    let begin = 0
    let timer: NodeJS.Timeout | null = null
    const retry = () => {
      if (writer.send(sequence) >= 0) link.onDrain = nothing
    }
    const send = () => {
      begin = clock()
      if (writer.send(sequence) < 0) link.onDrain = retry
    }
    const next = () => {
      const pause = idleGap > 0 ? meter.pause(clock()) : 0
      if (pause > 0) timer = setTimeout(send, pause)
      else send()
    }
    const advance = (now: number) => {
      sequence++
      if (meter.tick(now)) {
        next()
        return
      }
      clearInterval(watch)
      checker.onMessage = nothing
      resolve()
    }
    checker.onMessage = (answer) => {
      const end = clock()
      if (answer !== sequence || begin === 0) return // one that was given up
      meter.record(end - begin)
      advance(end)
    }
    const watch = setInterval(
      () => {
        const now = clock()
        if (begin === 0 || now - begin < PATIENCE_MS + idleGap) return
        if (timer !== null) clearTimeout(timer)
        advance(now)
      },
      Math.max(500, idleGap / 2),
    ) // it must not be what idle costs
    meter.begin(clock())
    next()
  })

/** Sends as fast as it is taken. */
export const pushEvent: ClientDriver = (side, meter) =>
  new Promise((resolve) => {
    const { writer, link } = side
    let sequence = 0
    let stuck: NodeJS.Timeout | null = null
    const finish = () => {
      if (stuck !== null) clearInterval(stuck)
      link.onDrain = nothing
      resolve()
    }
    const pump = () => {
      link.onDrain = nothing
      const begin = performance.now()
      for (;;) {
        for (let i = 0; i < MESSAGES_PER_LOOK; i++) {
          const result = writer.send(sequence)
          if (result >= 0) {
            sequence++
            meter.count()
          }
          if (result <= 0) {
            link.onDrain = pump
            if (!meter.tick(performance.now())) finish()
            return
          }
        }
        const now = performance.now()
        if (!meter.tick(now)) return finish()
        if (now - begin > TURN_MS) {
          setImmediate(pump)
          return
        }
      }
    }
    // who never gets room again has to end too
    stuck = setInterval(() => {
      if (!meter.tick(performance.now())) finish()
    }, 500)
    meter.begin(performance.now())
    pump()
  })

/** Sends at a fixed rate, whatever comes back; times count from when a message was meant to go. */
export const rateEvent: ClientDriver = (side, meter) =>
  new Promise((resolve) => {
    const { writer, checker, link } = side
    const interval = 1000 / side.job.rate
    let sequence = 0
    const start = performance.now()
    checker.onMessage = (answer) => {
      const intended = start + answer * interval
      if (meter.measuring && intended >= meter.startedAt) meter.record(performance.now() - intended)
    }
    let blocked = false
    const step = () => {
      const now = performance.now()
      if (!meter.tick(now)) {
        link.onDrain = nothing
        resolve()
        return
      }
      for (let i = 0; i < MESSAGES_PER_LOOK && !blocked && start + sequence * interval <= now; i++) {
        const result = writer.send(sequence)
        if (result >= 0) sequence++
        blocked = result <= 0
      }
      const wait = start + sequence * interval - performance.now()
      if (wait > TIMER_MS) setTimeout(step, wait - TIMER_MS)
      else setImmediate(step)
    }
    link.onDrain = () => {
      blocked = false
    }
    meter.begin(start)
    step()
  })

/** Answers each message with one of the same number, in order, also when there is no room at once. */
export function answer(side: Side): () => boolean {
  const { writer, checker, link } = side
  const waiting: number[] = []
  let blocked = false
  const flush = () => {
    blocked = false
    while (waiting.length > 0 && !blocked) {
      const result = writer.send(waiting[0]!)
      if (result >= 0) waiting.shift()
      blocked = result <= 0
    }
  }
  link.onDrain = flush
  checker.onMessage = (sequence) => {
    if (blocked || waiting.length > 0) {
      waiting.push(sequence)
      return
    }
    const result = writer.send(sequence)
    if (result < 0) waiting.push(sequence)
    blocked = result <= 0
  }
  return () => waiting.length === 0
}

/** When messages arrived, looked at often enough for a rate. */
export class Arrivals {
  count = 0
  at = 0
  #next = 0
  readonly #step: number

  constructor(size: number) {
    this.#step = Math.max(1, Math.floor(BYTES_PER_STAMP / size))
  }

  take(received: number): void {
    if (received < this.#next) return
    this.count = received
    this.at = performance.now()
    this.#next = received + this.#step
  }
}

/** The answering side, whatever the interface: `idle` resolves when messages have been taken up to now. */
export async function serve(side: Side, stopping: () => void): Promise<ServerReport> {
  const { checker, control, job } = side
  const arrivals = new Arrivals(job.size)
  let answered = () => true
  if (job.test === 'throughput') checker.onMessage = () => arrivals.take(checker.received)
  else answered = answer(side)
  let first = { count: 0, at: performance.now() }
  control.send({ type: 'ready' })
  const measured = control.next('measure').then(() => {
    first = { count: checker.received, at: performance.now() }
    side.mark()
  })
  const { sent } = await control.next('stop')
  await measured
  await side.settle(sent)
  stopping()
  const until = performance.now() + PATIENCE_MS
  while (!answered() && performance.now() < until) await new Promise((done) => setImmediate(done))
  if (job.test !== 'throughput') arrivals.take(checker.received)
  const samples = arrivals.count - first.count
  return { ...side.report(), samples, seconds: (arrivals.at - first.at) / 1000 }
}

/** The asking side, around a driver. */
export async function ask(
  side: Side,
  drive: ClientDriver,
  openNanoseconds: number,
): Promise<{ client: ClientReport; server: ServerReport }> {
  const { control, job } = side
  const meter = new Meter(job, () => {
    side.mark()
    control.send({ type: 'measure' })
  })
  await control.next('ready')
  await drive(side, meter)
  const own = side.report()
  control.send({ type: 'stop', sent: side.writer.sent })
  const { report: server } = await control.next('done')
  await side.settle(server.sent)
  control.send({ type: 'over' })
  const { received, reordered, duplicated, changed } = side.report()
  const client: ClientReport = {
    ...own,
    ...{ received, reordered, duplicated, changed, openNanoseconds },
    samples: meter.samples,
    seconds: meter.seconds,
    ...(job.test !== 'throughput' && { histogram: meter.encoded() }),
  }
  return { client, server }
}
