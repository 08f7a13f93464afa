/**
 * Taking a name for one process alone, as bind() takes a port. There is no table that decides; the processes of a region
 * decide among themselves.
 *
 * To look whether a name is free and then to take it lets two of the same moment succeed. So each first publishes a claim
 * (a name of its own, under which nobody is let in), *then* asks everybody, and listens only if the answers show neither a
 * claim nor the name. Of two, one published its claim last, and asked after that: its question reached the other when that
 * one had published already, and frames of a path keep their order, so no older answer passes for this one. So at least one
 * of two sees the other: never do two listen. Who sees a claim goes by the order of the UUIDs: the least stays and asks on,
 * the others withdraw and wait until that one has listened (EADDRINUSE), given up or died. So never do all fail.
 */
import { createHash } from 'node:crypto'
import { addressInUse } from '../errors.js'
import { peerKey } from '../path/path.js'
import { introductions, whatAllListenTo } from './connect.js'
import type { SessionHub } from './hub.js'

/** between two questions while somebody else has a claim, ms */
const ASK_AGAIN_MS = 20

const claimOf = (service: string) => `claim:${createHash('sha256').update(service).digest('hex')}`

/** Whether another process that is not silent is known to listen there. */
export function takenByOthers(hub: SessionHub, service: string): boolean {
  return holders(hub, service).length > 0
}

function holders({ remotes }: SessionHub, name: string): string[] {
  return [...remotes.values()]
    .filter(({ stalled, services }) => !stalled && services.has(name))
    .map(({ key }) => key)
}

/** `listen`, when nobody else in the region has the name or gets it first. Rejects with EADDRINUSE, and as `listen` does. */
export async function listenAlone<T>(hub: SessionHub, service: string, listen: () => Promise<T>): Promise<T> {
  const claim = claimOf(service)
  if (hub.services.includes(service) || hub.claims(claim)) throw addressInUse(service)
  const own = peerKey(hub.identity.uuid)
  const patience = performance.now() + hub.timing.helloLimit
  hub.claim(claim)
  try {
    await introductions(hub)
    for (;;) {
      await whatAllListenTo(hub)
      if (takenByOthers(hub, service)) throw addressInUse(service, 'another process')
      const rivals = holders(hub, claim)
      const claimed = hub.claims(claim)
      if (rivals.length === 0 && claimed) return await listen()
      if (performance.now() > patience) throw addressInUse(service, 'another process has claimed it and')
      const first = rivals.every((key) => own < key)
      if (claimed === first) await hub.change(ASK_AGAIN_MS)
      else if (first) hub.claim(claim)
      else hub.unclaim(claim)
    }
  } finally {
    // the name itself has been published before this one goes
    hub.unclaim(claim)
  }
}
