/** Two peers in one process, joined by stream wires over real Unix sockets; in a guest that a test has booted, over virtio sockets. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { native } from '../../src/native/binding.js'
import {
  type NativeStream,
  type StreamAddress,
  type StreamHandlers,
  VSOCK_ANY,
} from '../../src/native/socket-types.js'
import { FramePath, type FramePathOptions } from '../../src/path/pump.js'
import { StreamWire } from '../../src/path/stream.js'
import type { Timing } from '../../src/session/repeat.js'
import { memorySide, type Side } from './memory-path.js'

const silent: StreamHandlers = { onRead() {}, onEnd() {}, onDrain() {}, onClose() {} }

/** Set in guests only: the CID of the guest itself (1, vsock_loopback). */
const cid = process.env.VMRING_TEST_VSOCK_CID
export const streamFamily = cid === undefined ? 'unix' : 'vsock'

/** Two ends of one connection, neither reading. `through`: a socket in front of the listener's, which the near end connects to instead. */
export async function streamPair(
  buffer = 0,
  through?: (target: StreamAddress) => Promise<StreamAddress>,
): Promise<[NativeStream, NativeStream]> {
  const directory = mkdtempSync(join(tmpdir(), 'vmring-test-'))
  const path = join(directory, 'stream')
  const address: StreamAddress = cid === undefined ? { path } : { cid: VSOCK_ANY, port: VSOCK_ANY }
  try {
    return await new Promise((resolve, reject) => {
      let near: NativeStream
      const listener = native.streamListen(
        address,
        { buffer },
        {
          onConnection(far) {
            far.start(silent)
            listener.close()
            resolve([near, far])
          },
          onRefused: reject,
        },
      )
      const { local } = listener
      const target = 'port' in local ? { cid: Number(cid), port: local.port } : local
      const connect = (address: StreamAddress): void => {
        near = native.streamConnect(address, { ...silent, onClose: reject }, { buffer })
      }
      if (through === undefined) connect(target)
      else through(target).then(connect, reject)
    })
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

export interface StreamLink {
  near: FramePath
  far: FramePath
  streams: [NativeStream, NativeStream]
  /** Both sides lose the connection, and what is on it. */
  cut(): void
}

export interface StreamRig {
  a: Side
  b: Side
  link(
    name?: 'unix' | 'vsock',
    through?: (target: StreamAddress) => Promise<StreamAddress>,
  ): Promise<StreamLink>
  close(): Promise<void>
}

export function streamRig(
  options: FramePathOptions & { timing?: Partial<Timing>; buffer?: number } = {},
): StreamRig {
  const a = memorySide(1, options.timing ?? {})
  const b = memorySide(7, options.timing ?? {})
  const links: StreamLink[] = []
  const ref = (one: typeof a) => ({ uuid: one.uuid, incarnation: one.incarnation, section: -1 })
  return {
    a,
    b,
    async link(name = streamFamily, through) {
      const streams = await streamPair(options.buffer, through)
      const near = new FramePath(new StreamWire(streams[0], { name }), ref(b), options)
      const far = new FramePath(new StreamWire(streams[1], { name }), ref(a), options)
      a.hub.addPath(near)
      b.hub.addPath(far)
      const link: StreamLink = { near, far, streams, cut: () => near.close(new Error('the test cut it')) }
      links.push(link)
      return link
    },
    async close() {
      await Promise.all([a.peer.close(), b.peer.close()])
      for (const { near, far } of links) {
        near.close(new Error('the rig is taken down'))
        far.close(new Error('the rig is taken down'))
      }
    },
  }
}
