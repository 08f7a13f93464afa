// Decodes messages that another process changes all the while: text(), json() and a port's structured clone. No crash, and what
// is decoded is made of words that stood there at some moment of the copying.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { PortTransfer } from '../../dist/channel/port-transfer.js'
import { attach } from '../../dist/index.js'
import { LENGTHS, ROUND, VERSIONS, versionsIn } from './torn-words.mjs'

const transfer = new PortTransfer(() => {})
const decoders = {
  text: (message) => message.text(),
  'long text': (message) => message.text(),
  json: (message) => message.json(),
  clone: (message) => transfer.decode(message.copy()).value,
}

/**
 * @param how { seconds, attempts(kind) }: for each kind, whichever is reached first
 * @returns {{ kind, attempts, changed, checked, failures: string[] }[]} changed: decoded from words of several versions;
 *   checked: few enough versions can have been there for the check to mean something
 */
export async function torn({
  seconds = Number.POSITIVE_INFINITY,
  attempts = () => Number.POSITIVE_INFINITY,
}) {
  const directory = mkdtempSync(join(tmpdir(), 'vmring-torn-'))
  const region = `file:${join(directory, 'region')}`
  let writer
  let peer
  try {
    writeFileSync(join(directory, 'region'), new Uint8Array(2 ** 24))
    peer = await attach({ region, relay: null })
    const server = await peer.listen('torn')
    writer = fork(fileURLToPath(new URL('torn-writer.mjs', import.meta.url)), [peer.region], {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    const gone = once(writer, 'exit').then(() => Promise.reject(new Error('the writer is gone')))
    gone.catch(() => {})
    const [channel] = await Promise.race([once(server, 'channel'), gone])
    const messages = []
    while (messages.length < 2 * Object.keys(LENGTHS).length) {
      const message = channel.receive()
      if (message === null) await new Promise((done) => setTimeout(done, 5))
      else messages.push(message.retain())
    }
    const results = []
    for (const [i, kind] of Object.keys(LENGTHS).entries()) {
      writer.send({ kind })
      results.push(
        await decode(
          kind,
          messages[2 * i],
          messages[2 * i + 1],
          seconds,
          attempts(kind),
          () => writer.exitCode === null,
        ),
      )
    }
    return results
  } finally {
    writer?.kill('SIGKILL')
    await peer?.close()
    rmSync(directory, { recursive: true, force: true })
  }
}

async function decode(kind, clockMessage, message, seconds, most, alive) {
  const { view } = clockMessage
  const clock = new Int32Array(view.buffer, view.byteOffset, 2)
  const until = performance.now() + seconds * 1000
  const result = { kind, attempts: 0, changed: 0, checked: 0, failures: [] }
  const found = []
  const more = () =>
    // beyond the time too, until the two have met
    alive() && (performance.now() < until || (result.changed === 0 && performance.now() < until + 30_000))
  while (result.attempts < most && result.failures.length === 0 && more()) {
    for (let i = 0; i < 256; i++) {
      const first = Atomics.load(clock, 1)
      let value
      try {
        value = decoders[kind](message)
      } catch (error) {
        result.failures.push(`${error?.stack ?? error}`)
        break
      }
      const last = Atomics.load(clock, 0)
      result.attempts++
      found.length = 0
      versionsIn[kind](value, found)
      if (found.length !== LENGTHS[kind])
        result.failures.push(`${found.length} words where ${LENGTHS[kind]} were`)
      if (found.some((version) => version !== found[0])) result.changed++
      const span = (last - first + ROUND) % ROUND
      if (span >= VERSIONS) continue
      result.checked++
      const from = first % VERSIONS
      const bad = found.find((version) => !((version - from + VERSIONS) % VERSIONS <= span))
      if (bad !== undefined) result.failures.push(`version ${bad} between ${from} and ${from + span}`)
    }
    // the reader's loop must turn, the writer's process may be gone
    if (result.attempts % 65536 === 0) await new Promise(setImmediate)
  }
  if (!alive()) result.failures.push('the writer is gone')
  return result
}
