// One target, in a process of its own.
//   node run.mjs TARGET '{"seconds":10,"seed":1,"corpus":["DIR"],"keep":"DIR","crashes":"DIR"}'      prints one JSON line
//   node run.mjs TARGET FILE ...                                                                      runs these inputs
import { createHash } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { attempt, fuzz } from './engine.mjs'
import { targets } from './targets.mjs'

const [name, ...rest] = process.argv.slice(2)
const target = targets[name]
let current = null
const watched = {
  ...target,
  run(bytes) {
    current = bytes
    return target.run(bytes)
  },
}
const finish = (result, crashes) => {
  const { input, error, ...counts } = result
  let file
  if (error !== undefined && crashes !== undefined) {
    mkdirSync(crashes, { recursive: true })
    file = join(crashes, `${name}-${createHash('sha1').update(input).digest('hex').slice(0, 16)}`)
    writeFileSync(file, input)
  }
  const failures = error === undefined ? [] : [`${file ?? 'an input'}: ${error?.stack ?? error}`]
  process.stdout.write(`${JSON.stringify({ target: name, ...counts, failures })}\n`, () =>
    process.exit(failures.length > 0 ? 1 : 0),
  )
}

if (rest[0]?.startsWith('{')) {
  const { crashes, ...how } = JSON.parse(rest[0])
  // what is thrown later, by a timer or a promise that nobody holds, is a finding too; the input is the last one or one before
  process.on('uncaughtException', (error) => finish({ operations: 0, input: current, error }, crashes))
  finish(await fuzz(watched, how), crashes)
} else {
  for (const file of rest) await attempt(watched, readFileSync(file))
  process.exit(0)
}
