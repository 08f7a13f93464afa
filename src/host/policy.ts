import { readFileSync, statSync } from 'node:fs'
import { VmringError } from '../errors.js'
import { matches } from '../path/relay-frames.js'

/** What one origin may do, as patterns of service names. */
export interface Rights {
  readonly listen: readonly string[]
  readonly connect: readonly string[]
}

interface Rule extends Rights {
  readonly who: string
}

const MAX_FILE_BYTES = 2 ** 20
const MAX_RULES = 1024
const MAX_PATTERN_BYTES = 255
/** The patterns that concern one origin go out in one SPLICED, beside its other fields. */
const MAX_GRANT_BYTES = 1536
const EVERYTHING = ['*']

/** Who may listen under and connect to which services of the relay. */
export class Policy {
  /** null: no file, everybody who can open the socket may do everything */
  readonly file: string | null
  readonly rules: readonly Rule[] | null

  constructor(file: string | null, rules: readonly Rule[] | null) {
    this.file = file
    this.rules = rules
  }

  /** @param origin 'cid:N' or 'uid:N' */
  rights(origin: string): Rights {
    if (this.rules === null) return { listen: EVERYTHING, connect: EVERYTHING }
    const rules = this.rules.filter(({ who }) => covers(who, origin))
    return {
      listen: union(rules.map((rule) => rule.listen)),
      connect: union(rules.map((rule) => rule.connect)),
    }
  }
}

export const openPolicy = new Policy(null, null)

export function allowed(patterns: readonly string[], service: string): boolean {
  return patterns.some((pattern) => matches(pattern, service))
}

/** Reads and checks a policy file. Throws ERR_VMRING_POLICY_FILE with the line or the `field` that is wrong. */
export function readPolicy(file: string): Policy {
  let text: string
  try {
    const stat = statSync(file)
    if (!stat.isFile()) throw new Error('not a regular file')
    if (stat.size > MAX_FILE_BYTES)
      throw new Error(`${stat.size} bytes, where ${MAX_FILE_BYTES} are the most`)
    text = readFileSync(file, 'utf8')
  } catch (cause) {
    throw new VmringError(
      'ERR_VMRING_POLICY_FILE',
      `the policy file ${file} cannot be read: ${(cause as Error).message}`,
      {
        cause,
      },
    )
  }
  return parsePolicy(text, file)
}

export function parsePolicy(text: string, file: string): Policy {
  const wrong = (field: string, expected: string): VmringError =>
    new VmringError('ERR_VMRING_POLICY_FILE', `${file}: ${field} ${expected}`, { details: { field } })

  let root: unknown
  try {
    root = JSON.parse(text)
  } catch (error) {
    throw wrong(`line ${brokenLine(text)}`, `is no JSON: ${(error as Error).message}`)
  }
  const object = (value: unknown, field: string, keys: readonly string[]): Record<string, unknown> => {
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw wrong(field, `must be an object, not ${shown(value)}`)
    for (const key of Object.keys(value))
      if (!keys.includes(key))
        throw wrong(field, `has ${shown(key)}, which is unknown; known: ${keys.join(', ')}`)
    return value as Record<string, unknown>
  }
  const patterns = (value: unknown, field: string): string[] => {
    if (value === undefined) return []
    if (!Array.isArray(value))
      throw wrong(field, `must be a list of patterns such as ["orders", "app-*"], not ${shown(value)}`)
    value.forEach((pattern, i) => {
      const length = typeof pattern === 'string' ? Buffer.byteLength(pattern) : 0
      if (length < 1 || length > MAX_PATTERN_BYTES)
        throw wrong(
          `${field}[${i}]`,
          `must be a text of 1 to ${MAX_PATTERN_BYTES} bytes, not ${shown(pattern)}`,
        )
    })
    return value as string[]
  }

  const { rules } = object(root, 'the file', ['rules'])
  if (!Array.isArray(rules)) throw wrong('rules', `must be a list, not ${shown(rules)}`)
  if (rules.length > MAX_RULES)
    throw wrong('rules', `has ${rules.length} entries, where ${MAX_RULES} are the most`)
  const checked = rules.map((value, i): Rule => {
    const field = `rules[${i}]`
    const rule = object(value, field, ['who', 'listen', 'connect'])
    if (!isWho(rule.who))
      throw wrong(
        `${field}.who`,
        `must be "cid:N", "uid:N" (N up to 4294967295), "cid:*", "uid:*" or "*", not ${shown(rule.who)}`,
      )
    return {
      who: rule.who,
      listen: patterns(rule.listen, `${field}.listen`),
      connect: patterns(rule.connect, `${field}.connect`),
    }
  })
  const policy = new Policy(file, checked)
  checked.forEach(({ who }, i) => {
    // a rule for all of a family adds to every single one; those named are the ones that get the most
    const bytes = policy
      .rights(who)
      .connect.reduce((sum, p) => sum + 4 + ((Buffer.byteLength(p) + 3) & ~3), 0)
    if (bytes > MAX_GRANT_BYTES)
      throw wrong(
        `rules[${i}].connect`,
        `and the other rules for ${who} make ${bytes} bytes of patterns, where ${MAX_GRANT_BYTES} are the most; use *`,
      )
  })
  return policy
}

function isWho(value: unknown): value is string {
  if (typeof value !== 'string') return false
  const match = /^(?:\*|(?:cid|uid):(\*|0|[1-9]\d{0,9}))$/.exec(value)
  return match !== null && (match[1] === undefined || match[1] === '*' || Number(match[1]) < 2 ** 32)
}

function covers(who: string, origin: string): boolean {
  return who === '*' || who === origin || (who.endsWith(':*') && origin.startsWith(who.slice(0, -1)))
}

function union(lists: readonly (readonly string[])[]): string[] {
  const all = new Set(lists.flat())
  return all.has('*') ? EVERYTHING : [...all]
}

function shown(value: unknown): string {
  return (JSON.stringify(value) ?? String(value)).slice(0, 60)
}

/** The line where a text stops being JSON. JSON.parse knows, but what it says differs between versions of V8. */
function brokenLine(text: string): number {
  let at = 0
  const take = (token: RegExp): boolean => {
    token.lastIndex = at
    const [found] = token.exec(text) ?? []
    if (found !== undefined) at += found.length
    space.lastIndex = at
    at += space.exec(text)![0].length
    return found !== undefined
  }
  const list = (end: RegExp, entry: () => boolean): boolean => {
    if (take(end)) return true
    do if (!entry()) return false
    while (take(/,/y))
    return take(end)
  }
  // no policy nests deeper; a text of a million brackets must not either
  const value = (depth: number): boolean => {
    if (depth > 16) return false
    if (take(/\{/y)) return list(/\}/y, () => take(string) && take(/:/y) && value(depth + 1))
    if (take(/\[/y)) return list(/\]/y, () => value(depth + 1))
    return take(string) || take(/-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y)
  }
  take(/^/y)
  value(0)
  return text.slice(0, at).split('\n').length
}

const space = /[ \t\r\n]*/y
// biome-ignore lint/suspicious/noControlCharactersInRegex: JSON forbids them in texts
const string = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y
