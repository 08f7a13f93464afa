// What the bed throws. Every message says what to do, or carries what the guest said last.
import { VmringError } from '../errors.js'

/** Something that guests need is not on this machine. */
export class BedMissing extends VmringError {
  constructor(missing: string, cure: string) {
    super('ERR_VMRING_VM_MISSING', `booting guests needs ${missing}: ${cure}`)
  }
}

/** A guest did not do what it was told in time, or died. `console` is what it printed last. */
export class GuestError extends VmringError {
  constructor(
    message: string,
    readonly guest: string,
    readonly console: string,
  ) {
    super(
      'ERR_VMRING_VM_GUEST',
      `guest ${guest}: ${message}${console ? `\n--- last lines of its console\n${console}` : ''}`,
    )
  }
}

/** A job in a guest failed or ran too long. */
export class JobError extends VmringError {
  constructor(
    message: string,
    /** −1 when it did not end */
    readonly exitCode: number,
    readonly stdout: string,
    readonly stderr: string,
    console: string,
  ) {
    const parts = [message]
    for (const [name, text] of Object.entries({ stdout, stderr, console })) {
      if (text.trim() !== '') parts.push(`--- ${name}\n${tail(text)}`)
    }
    super('ERR_VMRING_VM_GUEST', parts.join('\n'))
  }
}

export function tail(text: string, bytes = 4000): string {
  return text.length > bytes ? `…${text.slice(-bytes)}` : text
}

/** Rejects with `error()` when `promise` has not settled after `ms`. The timer does not keep the process alive alone. */
export async function within<T>(promise: Promise<T>, ms: number, error: () => Error): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(error()), ms)
  })
  try {
    return await Promise.race([promise, limit])
  } finally {
    clearTimeout(timer)
  }
}
