/** How commands fail: one sentence, the code, the cure. */
import { errorTable } from '../errors.js'

export const EXIT_FAILURE = 1
export const EXIT_USAGE = 2

interface Failure {
  message?: unknown
  code?: unknown
  attempts?: unknown
}

/** `vmring: sentence (CODE)`, what each attempt met, and the cure from the error table. */
export function describeFailure(error: unknown): string {
  const { message, code, attempts } = (typeof error === 'object' && error !== null ? error : {}) as Failure
  const sentence = (typeof message === 'string' && message !== '' ? message : String(error)).replace(
    /^vmring: /,
    '',
  )
  const named = typeof code === 'string' ? code : ''
  const lines = [`vmring: ${sentence}${named === '' ? '' : ` (${named})`}`]
  if (Array.isArray(attempts)) lines.push(...attempts.map((attempt) => `  tried: ${attempt}`))
  const entry = Object.hasOwn(errorTable, named) ? errorTable[named as keyof typeof errorTable] : undefined
  if (entry !== undefined) lines.push(`  cure: ${entry.cure}`)
  return `${lines.join('\n')}\n`
}

/** 2 when the command line is at fault, 1 otherwise. */
export function exitCodeOf(error: unknown): number {
  return (error as Failure | null)?.code === 'ERR_VMRING_ARGUMENT' ? EXIT_USAGE : EXIT_FAILURE
}
