// Round trips of 64 bytes over a channel that is open, through any of the three interfaces: for trips.mjs and beside.mjs.
const TRIPS = 64 // for each look at the clock
const bytes = new Uint8Array(64)
const wait = { timeout: 10 }

async function take(channel, api, onMessage) {
  if (api === 'event') {
    channel.on('message', onMessage)
  } else if (api === 'iterate') {
    for await (const message of channel) onMessage(message)
  } else {
    for (;;) {
      for (let i = 0; i < 20_000; i++) {
        const message = channel.receiveSync(wait)
        if (message === null) break
        onMessage(message)
        message.release()
      }
      await new Promise(setImmediate)
    }
  }
}

/** The other side: sends back what comes, for ever. */
export function answer(channel, api) {
  take(channel, api, (message) => {
    bytes[0] = message.view[0]
    channel.trySend(bytes)
  })
}

/** After `seconds`: calls back with what a trip took, ns, once for each look at the clock. */
export function measure(channel, api, seconds, done) {
  const times = []
  let count = 0
  let begin = performance.now()
  const until = begin + seconds * 1000
  take(channel, api, (message) => {
    if (++count === TRIPS) {
      const now = performance.now()
      times.push(((now - begin) * 1e6) / TRIPS)
      count = 0
      begin = now
      if (now > until) {
        done(times)
        return
      }
    }
    bytes[0] = message.view[0]
    channel.trySend(bytes)
  })
  channel.trySend(bytes)
}
