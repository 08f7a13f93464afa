/**
 * `node --import vmring/register app.js`, or --require: connections and servers at the addresses in VMRING_MAP go over vmring, and
 * so does 'vmring:SERVICE' wherever the program takes a path. All else is untouched. Synchronous, for the sake of --require.
 */
import { syncBuiltinESMExports } from 'node:module'
import { addRoute } from '../net/address.js'
import { debug } from '../net/debug.js'
import { install } from '../net/install.js'
import { parseMap } from './map.js'

const map = parseMap(process.env.VMRING_MAP ?? '')
for (const { address, service } of map.entries) debug('%s leads to service %s', address, service)
addRoute((address) => map.lookup(address))
install()
// what modules have imported by name is what it was before
syncBuiltinESMExports()
