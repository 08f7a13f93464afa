import { debuglog } from 'node:util'

/** Writes to standard error with NODE_DEBUG=vmring, and nothing otherwise. */
export const debug = debuglog('vmring')
