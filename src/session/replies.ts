/** Answers and errors that sessions share. */
import { type ErrorCode, type RecordCounts, VmringError } from '../errors.js'
import { encodeFrame, type Frame, FrameType, Reason } from '../path/frames.js'

const codes: Record<number, ErrorCode> = {
  [Reason.POLICY]: 'ERR_VMRING_POLICY',
  [Reason.LIMIT]: 'ERR_VMRING_LIMIT',
}

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

/** The memory went away, and what was in it: names the range in doubt. */
export function inDoubt(service: string, path: string, counts: RecordCounts, cause: Error): VmringError {
  return new VmringError(
    'ERR_VMRING_PATH_LOST',
    `path ${path} of channel '${service}' is gone with its memory; records ${counts.delivered} up to ${counts.sent} are in doubt`,
    { cause, details: { from: counts.delivered, to: counts.sent, ...counts } },
  )
}

export function peerGone(service: string, counts: RecordCounts): VmringError {
  return new VmringError(
    'ERR_VMRING_PEER_GONE',
    `the process at the other end of channel '${service}' has gone; it had released ${counts.released} of ${counts.sent} records`,
    { details: { ...counts } },
  )
}

export function refused(service: string, reason: number, { text, capacity }: Frame): VmringError {
  return new VmringError(
    codes[reason] ?? 'ERR_VMRING_REFUSED',
    `'${service}' was refused: ${text || `reason ${reason}`}`,
    { details: { reason, capacity } },
  )
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
