// Cases on the addon's functions over a pair of ends in private memory. Every run of a case leaves the ring as it found it,
// so what cannot happen alone (a send needs somebody who drains) is measured together and named so.
import { native } from '../../dist/native/binding.js'
import { Kind } from '../../dist/native/types.js'

const batch = 64

function expect(value, wanted, what) {
  if (value !== wanted) throw new Error(`${what} returned ${value}, not ${wanted}`)
}

/** [{ name, records: operations per call, fn }] */
export function endCases() {
  const { near, far, buffer } = native.createPair(1 << 18, 0, 0)
  const scratch = native.scratch
  const sequences = new Float64Array(batch)
  const drain = () => {
    expect(native.endReceive(far), Kind.DATA, 'endReceive')
    expect(native.endRelease(far, scratch[2]), 1, 'endRelease')
  }
  const send = (bytes) => expect(native.endSend(near, bytes, Kind.DATA, 0), 1, 'endSend')
  const receiveBatch = () => {
    for (let i = 0; i < batch; i++) {
      expect(native.endReceive(far), Kind.DATA, 'endReceive')
      sequences[i] = scratch[2]
    }
  }

  const sending = [64, 1024, 16384].flatMap((size) => {
    const bytes = new Uint8Array(size)
    return [
      {
        name: `send, then receive and release (${size} B)`,
        records: 1,
        fn: () => {
          send(bytes)
          drain()
        },
      },
      {
        name: `reserve and commit, then receive and release (${size} B)`,
        records: 1,
        fn: () => {
          if (native.endReserve(near, size) < 0) throw new Error('endReserve found no room')
          expect(native.endCommit(near, size), 1, 'endCommit')
          drain()
        },
      },
    ]
  })

  // Records for the cases that only read lie in a ring of their own: they are read again and again, never released.
  const still = native.createPair(1 << 18, 0, 0)
  for (let i = 0; i < batch; i++) native.endSend(still.near, new Uint8Array(64), Kind.DATA, 0)

  const bytes = new Uint8Array(64)
  return [
    ...sending,
    {
      name: 'reserve and abort (64 B)',
      records: 1,
      fn: () => {
        if (native.endReserve(near, 64) < 0) throw new Error('endReserve found no room')
        expect(native.endAbort(near), 1, 'endAbort')
      },
    },
    {
      name: 'receive, and rewind (64 B)',
      records: 1,
      fn: () => {
        expect(native.endReceive(still.far), Kind.DATA, 'endReceive')
        native.endRewind(still.far)
      },
    },
    {
      name: `batch receive: ${batch}, one rewind (64 B)`,
      records: batch,
      fn: () => {
        for (let i = 0; i < batch; i++) expect(native.endReceive(still.far), Kind.DATA, 'endReceive')
        native.endRewind(still.far)
      },
    },
    {
      name: `receive and view, and rewind (64 B)`,
      records: 1,
      fn: () => {
        expect(native.endReceive(still.far), Kind.DATA, 'endReceive')
        if (new Uint8Array(still.buffer, scratch[0], scratch[1]).length !== 64) throw new Error('wrong view')
        native.endRewind(still.far)
      },
    },
    {
      name: `send, receive, release: ${batch} each in turn (64 B)`,
      records: batch,
      fn: () => {
        for (let i = 0; i < batch; i++) send(bytes)
        receiveBatch()
        for (let i = 0; i < batch; i++) expect(native.endRelease(far, sequences[i]), 1, 'endRelease')
      },
    },
    {
      name: `the same, released newest first (64 B)`,
      records: batch,
      fn: () => {
        for (let i = 0; i < batch; i++) send(bytes)
        receiveBatch()
        for (let i = batch - 1; i >= 0; i--) expect(native.endRelease(far, sequences[i]), 1, 'endRelease')
      },
    },
    {
      name: 'receive from an empty inbox',
      records: 1,
      fn: () => expect(native.endReceive(far), 0, 'endReceive'),
    },
    {
      name: 'wake check: does it fit now?',
      records: 1,
      fn: () => expect(native.endWantSpace(near, 64), true, 'endWantSpace'),
    },
    {
      name: 'a view of the ring: new Uint8Array(buffer, offset, 64)',
      records: 1,
      fn: () => {
        if (new Uint8Array(buffer, 64, 64).length !== 64) throw new Error('wrong view')
      },
    },
  ]
}
