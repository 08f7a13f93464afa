import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { Aedes } from 'aedes'
import mqtt from 'mqtt'
import { connect, createServer } from 'vmring/net'

export async function serve(at) {
  const broker = await Aedes.createBroker()
  await new Promise((done) => createServer(broker.handle).listen(at, done))
}

export async function open(at) {
  const client = new mqtt.MqttClient(() => connect(at), { reconnectPeriod: 0 })
  await once(client, 'connect')
  const topic = `echo/${randomUUID()}`
  await client.subscribeAsync(topic)
  const echo = async (bytes) => {
    const answer = once(client, 'message')
    await client.publishAsync(topic, bytes, { qos: 1 })
    return (await answer)[1]
  }
  return { echo, hang: () => once(client, 'close'), close: () => client.end(true) }
}
