/** What the relay allows. Every number stands in docs/protocol.md too; a peer may rely on them and need not probe. */

/** from connect to the first whole frame, ms */
export const HANDSHAKE_MS = 5_000
/** from CALL to TAKE, ms: a guest whose device is unplugged stands still for seconds while its kernel sees to the pages */
export const CALL_MS = 10_000
/** how long a relay that has started does not know who is gone: longer than the longest pause between two attempts of a client, ms */
export const RETURN_MS = 6_000
/** how long a refused connection may take to read its REFUSE and close, ms */
export const LINGER_MS = 1_000
/** what is read and thrown away meanwhile, bytes */
export const LINGER_BYTES = 64 * 1024

/** connections of all origins together; two of them with their buffers cost 128 KiB, so 128 MiB in all */
export const MAX_CONNECTIONS = 2048
/** connections of one origin */
export const MAX_ORIGIN_CONNECTIONS = 512
/** connections of one origin that have not said yet what they are */
export const MAX_ORIGIN_HANDSHAKES = 64
/** control connections of one origin */
export const MAX_ORIGIN_PEERS = 128
/** calls of one origin that have not been answered */
export const MAX_ORIGIN_CALLS = 64
/** service names of one origin, all its peers together */
export const MAX_ORIGIN_SERVICES = 1024

/** frames that a control connection may send at once … */
export const FRAME_BURST = 1024
/** … and per second from then on; it is not read from when it sends more */
export const FRAME_RATE = 256
/** bytes that may wait for a control connection that does not read */
export const MAX_CONTROL_QUEUE = 64 * 1024

/** bytes in flight in each direction of a splice */
export const SPLICE_BYTES = 64 * 1024

/** how long a UUID stays with the origin that had it, when its last connection has gone, ms */
export const BINDING_MS = 30_000
/** UUIDs and origins remembered */
export const MAX_REMEMBERED = 4096

/** log lines of one origin at once, and per second from then on */
export const LOG_BURST = 20
export const LOG_RATE = 1
