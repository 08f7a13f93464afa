import { DEFAULT_SOCKET } from '../default-socket.js'

/** What a failed question to a daemon means, and the command that mends it. */
export function explainSocket(
  socket: string,
  error: NodeJS.ErrnoException,
): { message: string; fix: string } {
  const option = socket === DEFAULT_SOCKET ? '' : ` --socket ${socket}`
  switch (error.code) {
    case 'ENOENT':
      return { message: `no daemon: ${socket} does not exist`, fix: `vmring host${option}` }
    case 'ECONNREFUSED':
      return {
        message: `${socket} is left over from a daemon that is gone`,
        fix: `vmring host${option}    (it replaces the stale file)`,
      }
    case 'EACCES':
    case 'EPERM':
      return {
        message: `no permission for ${socket}`,
        fix: `vmring host${option} --mode 0660 --group GROUP    (as the daemon's user, with a group you are in)`,
      }
    case 'ENOTSOCK':
      return { message: `${socket}.admin is no socket`, fix: `rm ${socket} ${socket}.admin` }
    default:
      return {
        message: `${socket}: ${error.message}`,
        fix: 'look at the output of `vmring host`, and start it again',
      }
  }
}
