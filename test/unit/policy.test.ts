import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { allowed, openPolicy, parsePolicy, readPolicy } from '../../src/host/policy.js'

const policy = (rules: unknown) => parsePolicy(JSON.stringify({ rules }), 'p.json')

function directory(): string {
  const path = mkdtempSync(join(tmpdir(), 'vmring-policy-'))
  onTestFinished(() => rmSync(path, { recursive: true, force: true }))
  return path
}

describe('a policy', () => {
  it('adds up every rule that matches', () => {
    const { rights } = {
      rights: (origin: string) =>
        policy([
          { who: 'cid:3', listen: ['orders', 'app-*'] },
          { who: 'cid:*', connect: ['time'] },
          { who: '*', connect: ['hello', 'time'] },
          { who: 'uid:0', listen: ['*'], connect: ['*'] },
        ]).rights(origin),
    }
    expect(rights('cid:3')).toEqual({ listen: ['orders', 'app-*'], connect: ['time', 'hello'] })
    expect(rights('cid:33')).toEqual({ listen: [], connect: ['time', 'hello'] })
    expect(rights('uid:3')).toEqual({ listen: [], connect: ['hello', 'time'] })
    expect(rights('uid:0')).toEqual({ listen: ['*'], connect: ['*'] })
    expect(allowed(rights('cid:3').listen, 'app-x')).toBe(true)
    expect(allowed(rights('cid:3').listen, 'other')).toBe(false)
  })

  it('with no rules forbids everything; no policy allows everything', () => {
    expect(policy([]).rights('uid:0')).toEqual({ listen: [], connect: [] })
    expect(openPolicy.rights('cid:9')).toEqual({ listen: ['*'], connect: ['*'] })
  })

  it.each([
    ['a file that is a list', '[]', 'the file'],
    ['a text', '"x"', 'the file'],
    ['no rules', '{}', 'rules'],
    ['an unknown key', '{"rules":[],"extra":1}', 'the file'],
    ['rules that are no list', '{"rules":{}}', 'rules'],
    ['a rule that is no object', '{"rules":[{"who":"*"},7]}', 'rules[1]'],
    ['a rule for nobody', '{"rules":[{"listen":[]}]}', 'rules[0].who'],
    ['a misspelt key', '{"rules":[{"who":"*","lisen":["a"]}]}', 'rules[0]'],
    ['a who of another kind', '{"rules":[{"who":"gid:7"}]}', 'rules[0].who'],
    ['a who without a number', '{"rules":[{"who":"cid:"}]}', 'rules[0].who'],
    ['a number with a zero in front', '{"rules":[{"who":"cid:03"}]}', 'rules[0].who'],
    ['a number above 32 bits', '{"rules":[{"who":"uid:4294967296"}]}', 'rules[0].who'],
    ['a partial number', '{"rules":[{"who":"cid:3*"}]}', 'rules[0].who'],
    ['patterns that are no list', '{"rules":[{"who":"*","listen":"a"}]}', 'rules[0].listen'],
    ['an empty pattern', '{"rules":[{"who":"*","connect":["a",""]}]}', 'rules[0].connect[1]'],
    ['a pattern that is no text', '{"rules":[{"who":"*","connect":[null]}]}', 'rules[0].connect[0]'],
    [
      'a pattern that is too long',
      JSON.stringify({ rules: [{ who: '*', listen: ['x'.repeat(256)] }] }),
      'rules[0].listen[0]',
    ],
    ['a comma too many', '{\n "rules": [\n  {"who": "*"},\n ]\n}', 'line 4'],
    ['a missing comma', '{\n "rules": [\n  {"who": "*"}\n  {"who": "*"}\n ]\n}', 'line 4'],
    ['a text without end', '{\n "rules": [\n  {"who": "*}\n ]\n}', 'line 3'],
    ['brackets without end', '['.repeat(100_000), 'line 1'],
    ['an end too early', '{\n "rules": [\n', 'line 3'],
    ['more behind the end', '{"rules": []}\n\nx', 'line 3'],
    ['nothing', '', 'line 1'],
  ])('with %s is refused, and the place named', (_what, text, field) => {
    expect(() => parsePolicy(text, 'p.json')).toThrow(
      expect.objectContaining({
        code: 'ERR_VMRING_POLICY_FILE',
        field,
        message: expect.stringContaining(`p.json: ${field}`),
      }),
    )
  })

  it('must fit in what a peer is told, for everybody that it names', () => {
    const long = Array.from({ length: 5 }, (_, i) => `${i}`.repeat(200))
    const rule = (who: string, connect: string[]) => ({ who, connect })
    policy([rule('cid:*', long)])
    expect(() =>
      policy([
        rule('cid:*', long),
        rule(
          'cid:7',
          long.map((p) => `${p}x`),
        ),
      ]),
    ).toThrow(/rules\[1\]\.connect.*cid:7/)
    expect(() => policy(Array.from({ length: 1025 }, () => rule('*', [])))).toThrow(/1024 are the most/)
  })

  it('is read from a regular file of reasonable size', () => {
    const dir = directory()
    const file = join(dir, 'policy.json')
    const wrong = (path: string) =>
      expect(() => readPolicy(path)).toThrow(expect.objectContaining({ code: 'ERR_VMRING_POLICY_FILE' }))
    wrong(file)
    writeFileSync(file, '{"rules":[{"who":"*","listen":["a"]}]}')
    expect(readPolicy(file).rights('cid:1').listen).toEqual(['a'])
    truncateSync(file, 2 ** 20 + 1)
    wrong(file)
    mkdirSync(join(dir, 'd'))
    wrong(join(dir, 'd'))
    wrong('/dev/zero')
  })
})
