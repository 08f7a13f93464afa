/**
 * What http2 puts around a socket without a handle, and what node leaves out there. The wrapper is of a class that programs cannot
 * reach: it is met when http2 calls the first of its methods.
 */
import type net from 'node:net'
import { inner, PlainSocket } from './internals.js'
import type { Socket } from './socket.js'

const around = new WeakSet<object>()
let heeding = false

/** Something wraps that socket now. */
export function heedWrapper(socket: Socket): void {
  around.add(socket)
  if (heeding) return
  heeding = true
  // http2 calls it before it asks whether the wrapper connects
  const { setNoDelay } = PlainSocket.prototype
  PlainSocket.prototype.setNoDelay = function (this: Wrapper, on) {
    const { stream } = this
    if (stream !== undefined && around.delete(stream)) complete(this, stream)
    return setNoDelay.call(this, on)
  }
}

type Wrapper = net.Socket & {
  stream?: Socket
  _handle: object | null
  doWrite(request: object, chunks: Uint8Array[]): number
  finishWrite(handle: object, code: number): void
}

function complete(wrapper: Wrapper, socket: Socket): void {
  const refer = (name: 'ref' | 'unref') => () => {
    socket[name]()
    return wrapper
  }
  Object.assign(wrapper, { ref: refer('ref'), unref: refer('unref') })
  finishInTime(wrapper, socket)
  // http2 sets up its session at once unless the wrapper says that it connects
  if (!socket.connecting) return
  inner(wrapper).connecting = true
  socket.once('connect', () => {
    inner(wrapper).connecting = false
    wrapper.emit('connect')
  })
}

/**
 * The wrapper tells http2 of the end of a write in the next turn of the loop. A system socket has taken it at once as a rule, and so
 * has a channel; but while http2 waits it sends nothing more, and a stream or session that is destroyed in the meantime takes along
 * what it had still to say: a response, the code of a GOAWAY.
 */
function finishInTime(wrapper: Wrapper, socket: Socket): void {
  const { doWrite, finishWrite } = wrapper
  let taken: object | null = null
  let finished = 0
  const finish = (): void => {
    if (taken === null) return
    const handle = taken
    taken = null
    finished++
    finishWrite.call(wrapper, handle, 0)
  }
  wrapper.doWrite = (request, chunks) => {
    const handle = wrapper._handle
    const result = doWrite.call(wrapper, request, chunks)
    if (handle !== null && socket.writableLength === 0 && socket.errored === null && !socket.destroyed) {
      taken = handle
      // not before this has returned to http2
      process.nextTick(finish)
    }
    return result
  }
  wrapper.finishWrite = (handle, code) => {
    if (code === 0 && finished > 0) finished--
    else finishWrite.call(wrapper, handle, code)
  }
  // Behind the listener that hands the bytes to http2: what it has answered them is out before anyone else has a say.
  socket.on('data', finish)
}
