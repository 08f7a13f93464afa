// vmring/register in what an unmodified program starts: worker threads, forked processes, the workers of a cluster.
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { expect, test } from 'vitest'
import { root, scratch, startDaemon, startNode } from '../support/processes.js'

const register = join(root, 'dist/register/index.js')
const ways = {
  '--import': { execArgv: ['--import', pathToFileURL(register).href] },
  '--require': { execArgv: ['--require', register] },
  NODE_OPTIONS: { env: { NODE_OPTIONS: `--import ${pathToFileURL(register).href}` } },
}

interface Run {
  region: string
  way?: keyof typeof ways
  map?: string
}

/** What the program prints, line by line in alphabetical order; nothing else, and no error. */
async function run(files: Record<string, string>, { region, way = '--import', map }: Run): Promise<string[]> {
  const directory = scratch()
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(directory, name)), { recursive: true })
    writeFileSync(join(directory, name), text)
  }
  const { execArgv, env } = { execArgv: [] as string[], env: {}, ...ways[way] }
  const environment = { ...env, VMRING_REGION: region, VMRING_MAP: map ?? '127.0.0.1:7=echo' }
  const program = startNode([join(directory, Object.keys(files)[0]!)], { execArgv, env: environment })
  const { code, stdout, stderr } = await program.finish()
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return stdout.toString().trim().split('\n').sort()
}

const echo = `require('net').createServer((s) => s.pipe(s)).listen(7, '127.0.0.1'`

test.each(['--import', '--require', 'NODE_OPTIONS'] as const)(
  '%s: a server in the main thread, clients in worker threads, CommonJS and ESM',
  async (way) => {
    const { region } = await startDaemon()
    const client = `const socket = connect(7, '127.0.0.1').on('data', (data) => { console.log(String(data)); socket.end() })
      socket.write(__MESSAGE__)`
    const printed = await run(
      {
        'main.cjs': `
          const { Worker } = require('worker_threads')
          const server = ${echo}, () => {
            let left = 2
            for (const file of ['a.cjs', 'b.mjs'])
              new Worker(require('path').join(__dirname, file)).on('exit', () => --left || server.close())
          })`,
        'a.cjs': `const { connect } = require('net'); ${client.replace('__MESSAGE__', "'from CommonJS'")}`,
        'b.mjs': `import { connect } from 'node:net'; ${client.replace('__MESSAGE__', "'from ESM'")}`,
      },
      { region, way },
    )
    expect(printed).toEqual(['from CommonJS', 'from ESM'])
  },
)

test('a server in a worker thread that is terminated: its client sees a reset, the program goes on', async () => {
  const { region } = await startDaemon()
  const printed = await run(
    {
      'main.cjs': `
        const { connect } = require('net')
        const worker = new (require('worker_threads').Worker)(require('path').join(__dirname, 'server.cjs'))
        worker.on('message', () => {
          const socket = connect(7, '127.0.0.1')
          socket.write('hello')
          socket.once('data', (data) => { console.log(String(data)); worker.terminate() })
          socket.on('error', ({ code }) => console.log(code))
          socket.on('close', () => setTimeout(() => connect(7, '127.0.0.1').on('error', ({ code }) => console.log(code)), 100))
        })`,
      'server.cjs': `${echo}, () => require('worker_threads').parentPort.postMessage('ready'))`,
    },
    { region },
  )
  expect(printed).toEqual(['ECONNREFUSED', 'ECONNRESET', 'hello'])
})

test('child_process.fork: the child is redirected as its parent is', async () => {
  const { region } = await startDaemon()
  const printed = await run(
    {
      'main.cjs': `
        const server = ${echo}, () => {
          const child = require('child_process').fork(require('path').join(__dirname, 'child.mjs'))
          child.on('exit', () => server.close())
        })`,
      'child.mjs': `
        import { connect } from 'node:net'
        const socket = connect(7, '127.0.0.1').on('data', (data) => { console.log(String(data)); socket.end() })
        socket.write('from a child')`,
    },
    { region },
  )
  expect(printed).toEqual(['from a child'])
})

test('cluster: workers connect; they cannot share a service, but one may have it for itself', async () => {
  const { region } = await startDaemon()
  const printed = await run(
    {
      'main.cjs': `
        const cluster = require('cluster')
        const net = require('net')
        if (cluster.isPrimary) {
          const server = ${echo}, () => {
            const workers = [cluster.fork(), cluster.fork()]
            workers.forEach((worker) => worker.on('exit', () => workers.every((w) => w.isDead()) && server.close()))
          })
        } else {
          const socket = net.connect(7, '127.0.0.1').on('data', (data) => {
            console.log('worker ' + data)
            socket.end()
            net.createServer().listen(8, '127.0.0.1').on('error', ({ code, syscall, port, cause }) => {
              console.log(code, syscall, port, cause.code, cause.message.includes('exclusive'))
              if (cluster.worker.id === 2) return process.disconnect()
              net.createServer((s) => s.end('alone')).listen({ port: 8, host: '127.0.0.1', exclusive: true }, () => {
                net.connect(8, '127.0.0.1').on('data', (data) => console.log(String(data))).on('close', () => process.exit())
              })
            })
          })
          socket.write('says hello')
        }`,
    },
    { region, map: '127.0.0.1:7=echo,127.0.0.1:8=other' },
  )
  const refused = 'ENOTSUP listen 8 ERR_VMRING_CLUSTER true'
  expect(printed).toEqual([refused, refused, 'alone', 'worker says hello', 'worker says hello'])
})

test('cluster: addresses outside the map are shared as ever', async () => {
  const { region } = await startDaemon()
  const printed = await run(
    {
      'main.cjs': `
        const cluster = require('cluster')
        const net = require('net')
        if (cluster.isPrimary) {
          const workers = [cluster.fork(), cluster.fork()]
          let listening = 0
          cluster.on('listening', (_worker, { port }) => {
            if (++listening < 2) return
            net.connect(port, '127.0.0.1').on('data', (data) => console.log(String(data)))
              .on('close', () => workers.forEach((worker) => worker.kill()))
          })
        } else net.createServer((s) => s.end('over tcp')).listen(0, '127.0.0.1')`,
    },
    { region },
  )
  expect(printed).toEqual(['over tcp'])
})
