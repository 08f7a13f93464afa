// What docs/hostile.md tells of the recorded long runs (bench/results/long): one row for each that is there.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const million = (count) => `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)} million`
const ms = (value) => `${value.toFixed(0)} ms`
const percent = (share) => `${(100 * share).toFixed(0)} %`
const sum = (numbers) => numbers.reduce((total, one) => total + one, 0)
const linesOf = (units) => units.flatMap(({ lines }) => lines)
const failed = (units) => {
  const bad = units.filter(({ code }) => code !== 0).length
  return bad === 0 ? 'nothing found' : `**${bad} failed**`
}

const rows = {
  scribble: ({ units, beside }) =>
    ['api', 'core'].flatMap((level) => {
      const mine = units.filter(({ lines }) => lines.some((line) => line.level === level))
      if (mine.length === 0) return []
      const lines = linesOf(mine)
      const areas = lines.map(({ area }) => area).join(', ')
      const lies = million(sum(lines.map((line) => line.lies)))
      const where = level === 'api' ? 'the API' : 'the core'
      const gaps = lines.flatMap(({ longestGap }) => Object.values(longestGap ?? {}))
      const elsewhere =
        gaps.length > 0 ? `; longest gap in the other region and on the relay ${ms(Math.max(...gaps))}` : ''
      return [
        [
          `scribbler against ${where}, ASan and UBSan`,
          `${lines[0].seconds} s for each of ${areas}, up to ${beside} at a time: ${lies} lies; ${failed(mine)}${elsewhere}`,
        ],
      ]
    }),
  fuzz: ({ units }) =>
    [...new Set(linesOf(units).map(({ target }) => target))].map((target) => {
      const mine = units.filter(({ lines }) => lines.some((line) => line.target === target))
      const lines = linesOf(mine)
      const seconds = sum(lines.map((line) => line.seconds))
      const operations = sum(lines.map((line) => line.operations ?? 0))
      const inputs = sum(lines.map((line) => line.inputs))
      const what = operations > 0 ? `${million(operations)} pushes and pops` : `${million(inputs)} inputs`
      return [`fuzzing, \`${target}\``, `${what} in ${(seconds / 60).toFixed(0)} minutes; ${failed(mine)}`]
    }),
  torn: ({ units }) => {
    const count = (wanted) =>
      million(sum(linesOf(units).map(({ kind, attempts }) => (wanted(kind) ? attempts : 0))))
    const bare = (kind) => kind === 'copy' || kind === 'descriptor'
    return [
      [
        'bytes that change while they are decoded',
        `${count((kind) => !bare(kind))} messages decoded, ${count(bare)} bare copies and descriptors; ${failed(units)}`,
      ],
    ]
  },
  kill: ({ kills, told, freed, rejoined, gaps }) => [
    [
      'processes killed at random moments',
      `${kills.listener} that listened, ${kills.connector} that connected, ${kills.daemon} daemons; a survivor is told within ${ms(told.p50)} (p50), ${ms(told.most)} (most), has its memory back after ${ms(freed.most)} at most, and is back at a new daemon after ${ms(rejoined.most)}; the longest pause of anybody else's channel ${ms(gaps.most)}`,
    ],
  ],
  'kill-steps': ({ steps, lives, told }) => {
    const wrong = Object.values(lives).filter((one) => one !== '').length
    return [
      [
        'a process killed at every labelled step',
        `${steps} steps, ${Object.keys(lives).length} lives, ${wrong === 0 ? 'none wrong' : `**${wrong} wrong**`}; told within ${ms(told.p50)} (p50), ${ms(told.most)} (most)`,
      ],
    ]
  },
  restart: ({ times, joined, pauses, failures }) => [
    [
      'the daemon killed and started again under load',
      `${times} times, ${failures.length === 0 ? 'nothing lost' : `**${failures.length} failures**`}; joined again after ${ms(joined.p50)} (p50), ${ms(joined.most)} (most); the longest pause of a running channel ${ms(pauses.most)}`,
    ],
  ],
  storm: ({ rate, results }) => [
    [
      `a storm of ${million(rate)} doorbells a second`,
      `throughput kept of a run in which the same processor time is burnt without ringing: ${results.map(({ mode, traffic, kept }) => `${percent(kept)} (\`${mode}\`, ${traffic})`).join(', ')}`,
    ],
  ],
  soak: ({ minutes, verdicts }) => [
    [
      'slow traffic of all kinds',
      `${minutes.toFixed(0)} minutes, ${verdicts[0].wraps} rings went past 2^32; memory and descriptors ${verdicts.every(({ flat }) => flat) ? 'flat' : '**not flat**'} ([plot](../bench/results/long/soak.svg))`,
    ],
  ],
}

/** A table; `folder` is bench/results/long. */
export function recordedText(folder) {
  const lines = Object.entries(rows).flatMap(([name, tell]) => {
    const file = join(folder, `${name}.json`)
    if (!existsSync(file)) return []
    const result = JSON.parse(readFileSync(file, 'utf8'))
    return tell(result).map(([what, told]) => `| ${what} | ${told} | ${result.commit.slice(0, 7)} |`)
  })
  return ['| run | what came of it | commit |', '|---|---|---|', ...lines, ''].join('\n')
}
