// Cases on the public Channel: two peers in this process over a plain region, so that what TypeScript adds to the rings shows.
import { channelPair } from '../pair.mjs'

/** { cases: [{ name, records, fn }], close } */
export async function channelCases() {
  const { near, far, close } = await channelPair()

  const drain = () => {
    const message = far.receive()
    if (message === null) throw new Error('receive found nothing')
    message.release()
  }
  const bytes = new Uint8Array(64)
  return {
    cases: [
      {
        name: 'Channel: trySend, then receive and release (64 B)',
        records: 1,
        fn: () => {
          if (!near.trySend(bytes)) throw new Error('trySend found no room')
          drain()
        },
      },
      {
        name: 'Channel: reserve and commit, then receive and release (64 B)',
        records: 1,
        fn: () => {
          const lease = near.reserve(64)
          if (lease === null) throw new Error('reserve found no room')
          lease.commit()
          drain()
        },
      },
      {
        name: 'Channel: receive from an empty inbox',
        records: 1,
        fn: () => {
          if (far.receive() !== null) throw new Error('receive found something')
        },
      },
    ],
    close,
  }
}
