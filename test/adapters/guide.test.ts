// The lines of docs/guides/adapters.md are those that the tests run.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { root } from '../support/processes.js'
import { libraries } from './table.js'

const guide = readFileSync(join(root, 'docs/guides/adapters.md'), 'utf8')
const folder = join(root, 'test/adapters/libraries')
const sources = readdirSync(folder).map((name) => readFileSync(join(folder, name), 'utf8'))

/** Pieces of one line, which '…' divides; names of services are `at` in the tests, and spaces do not count. */
const pieces = (code: string) =>
  code
    .replace(/'vmring:\w+'/g, 'at')
    .split(/…/)
    .map((piece) => piece.replace(/[\s]|^[,\s]+|[,\s]*\}?\)?$/g, ''))

test('every line of code in the guide is one that is tested', () => {
  const blocks = [...guide.matchAll(/```js\n(.*?)```/gs)].flatMap(([, code]) => code!.split('\n'))
  const rows = [...guide.matchAll(/^\| .*$/gm)].map(([row]) => row)
  const cells = rows.flatMap((row) => [...row.matchAll(/`([^`]*[(=][^`]*)`/g)].map((match) => match[1]!))
  const lines = [...blocks, ...cells].flatMap(pieces).filter((line) => line.length > 1)
  expect(lines.length).toBeGreaterThan(25)
  const tested = sources.join('\n').replace(/\s/g, '')
  expect(lines.filter((line) => !tested.includes(line))).toEqual([])
})

test('every library of the table is in the guide', () => {
  for (const { name } of libraries)
    expect(guide).toContain(name.replace(/^(mqtt)$/, '$1.js').replace('grpc', 'grpc-js'))
})
