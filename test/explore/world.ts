/**
 * Two peers whose every move is made by a scheduler: frames lie in queues until they are delivered, timers stand still
 * until they are fired, paths end and return when told, applications do one thing at a time. What runs is the real
 * session layer over real rings in memory; only wires, clock and applications are made here.
 */
import { Channel } from '../../src/channel/channel.js'
import { native } from '../../src/native/binding.js'
import type { Path } from '../../src/path/path.js'
import { FramePath } from '../../src/path/pump.js'
import { defaultTiming } from '../../src/session/repeat.js'
import type { Session } from '../../src/session/session.js'
import { type FakeTimer, FakeTimers } from './fake-timers.js'
import {
  type Deviation,
  type Due,
  Lane,
  LaneWire,
  type PathSpec,
  type Scenario,
  Side,
  type SideName,
  type Step,
  type Way,
} from './parts.js'
import { Sections, SharedPath } from './shared.js'

const CAPACITY = 4096
const FIRST_TURNS = 2
const host = { hold(): void {}, drop(): void {}, counters: () => null }

export class World {
  readonly timers = new FakeTimers()
  readonly scenario: Scenario
  a: Side
  b: Side
  readonly #ways: Way[] = []
  readonly #sections = new Sections()
  /** what is about to happen on its own: somebody learns of a loss, a path returns */
  readonly #news: Due[] = []
  #clock = 0
  /** the schedule has done what excuses an error of that kind */
  excuses = { lost: false, gone: false, reset: false, pathTrouble: false }

  constructor(scenario: Scenario) {
    this.scenario = scenario
    this.timers.install()
    this.a = new Side('a', 1)
    this.b = new Side('b', 7)
  }

  tick(): number {
    return ++this.#clock
  }

  #other(side: Side): Side {
    return side === this.a ? this.b : this.a
  }

  // ---- paths -----------------------------------------------------------------------------------------------------

  link(spec: PathSpec): void {
    const way = this.#make(spec)
    this.#ways.push(way)
    this.a.hub.addPath(way.paths.a)
    this.b.hub.addPath(way.paths.b)
  }

  #make(spec: PathSpec): Way {
    const { a, b } = this
    const lanes: [Lane, Lane] = [new Lane(this, `${spec.name}>b`), new Lane(this, `${spec.name}>a`)]
    if (spec.kind === 'shared') {
      const keeps = spec.keepsOutbox === true
      const pa = new SharedPath(spec.name, b.ref, keeps, true, this.#sections, (frame) =>
        lanes[0].push(frame),
      )
      const pb = new SharedPath(spec.name, a.ref, keeps, false, this.#sections, (frame) =>
        lanes[1].push(frame),
      )
      lanes[0].sink = (bytes) => pb.events?.onFrame(pb, bytes)
      lanes[1].sink = (bytes) => pa.events?.onFrame(pa, bytes)
      return {
        spec,
        lanes,
        paths: { a: pa, b: pb },
        lose: { a: () => pa.lose(), b: () => pb.lose() },
        alive: true,
      }
    }
    const wa = new LaneWire(spec.name, lanes[0])
    const wb = new LaneWire(spec.name, lanes[1])
    const pa = new FramePath(wa, b.ref, { capacity: CAPACITY })
    const pb = new FramePath(wb, a.ref, { capacity: CAPACITY })
    lanes[0].sink = (bytes) => wb.events?.onFrame(bytes)
    lanes[1].sink = (bytes) => wa.events?.onFrame(bytes)
    const error = new Error(`wire ${spec.name} was cut`)
    const lose = { a: () => wa.events?.onLost(error), b: () => wb.events?.onLost(error) }
    return { spec, lanes, paths: { a: pa, b: pb }, lose, alive: true }
  }

  #lose(way: Way): void {
    way.alive = false
    this.excuses.pathTrouble = true
    if (way.spec.kind === 'shared' && way.spec.keepsOutbox !== true) this.excuses.lost = true
    if (this.scenario.returns !== true && !this.#ways.some((one) => one.alive)) this.excuses.lost = true
    for (const lane of way.lanes) {
      lane.open = false
      lane.queue.length = 0
    }
    let told = 0
    const tell = (side: Side, lose: () => void): void => {
      this.#soon(`${side.name} learns that ${way.spec.name} is lost`, () => {
        if (side.alive) lose()
        if (++told === 2 && this.scenario.returns === true) this.#comesBack(way.spec)
      })
    }
    tell(this.a, way.lose.a)
    tell(this.b, way.lose.b)
  }

  #comesBack(spec: PathSpec): void {
    const way = this.#make(spec)
    this.#ways.push(way)
    for (const side of [this.a, this.b]) {
      this.#soon(`${spec.name} returns for ${side.name}`, () => {
        if (side.alive && !side.bereft && !this.#other(side).bereft) side.hub.addPath(way.paths[side.name])
      })
    }
  }

  #soon(label: string, run: () => void): void {
    this.#news.push({ label, run, since: this.tick() })
  }

  // ---- processes -------------------------------------------------------------------------------------------------

  /** The process is gone: nothing of it runs any more; the other side hears of it some time later. */
  #die(side: Side, restart: boolean): void {
    const left = this.#other(side)
    this.excuses.gone = true
    this.excuses.pathTrouble = true
    side.alive = false
    side.script = []
    side.hub.closed = true
    for (const { message } of side.held.splice(0)) message.release()
    const into = side.name === 'a' ? 1 : 0
    const late: Uint8Array[] = []
    for (const way of this.#ways) {
      late.push(...way.lanes[into].queue.map((frame) => frame.bytes))
      way.lanes[into].queue.length = 0
      way.lanes[into].open = false
      way.lanes[1 - into]!.open = false
      this.#sections.abandon(way.paths[side.name] as Path)
    }
    side.hub.peerGone(left.ref)
    this.#soon(`${left.name} learns that ${side.name} has gone`, () => {
      left.bereft = true
      left.hub.peerGone(side.ref)
      for (const way of this.#ways) way.alive = false
      if (restart) this.#restart(side, late)
    })
  }

  /** The same program anew, reached by the same ways. What was meant for the old life arrives at the new one. */
  #restart(dead: Side, late: Uint8Array[]): void {
    const fresh = new Side(dead.name, dead.ref.incarnation + 1)
    this[dead.name] = fresh
    fresh.bereft = true
    for (const { name, kind } of this.scenario.paths) {
      const way = this.#make({ name, kind })
      this.#ways.push(way)
      this.a.hub.addPath(way.paths.a)
      this.b.hub.addPath(way.paths.b)
      for (const bytes of late) way.lanes[dead.name === 'a' ? 1 : 0].push(bytes)
    }
    fresh.hub.listen({
      service: 'orders',
      maxMessageSize: 65536,
      decline: () => null,
      onSession: () => fail('a frame of a former life opened a channel'),
    })
  }

  // ---- applications ----------------------------------------------------------------------------------------------

  /** Opens the channel, without deviations. */
  async open(): Promise<void> {
    for (const spec of this.scenario.paths) this.link(spec)
    const { a, b } = this
    b.hub.listen({
      service: 'orders',
      maxMessageSize: 65536,
      decline: () => null,
      onSession: (session) => this.#adopt(b, session),
    })
    await this.#untilQuiet()
    const connecting = a.hub.connect('orders', { ringSize: CAPACITY })
    connecting.then((session) => this.#adopt(a, session)).catch(() => {})
    await this.#untilQuiet()
    await connecting
    a.script = [...this.scenario.a]
    b.script = [...this.scenario.b]
  }

  #adopt(side: Side, session: Session): void {
    side.session = session
    side.channel = new Channel(session, host)
    side.channel.on('end', () => {
      side.ended = true
    })
    side.channel.receive()
  }

  async #untilQuiet(): Promise<void> {
    await this.settle()
    for (let due = this.#fair(); due.length > 0; due = this.#fair()) {
      due[0]!.run()
      await this.settle()
    }
  }

  /** Lets everything happen that happens by itself: promises, ticks, reports of the rings. */
  async settle(): Promise<void> {
    let before = -1
    for (let turn = 0; turn < FIRST_TURNS || before !== this.#clock; turn++) {
      before = this.#clock
      await new Promise((resolve) => setImmediate(resolve))
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  #act(side: Side, action: string): void {
    const channel = side.channel!
    const [verb, name] = action.split(':')
    switch (verb) {
      case 'send':
        if (!channel.writable) return
        channel.send(side.sending.message(side.sending.next++)).then(
          () => {
            side.accepted++
          },
          () => {},
        )
        return
      case 'use':
        side.wishes++
        channel.usePath(name!).then(
          () => side.wishes--,
          (error) => {
            side.wishes--
            side.wishErrors.push(error)
          },
        )
        return
      case 'end':
        channel.end()
        return
      case 'close':
        // what is still on its way to the one who closes is thrown away
        this.excuses.reset = true
        channel.close().catch(() => {})
        return
      case 'destroy':
        this.excuses.reset = true
        channel.destroy()
        return
      default:
        throw new Error(`unknown action ${action}`)
    }
  }

  #read(side: Side): void {
    side.readSince = null
    const message = side.channel!.receive()
    if (message === null) return
    const sequence = side.receiving.next
    side.receiving.accept(message.view)
    if (this.scenario.holdEvery !== undefined && sequence % this.scenario.holdEvery === 0) {
      side.held.push({ message: message.retain(), sequence, since: this.tick() })
    } else {
      message.release()
    }
  }

  #letGo(side: Side): void {
    const { message, sequence } = side.held.shift()!
    if (Buffer.compare(message.view, side.receiving.message(sequence)) !== 0)
      fail(`held message ${sequence} changed`)
    message.release()
  }

  // ---- what may happen next --------------------------------------------------------------------------------------

  /** Everything that is due, the oldest first. Timers are not: they run when nothing else does. */
  #fair(): Due[] {
    const due: Due[] = [...this.#news.map((one) => ({ ...one, run: () => this.#announce(one) }))]
    for (const way of this.#ways) {
      for (const lane of way.lanes) {
        const head = lane.queue[0]
        if (head !== undefined) due.push({ ...head, run: () => lane.deliver() })
      }
    }
    for (const side of [this.a, this.b]) this.#applicationDue(side, due)
    return due.sort((x, y) => x.since - y.since)
  }

  #announce(one: Due): void {
    this.#news.splice(this.#news.indexOf(one), 1)
    one.run()
  }

  #applicationDue(side: Side, due: Due[]): void {
    const { session, name } = side
    if (session === null || !side.alive) return
    const [action] = side.script
    if (action !== undefined) {
      due.push({
        label: `${name} ${action}`,
        since: side.scriptSince,
        run: () => {
          side.script.shift()
          side.scriptSince = this.tick()
          this.#act(side, action)
        },
      })
    }
    if (session.receiveId >= 0 && native.endCounters(session.receiveId).readable) {
      side.readSince ??= this.tick()
      due.push({ label: `${name} reads`, since: side.readSince, run: () => this.#read(side) })
    }
    const [held] = side.held
    if (held !== undefined)
      due.push({ label: `${name} lets go`, since: held.since + 12, run: () => this.#letGo(side) })
  }

  /** The first is what happens in the fair order; each of the others is one deviation. */
  steps(mayDeviate: boolean): Step[] {
    const due = this.#fair()
    const timers = this.timers.pending()
    const steps: Step[] = due.length > 0 ? [...due] : []
    if (steps.length === 0 && timers[0] !== undefined) {
      const [timer] = timers
      steps.push({ label: `timer ${timer.label}`, run: () => this.timers.fire(timer) })
    }
    if (!mayDeviate) return steps.slice(0, 1)
    const wants = (kind: Deviation): boolean => this.scenario.deviations.includes(kind)
    for (const way of this.#ways) {
      for (const lane of way.lanes) this.#unruly(lane, steps, wants)
      if (wants('lose') && way.alive)
        steps.push({ label: `lose ${way.spec.name}`, run: () => this.#lose(way) })
    }
    if (wants('timer') && due.length > 0) {
      for (const timer of timers) {
        if (this.timers.isRetransmission(timer)) continue
        steps.push({ label: `timer ${timer.label} early`, run: () => this.#hurry(timer) })
      }
    }
    for (const side of [this.a, this.b]) this.#impulses(side, steps, wants)
    return steps
  }

  /** Patience may run out before the path that returns is there, but not once it is. */
  #hurry(timer: FakeTimer): void {
    const bare = [this.a, this.b].some(({ session }) => session?.remote.livePath() === null)
    if (timer.delay === defaultTiming.pathGrace && bare) this.excuses.lost = true
    this.timers.fire(timer)
  }

  #unruly(lane: Lane, steps: Step[], wants: (kind: Deviation) => boolean): void {
    const [head, second] = lane.queue
    if (head === undefined) return
    if (wants('drop')) steps.push({ label: `drop ${head.label}`, run: () => lane.queue.shift() })
    if (wants('double')) {
      steps.push({
        label: `double ${head.label}`,
        run: () => {
          lane.queue.push({ ...head, since: this.tick() + 15 })
          lane.deliver()
        },
      })
    }
    if (wants('overtake') && second !== undefined) {
      steps.push({ label: `overtake with ${second.label}`, run: () => lane.deliver(1) })
      const last = lane.queue.length - 1
      if (last > 1)
        steps.push({ label: `overtake with ${lane.queue[last]!.label}`, run: () => lane.deliver(last) })
    }
  }

  #impulses(side: Side, steps: Step[], wants: (kind: Deviation) => boolean): void {
    const { session, name } = side
    if (session === null || !side.alive || session.state === 'closed') return
    if (wants('use')) {
      for (const path of this.scenario.paths) {
        steps.push({ label: `${name} use:${path.name}`, run: () => this.#act(side, `use:${path.name}`) })
      }
    }
    for (const verb of ['end', 'close', 'destroy'] as const) {
      if (wants(verb)) steps.push({ label: `${name} ${verb}`, run: () => this.#act(side, verb) })
    }
    if (this.#other(side).bereft || side.bereft) return
    if (wants('die')) steps.push({ label: `${name} dies`, run: () => this.#die(side, false) })
    if (wants('restart')) steps.push({ label: `${name} restarts`, run: () => this.#die(side, true) })
  }

  // ---- judging ---------------------------------------------------------------------------------------------------

  /** What must hold after every step. Throws. */
  check(): void {
    this.#sections.check()
    for (const side of [this.a, this.b]) {
      const { session } = side
      if (session === null) continue
      if (session.epoch < side.highestEpoch) fail(`${side.name} went back to epoch ${session.epoch}`)
      side.highestEpoch = session.epoch
      const { error } = session
      if (error !== null) this.#excuse(side.name, error)
      for (const wish of side.wishErrors) this.#excuseWish(side.name, wish, session)
    }
    const [p, o] = [this.a.session, this.b.session]
    if (p === null || o === null || p.state === 'closed' || o.state === 'closed') return
    if (p.epoch > o.epoch) fail(`the proposer is at epoch ${p.epoch} before the other side (${o.epoch})`)
    if (p.epoch === o.epoch && (p.sendBase !== o.receiveBase || p.receiveBase !== o.sendBase)) {
      fail(
        `counts differ in epoch ${p.epoch}: ${p.sendBase}/${p.receiveBase} and ${o.sendBase}/${o.receiveBase}`,
      )
    }
  }

  #excuse(name: SideName, error: Error): void {
    const { code } = error as { code?: string }
    const { excuses } = this
    if (code === 'ERR_VMRING_PEER_GONE' && excuses.gone) return
    if (code === 'ERR_VMRING_PATH_LOST' && (excuses.lost || excuses.gone)) return
    if (code === 'ERR_VMRING_RESET' && (excuses.lost || excuses.reset || excuses.gone)) return
    fail(`${name} ended with ${code}: ${error.message}`)
  }

  #excuseWish(name: SideName, error: Error, session: Session): void {
    if (this.excuses.pathTrouble || this.excuses.reset || session.state === 'closed') return
    const { code } = error as { code?: string }
    // The scheduler may let the time limit of a change run out.
    if (code === 'ERR_VMRING_NO_PATH' && this.scenario.deviations.includes('timer')) return
    fail(`${name}: usePath failed: ${error.message}`)
  }

  /** Why this is not yet the calm after everything; null when it is. */
  unsettled(): string | null {
    const sides = [this.a, this.b].filter((side) => side.alive && side.session !== null)
    const open = sides.filter(({ session }) => session!.state !== 'closed')
    for (const side of sides) {
      const { session, name } = side
      if (side.script.length > 0) return `${name} has more to do`
      if (side.held.length > 0) return `${name} holds a message`
      if (session!.state === 'moving') return `${name} is moving`
      if (session!.state !== 'closed' && side.wishes > 0) return `${name} waits for a path`
      if (session!.retired.size > 0) return `${name} keeps ${session!.retired.size} old ends`
    }
    if (open.length === 0) return null
    if (open.length === 1)
      return this.excuses.gone ? `${open[0]!.name} is alone` : `only ${open[0]!.name} is open`
    const [p, o] = [this.a.session!, this.b.session!]
    if (p.epoch !== o.epoch || p.path.name !== o.path.name)
      return `${p.path.name}@${p.epoch} and ${o.path.name}@${o.epoch}`
    if (this.a.accepted !== this.b.receiving.next || this.b.accepted !== this.a.receiving.next)
      return 'messages are on their way'
    return null
  }

  /** Ends the conversation in order. */
  finish(): void {
    for (const side of [this.a, this.b]) if (side.alive) side.channel?.end()
  }

  get over(): boolean {
    return [this.a, this.b].every((side) => !side.alive || side.hub.sessionCount === 0)
  }

  /** After the end: everything arrived, or there is an excuse; and no memory is left. */
  verdict(): void {
    const { excuses } = this
    if (!excuses.lost && !excuses.gone && !excuses.reset) {
      if (this.a.accepted !== this.b.receiving.next || this.b.accepted !== this.a.receiving.next) {
        fail(
          `lost: ${this.b.receiving.next} of ${this.a.accepted} and ${this.a.receiving.next} of ${this.b.accepted} arrived`,
        )
      }
      if (!this.a.ended || !this.b.ended) fail('no end of the stream was told')
    }
    this.#sections.checkEmpty()
  }

  takeDown(): void {
    for (const side of [this.a, this.b]) {
      for (const { message } of side.held.splice(0)) message.release()
      side.hub.closed = true
      for (const remote of [...side.hub.remotes.values()]) side.hub.peerGone(remote.ref)
    }
    for (const way of this.#ways) {
      for (const path of [way.paths.a, way.paths.b])
        if (path instanceof FramePath) path.close(new Error('the world ends'))
    }
    this.#sections.destroy()
    this.timers.uninstall()
  }
}

export class Violation extends Error {}

export function fail(why: string): never {
  throw new Violation(why)
}
