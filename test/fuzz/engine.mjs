// Coverage-guided fuzzing of JavaScript: V8's own precise block coverage says which inputs reached something new, and those are
// kept and changed further. (The npm fuzzers that do this need a newer libc than Debian 12 has, or fetch their binary at
// installation.) Seeded: the same seed over the same corpus does the same.
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { Session } from 'node:inspector'
import { join } from 'node:path'
import { Random } from '../hostile/layout.mjs'

/** A look at the coverage costs as much as hundreds of inputs: so many of them share one as hardly ever find anything. */
const BATCH = [16, 2048]
const MOST_BYTES = 4096
const INTERESTING = [
  0, 1, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 2047, 2048, 2049, 0x7fffffff, 0x80000000, 0xffffffff,
]

/** Blocks of the named files that have run, with how often in powers of two. */
class Coverage {
  #session = new Session()
  #files
  #seen = new Set()

  constructor(files) {
    this.#files = files
    this.#session.connect()
    this.#post('Profiler.enable')
    this.#post('Profiler.startPreciseCoverage', { callCount: true, detailed: true })
    this.fresh()
  }

  get size() {
    return this.#seen.size
  }

  #post(method, params) {
    let result
    this.#session.post(method, params, (error, value) => {
      if (error) throw error
      result = value
    })
    return result
  }

  /** How much has run since the last call that never ran before (as often); only a look unless `keep`. */
  fresh(keep = true) {
    let count = 0
    for (const { url, functions } of this.#post('Profiler.takePreciseCoverage').result) {
      if (!this.#files.some((file) => url.endsWith(file))) continue
      for (const { ranges } of functions) {
        for (const { startOffset, endOffset, count: times } of ranges) {
          if (times === 0) continue
          const key = `${url}:${startOffset}:${endOffset}:${Math.min(6, Math.floor(Math.log2(times)))}`
          if (this.#seen.has(key)) continue
          count++
          if (keep) this.#seen.add(key)
        }
      }
    }
    return count
  }
}

/** One or several small changes. */
function mutate(random, input, other, dictionary) {
  let bytes = Buffer.from(input)
  for (let n = 1 + random.below(4); n > 0; n--) {
    const at = random.below(bytes.length + 1)
    const rest = bytes.length - at
    const part = 1 + random.below(Math.max(1, Math.min(rest, 64)))
    switch (random.below(10)) {
      case 0:
        if (rest > 0) bytes[at] ^= 1 << random.below(8)
        break
      case 1:
        if (rest > 0) bytes[at] = random.below(256)
        break
      case 2:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + part)])
        break
      case 3:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(at, at + part), bytes.subarray(at)])
        break
      case 4: {
        const from = random.below(other.length + 1)
        bytes = Buffer.concat([
          bytes.subarray(0, at),
          other.subarray(from, from + 1 + random.below(128)),
          bytes.subarray(at),
        ])
        break
      }
      case 5:
        if (rest >= 2) bytes.writeUInt16LE(random.pick(INTERESTING) & 0xffff, at)
        break
      case 6:
        if (rest >= 4) bytes.writeUInt32LE((random.pick(INTERESTING) + random.below(3) - 1) >>> 0, at)
        break
      case 7:
        if (rest > 0) bytes[at] += random.below(2) * 2 - 1
        break
      case 8:
        bytes = Buffer.concat([
          bytes.subarray(0, at),
          Buffer.alloc(part, random.below(256)),
          bytes.subarray(at),
        ])
        break
      default:
        if (dictionary.length > 0)
          bytes = Buffer.concat([
            bytes.subarray(0, at),
            Buffer.from(random.pick(dictionary)),
            bytes.subarray(at + random.below(5)),
          ])
    }
  }
  return bytes.subarray(0, MOST_BYTES)
}

const nameOf = (bytes) => createHash('sha1').update(bytes).digest('hex').slice(0, 16)

export function inputsIn(directory) {
  if (!existsSync(directory)) return []
  return readdirSync(directory)
    .sort()
    .map((name) => readFileSync(join(directory, name)))
}

/** Runs the target with one input. Throws what it finds; so does an input that takes long. */
export async function attempt(target, input, bound = 2000) {
  const started = performance.now()
  await target.run(input)
  const took = performance.now() - started
  if (took > bound) throw new Error(`took ${Math.round(took)} ms`)
}

/**
 * @param target { files, run(bytes), seeds: Buffer[], dictionary? }; run throws when it has found something
 * @param how { seconds, operations, seed, corpus: directories to read, keep: directory for what reaches something new,
 *   all: also for those of the corpus }
 * @returns {{ operations, coverage, corpus, input?: Buffer, error?: Error }}
 */
export async function fuzz(
  target,
  { seconds, operations = Number.POSITIVE_INFINITY, seed, corpus = [], keep, all },
) {
  const random = new Random(seed)
  const until = performance.now() + seconds * 1000
  const coverage = new Coverage(target.files)
  const inputs = []
  let count = 0
  const report = (more = {}) => ({
    operations: count,
    coverage: coverage.size,
    corpus: inputs.length,
    ...more,
  })
  const one = async (input) => {
    count++
    await attempt(target, input)
  }
  const add = (input) => {
    inputs.push(input)
    if (keep === undefined) return
    mkdirSync(keep, { recursive: true })
    writeFileSync(join(keep, nameOf(input)), input)
  }
  for (const input of [...target.seeds, ...corpus.flatMap(inputsIn)]) {
    try {
      await one(input)
    } catch (error) {
      return report({ input, error })
    }
    if (coverage.fresh() === 0) continue
    if (all) add(input)
    else inputs.push(input)
  }
  if (inputs.length === 0) inputs.push(Buffer.alloc(0))
  /** Which of these, run before and once more here, reach something new? */
  const sift = async (batch) => {
    for (const input of batch) await target.run(input)
    if (coverage.fresh(batch.length === 1) === 0) return
    if (batch.length === 1) return add(batch[0])
    await sift(batch.slice(0, batch.length / 2))
    await sift(batch.slice(batch.length / 2))
  }
  let size = BATCH[0]
  while (performance.now() < until && count < operations) {
    const batch = []
    for (let i = 0; i < size && performance.now() < until; i++) {
      // the newest more often: they have been changed the least
      const input = random.oneIn(2)
        ? random.pick(inputs)
        : inputs[inputs.length - 1 - random.below(Math.min(16, inputs.length))]
      const changed = mutate(random, input, random.pick(inputs), target.dictionary ?? [])
      batch.push(changed)
      try {
        await one(changed)
      } catch (error) {
        return report({ input: changed, error })
      }
    }
    const found = coverage.fresh(false) > 0
    size = found ? Math.max(BATCH[0], size / 2) : Math.min(BATCH[1], size * 2)
    if (found) await sift(batch)
  }
  return report()
}
