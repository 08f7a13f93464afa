/** Joins a channel and a socket of the kernel: bytes both ways, each with its own end and its own back-pressure. */
import type { Socket } from 'node:net'
import type { Channel } from '../channel/channel.js'
import { asError, VmringError } from '../errors.js'

/** Most bytes to hand to the socket before the event loop gets its turn. */
const BYTES_PER_TURN = 1024 * 1024

/**
 * Carries until both directions have ended, or one side fails: then the other one is reset. `socket` needs allowHalfOpen.
 * Resolves with null or the failure, never rejects. What waits is bounded by the ring and the socket's high-water mark.
 */
export function join(channel: Channel, socket: Socket): Promise<Error | null> {
  return new Promise((resolve) => {
    let failure: Error | null = null
    let budget = BYTES_PER_TURN
    let turn: NodeJS.Immediate | null = null
    let open = 2

    const fail = (error: unknown): void => {
      failure ??= asError(error)
      channel.destroy(failure)
      reset(socket)
    }
    const over = (): void => {
      if (--open > 0) return
      if (turn !== null) clearImmediate(turn)
      resolve(failure)
    }

    socket.on('data', (chunk: Buffer) => {
      try {
        if (chunk.length <= channel.inlineLimit && channel.trySend(chunk)) return
        socket.pause()
        channel.send(chunk).then(() => socket.resume(), fail)
      } catch (error) {
        fail(error)
      }
    })
    socket.on('end', () => channel.end())
    socket.on('error', fail)
    socket.on('close', () => {
      if (!socket.readableEnded || !socket.writableFinished) fail(failure ?? cutOff())
      over()
    })

    // A copy: the kernel may take the bytes later, and their place in the ring goes back to the sender now.
    const pull = (): void => {
      turn = null
      socket.cork()
      while (failure === null && !socket.writableNeedDrain && budget > 0) {
        const message = channel.receive()
        if (message === null) break
        if (message.length > 0 && !socket.destroyed) socket.write(message.copy())
        budget -= Math.max(message.length, 64)
        message.release()
      }
      socket.uncork()
      // A socket that takes everything at once says 'drain' before the loop has turned.
      if (budget <= 0) {
        turn ??= setImmediate(() => {
          budget = BYTES_PER_TURN
          pull()
        })
      }
    }
    channel.on('readable', pull)
    channel.on('end', () => socket.end())
    socket.on('drain', pull)
    void channel.closed.then((error) => {
      if (error !== null) fail(error)
      over()
    })
    pull()
    socket.resume()
  })
}

/** Ends a connection so that the other side sees ECONNRESET; Unix sockets have nothing of the kind, and just end. */
export function reset(socket: Socket): void {
  if (socket.destroyed) return
  if (socket.remoteFamily === undefined || socket.connecting) socket.destroy()
  else socket.resetAndDestroy()
}

function cutOff(): VmringError {
  return new VmringError('ERR_VMRING_CLOSED', 'the socket was closed before both directions had ended')
}
