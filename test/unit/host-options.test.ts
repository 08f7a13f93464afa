import { describe, expect, it } from 'vitest'
import { createLog } from '../../src/host/log.js'
import { formatSize, groupId, parseCount, parseMode, parseSize } from '../../src/host/options.js'

describe('options of the daemon', () => {
  it.each([
    ['64M', 2 ** 26],
    ['64MiB', 2 ** 26],
    ['1g', 2 ** 30],
    ['4096', 4096],
    ['2 K', 2048],
  ])('size %s', (text, bytes) => expect(parseSize(text)).toBe(bytes))
  it.each(['', 'M', '-1', '1.5M', '64X', '99999999999T'])('no size: %s', (text) =>
    expect(() => parseSize(text)).toThrow(/a size is/),
  )
  it('modes, counts, groups', () => {
    expect(parseMode('0660')).toBe(0o660)
    expect(parseMode('600')).toBe(0o600)
    for (const text of ['', '8', '06600', '0o60', '888']) expect(() => parseMode(text)).toThrow(/octal/)
    expect(parseCount('16', 'n', 1, 16)).toBe(16)
    for (const text of ['0', '17', 'x', '1.5', ''])
      expect(() => parseCount(text, 'n', 1, 16)).toThrow(/from 1 to 16/)
    expect(groupId('0')).toBe(0)
    expect(groupId('root')).toBe(0)
    expect(() => groupId('-x')).toThrow(/no group/)
    expect(formatSize(2 ** 26)).toBe('64 MiB')
    expect(formatSize(1000)).toBe('1000 bytes')
  })
})

describe('the log', () => {
  it('writes one line an event, whatever stands in a field', () => {
    const lines: string[] = []
    const log = createLog({ write: (line) => lines.push(line), now: () => 0 })
    log('debug', 'not asked for')
    log('warn', 'odd', { id: 3, reason: 'two\nlines "quoted"' })
    expect(lines).toEqual(['1970-01-01T00:00:00.000Z warn  odd id=3 reason="two\\nlines \\"quoted\\""\n'])
  })

  it('cannot be flooded, and says how much it left out', () => {
    const lines: string[] = []
    let time = 0
    const log = createLog({ json: true, write: (line) => lines.push(line), now: () => time })
    for (let i = 0; i < 10_000; i++) log('info', 'again')
    expect(lines.length).toBe(200)
    time = 1000
    log('info', 'later')
    expect(JSON.parse(lines[200]!)).toMatchObject({ level: 'warn', message: 'lines left out', count: 9800 })
    expect(JSON.parse(lines[201]!)).toMatchObject({ message: 'later' })
  })
})
