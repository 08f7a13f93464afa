/**
 * Ctrl-C and its relatives: what was begun is undone before the process ends, however often the key is hit. The exit code is
 * 128 + the signal's number, as shells expect.
 */
import { constants } from 'node:os'
import { describeFailure } from './failure.js'

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** Rejected with by work that notices the signal; nobody prints it. */
export class Interrupted extends Error {
  constructor(readonly signalName: NodeJS.Signals) {
    super(`ended by ${signalName}`)
  }
}

export interface Interrupt {
  /** aborted with an Interrupted at the first signal */
  readonly signal: AbortSignal
  /** stops listening: the signals have their usual effect again */
  dispose(): void
}

/** `undo` runs once, at the first signal; then the process exits. */
export function onInterrupt(undo: () => void | Promise<void>): Interrupt {
  const controller = new AbortController()
  const handler = (name: NodeJS.Signals) => {
    if (controller.signal.aborted) return
    controller.abort(new Interrupted(name))
    void Promise.resolve()
      .then(undo)
      .catch((error: unknown) => {
        process.stderr.write(describeFailure(error))
      })
      .finally(() => process.exit(128 + constants.signals[name]))
  }
  for (const name of signals) process.on(name, handler)
  return {
    signal: controller.signal,
    dispose() {
      for (const name of signals) process.off(name, handler)
    },
  }
}
