/** Answers and errors that sessions share. */
import { VmringError } from '../errors.js'
import { encodeFrame, type Frame, FrameType, Reason } from '../path/frames.js'

export function closedRefusal(channel: Uint8Array): Uint8Array {
  return encodeFrame({
    type: FrameType.REFUSE,
    channel,
    reason: Reason.CLOSED,
    text: 'the channel is closed',
  })
}

export function notUnderstood(): VmringError {
  return new VmringError(
    'ERR_VMRING_PROTOCOL',
    'the other side requires something that this version does not know',
  )
}

export function pathLost(service: string, path: string, cause: Error): VmringError {
  return new VmringError('ERR_VMRING_PATH_LOST', `path ${path} was lost while channel '${service}' opened`, {
    cause,
  })
}

export function resetError(service: string, frame: Frame): VmringError {
  const code = frame.reason === Reason.PROTOCOL ? 'ERR_VMRING_PROTOCOL' : 'ERR_VMRING_RESET'
  return new VmringError(
    code,
    `the other side reset channel '${service}': ${frame.text || 'no reason given'}`,
    {
      details: { reason: frame.reason },
    },
  )
}
