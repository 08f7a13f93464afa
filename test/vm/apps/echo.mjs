// echo.mjs REGION SERVICE: sends back whatever comes. When its device is unplugged it attaches again as soon as there is
// one. One JSON object a line tells what happens.
import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { attach } from '../../../dist/index.js'

const [region, service] = process.argv.slice(2)
const say = (said, more) => console.log(JSON.stringify({ said, ...more }))

async function serve() {
  const peer = await attach({ region })
  const lost = new Promise((resolve) => peer.once('lost', resolve))
  const server = await peer.listen(service)
  server.on('channel', (channel) => {
    channel.on('error', ({ code }) => say('ended', { code }))
    channel.on('message', async (message) => {
      if (message.length === 5 && message.text() === 'peers') {
        await channel.send(Buffer.from(JSON.stringify(peer.peers().map(({ uuid }) => uuid))))
      } else await channel.send(message.copy())
    })
  })
  say('ready', { pid: process.pid })
  const error = await lost
  say('lost', { code: error.code })
  await peer.close()
}

for (;;) {
  try {
    // just plugged in, it has no driver yet, and sysfs would do
    while (!existsSync(`/sys/bus/pci/drivers/vfio-pci/${region.slice(4)}`)) await sleep(50)
    await serve()
  } catch (error) {
    say('failed', { code: error.code, message: error.message })
    await sleep(100)
  }
}
