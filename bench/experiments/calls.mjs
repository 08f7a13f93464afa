// Calls of the functions of calls.cc: as properties of a shaped object, and as the addon exports them.
//   node bench/experiments/calls.mjs PATH/TO/calls.node
import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import { rounds } from './rounds.mjs'

const exported = createRequire(import.meta.url)(resolve(process.argv[2]))
const calls = { ...exported }
const array = new Uint8Array(64)
rounds('an empty function', () => calls.nothing())
rounds('… that asks for its data', () => calls.behind())
rounds('… for a number', () => calls.number(7))
rounds('… and returns one', () => calls.result(7))
rounds('… for the bytes of a typed array', () => calls.bytes(array))
