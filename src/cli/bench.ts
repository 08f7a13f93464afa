/** `vmring bench`: how fast messages are, beside what else there is and beside what the machine allows. */
import { writeFileSync } from 'node:fs'
import { Command } from 'commander'
import { parseSeconds } from '../host/options.js'
import type { Test } from './bench/job.js'
import type { BenchOptions } from './bench/plan.js'
import { onInterrupt } from './interrupt.js'

const FOREVER_MS = 2 ** 31 - 1
const about: Record<Test, string> = {
  latency: 'round trips, one after the other: a message there and back, then the next',
  throughput: 'one way, as fast as it is taken',
  rate: 'at a fixed rate, times from when each message was meant to be sent',
  scale: 'round trips beside other peers and idle channels; what a channel costs to open and to have',
}

export function benchCommand(): Command {
  const bench = new Command('bench')
    .summary('measure latency and throughput')
    .description(
      'Measures between two processes of this machine, or between two guests (--listen in one, --connect in the other). ' +
        'Transports take turns in fresh processes; floors in C++ stand beside them. The exit code is 0 only when nothing was ' +
        'lost, doubled or out of order.',
    )
    .addHelpText(
      'after',
      `
Examples:
  $ vmring bench latency --transport shm,unix --mode busy,adaptive
  $ vmring bench throughput --size 64,1k,64k,1m --html report.html
  $ vmring bench rate --rate 20000 --hgrm rate.hgrm
  $ vmring bench scale --channels 1,1000 --peers 2,32
  $ vmring bench latency --listen bench                    in one guest
  $ vmring bench latency --connect bench --json -          in the other`,
    )
  for (const test of Object.keys(about) as Test[]) bench.addCommand(testCommand(test))
  return bench
}

function testCommand(test: Test): Command {
  const scale = test === 'scale'
  return new Command(test)
    .summary(about[test])
    .description(`Measures ${about[test]}.`)
    .option(
      '--transport <list>',
      'shm, socket (vmring/net), unix, tcp, messageport, zeromq, vsock (default: shm,unix; between machines shm,socket)',
    )
    .option('--mode <list>', 'how peers wait: busy, adaptive, event', 'busy,adaptive')
    .option('--size <list>', 'of messages: 64,1k,64k,1m', '64')
    .option('--api <list>', 'of shm: sync, event, iterate', 'event')
    .option('--fill <list>', 'of shm: copy (trySend), reserve (fill in place)', 'copy')
    .option('--touch <list>', 'what the receiver reads: header, all (a checksum over every byte)', 'header')
    .option('--idle-gap <ms>', 'pause before each message', '0')
    .option('--duration <s>', 'of the measured time of a run', '1')
    .option('--warmup <s>', 'before it', '0.5')
    .option('--runs <n>', 'of each combination', '5')
    .option('--rate <n>', 'messages per second (bench rate)', '10000')
    .option('--peers <list>', 'processes in the region (bench scale: several)', '2')
    .option('--channels <list>', 'open at once (bench scale: several)', scale ? '1,100' : '1')
    .option('--ring <size>', 'of each ring (default: eight messages, 64K to 16M)')
    .option('--cpu <a,b>', 'processors of the two sides')
    .option('--region <region>', 'instead of a daemon of its own; in guests: as attach() finds it')
    .option('--listen <service>', 'be the answering side for another machine')
    .option('--connect <service>', 'be the asking side')
    .option('--wait <s>', 'for the other side (--connect)', '60')
    .option('--json <file>', 'all runs as JSON; - for standard output')
    .option('--hgrm <file>', 'round trips as HdrHistogram percentiles')
    .option('--svg <file>', 'the picture')
    .option('--html <file>', 'a page with all of it')
    .action((options: BenchOptions) => run(test, options))
}

async function run(test: Test, options: BenchOptions): Promise<void> {
  const { checkOutputs, planOf } = await import('./bench/plan.js')
  const plan = await planOf(test, options)
  checkOutputs(options)
  const wait = options.listen === undefined ? parseSeconds(options.wait, '--wait') : FOREVER_MS
  const { Session } = await import('./bench/session.js')
  let printed = false
  const finish = () => {
    if (printed) return
    printed = true
    session.quiet()
    output(session.report(), options)
  }
  // first: with the session begins what would be left behind
  const interrupt = onInterrupt(async () => {
    finish()
    await session.clear()
  })
  const session = new Session(plan, options)
  try {
    await session.run(wait)
    finish()
    if (session.faulty) process.exitCode = 1
  } catch (error) {
    if (!interrupt.signal.aborted) finish()
    throw error
  } finally {
    await session.clear()
    // after a signal the handler ends the process
    if (interrupt.signal.aborted) await new Promise(() => setInterval(() => {}, 1000))
    interrupt.dispose()
  }
}

type Outputs = ReturnType<InstanceType<typeof import('./bench/session.js').Session>['report']>

function output(made: Outputs, options: BenchOptions): void {
  if (made === null) return
  const json = `${JSON.stringify(made.json, null, 2)}\n`
  if (options.json === '-') process.stdout.write(json)
  else process.stdout.write(made.text())
  if (options.json !== undefined && options.json !== '-') writeFileSync(options.json, json)
  if (options.hgrm !== undefined)
    for (const [path, text] of made.hgrm(options.hgrm)) writeFileSync(path, text)
  if (options.svg !== undefined) writeFileSync(options.svg, made.svg())
  if (options.html !== undefined) writeFileSync(options.html, made.html())
}
