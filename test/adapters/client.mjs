// node client.mjs LIBRARY ADDRESS: talks to the server, one line of JSON for each thing that worked; the last ends with the server.
import { createHash, randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'

const [name, at] = process.argv.slice(2)
const { open } = await import(`./libraries/${name}.mjs`)
const tell = (line) => console.log(JSON.stringify({ ...line, ms: Math.round(performance.now()) }))
const hash = (bytes) => createHash('sha256').update(bytes).digest('hex')

async function echoes(connection, bytes) {
  const answer = Buffer.from(await connection.echo(bytes))
  if (answer.length !== bytes.length || hash(answer) !== hash(bytes))
    throw new Error(`${bytes.length} bytes came back as ${answer.length}, or changed`)
}

const first = await open(at)
await echoes(first, Buffer.from('hello'))
tell({ done: 'small' })
await echoes(first, randomBytes(8 * 2 ** 20))
tell({ done: 'large' })
const many = await Promise.all(Array.from({ length: 100 }, () => open(at)))
await Promise.all(many.map((connection, i) => echoes(connection, Buffer.alloc(1000 + i, i))))
tell({ done: 'many' })
await Promise.all(many.map((connection) => connection.close()))
const failing = first.hang().then(
  () => tell({ done: 'dead', error: null }),
  (error) => {
    const { name, code, message, cause } = error
    tell({ done: 'dead', error: { name, code, message, cause: cause?.code } })
  },
)
await sleep(200)
tell({ done: 'hanging' })
await failing
await first.close()
