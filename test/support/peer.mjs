// A process for tests: runs the functions that its parent sends, one after the other or side by side, and answers each.
// See remote.ts. It ends when its parent does.
import { once } from 'node:events'
import { runInThisContext } from 'node:vm'
import * as vmring from '../../dist/index.js'

const context = {
  vmring,
  once,
  state: {},
  sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
  tell: (note) => process.connected && process.send({ note }),
}

function plain(error) {
  const { message, stack, name, ...rest } = Object(error)
  return { ...rest, code: error?.code, name, stack, message: message ?? String(error) }
}

// Errors that nobody handles are what many tests look for: they are told, and end the process.
process.on('uncaughtException', (error) => {
  if (process.connected) process.send({ crash: plain(error) }, () => process.exit(70))
  else process.exit(70)
})
process.on('disconnect', () => process.exit(0))
process.on('message', async ({ id, source, args }) => {
  try {
    const work = runInThisContext(`(${source})`)
    const value = await work(context, ...args)
    process.send({ id, value })
  } catch (error) {
    process.send({ id, error: plain(error) })
  }
})
process.send({ note: 'ready' })
