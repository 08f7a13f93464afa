// Puts vmring/net in the place of node:net before a test of Node's own is loaded, in this process and those that it starts.
import { syncBuiltinESMExports } from 'node:module'
import net from 'node:net'
import * as ours from '../../dist/net/index.js'

ours.routeEverything()
ours.install()
const { Socket, Stream, Server, createServer, connect, createConnection } = ours
Object.assign(net, { Socket, Stream, Server, createServer, connect, createConnection })
syncBuiltinESMExports()
