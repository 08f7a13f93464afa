// A small program as a user writes it: two peers in one file, a question, an answer, a large message, a leased one.
//   talk.mjs FILE       makes FILE; prints one line of JSON
import { createHash, randomBytes } from 'node:crypto'
import { closeSync, ftruncateSync, openSync } from 'node:fs'
import { attach } from 'vmring'

const [path] = process.argv.slice(2)
const fd = openSync(path, 'wx')
ftruncateSync(fd, 8 * 1024 * 1024)
closeSync(fd)
const region = `file:${path}`
const [server, client] = [await attach({ region }), await attach({ region })]

const listener = await server.listen('orders')
listener.on('channel', (channel) => {
  channel.on('message', async (message) => {
    if (message.length > 64 * 1024) {
      await channel.send(createHash('sha256').update(message.view).digest())
    } else await channel.send(Buffer.from(`${message.text()}: on the way`))
  })
})

const channel = await client.connect('orders', { wait: 30_000 })
const answers = channel[Symbol.asyncIterator]()
const ask = async () => {
  const { value } = await answers.next()
  const bytes = Buffer.from(value.copy())
  value.release()
  return bytes
}
await channel.send(Buffer.from('two coffees'))
const small = (await ask()).toString()

const lease = channel.reserve(32)
const length = Buffer.from(lease.data.buffer, lease.data.byteOffset, lease.data.byteLength).write('one tea')
lease.commit(length)
const leased = (await ask()).toString()

const big = randomBytes(1024 * 1024)
await channel.send(big)
const large = (await ask()).equals(createHash('sha256').update(big).digest())

const kind = channel.path
await channel.close()
await Promise.all([client.close(), server.close()])
console.log(
  JSON.stringify({ node: process.versions.node, arch: process.arch, path: kind, small, leased, large }),
)
