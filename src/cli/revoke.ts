/** `vmring revoke`: moves a peer off shared memory, over to the relay. */
import { Command } from 'commander'
import { defaultSocket } from '../default-socket.js'
import { VmringError } from '../errors.js'
import { askHost, type RevokeAnswer } from '../host/admin-client.js'
import { printJson } from './output.js'
import { explainSocket } from './sockets.js'

interface RevokeOptions {
  socket?: string
  restore?: boolean
  json?: boolean
}

export function revokeCommand(): Command {
  return new Command('revoke')
    .summary('move a peer off shared memory')
    .description(
      'Tells a peer to leave shared memory: its channels go on over the relay, with no message lost. It can come back with --restore.',
    )
    .argument('<peer>', 'peer id, or UUID, as `vmring ls` shows them')
    .option('-s, --socket <socket>', 'socket of the daemon (default: VMRING_SOCKET, else the usual one)')
    .option('--restore', 'let it use shared memory again')
    .option('--json', 'print JSON')
    .addHelpText(
      'after',
      `
Examples:
  $ vmring revoke 3
  $ vmring revoke 3 --restore
  $ vmring revoke 5f0c9be2d5a44b6f9d7c3b1a20e4f688 --socket /run/vmring/a.sock`,
    )
    .action(run)
}

async function run(peer: string, options: RevokeOptions): Promise<void> {
  const socket = options.socket ?? defaultSocket()
  const restore = options.restore === true
  const id = /^\d{1,5}$/.test(peer)
  if (!id && !/^[0-9a-f-]{32,36}$/i.test(peer))
    throw new VmringError(
      'ERR_VMRING_ARGUMENT',
      `a peer is an id or a UUID as \`vmring ls\` shows, not '${peer}'`,
    )
  let answer: RevokeAnswer
  try {
    answer = (await askHost(socket, {
      op: 'revoke',
      peer: id ? Number(peer) : peer,
      restore,
    })) as RevokeAnswer
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === undefined || code.startsWith('ERR_')) throw error
    const { message, fix } = explainSocket(socket, error as NodeJS.ErrnoException)
    throw Object.assign(new Error(`${message}; try: ${fix}`, { cause: error }), { code })
  }
  if (options.json) printJson({ ...answer, restore })
  else
    process.stdout.write(
      restore
        ? `peer ${peer} (${answer.uuid}) may use shared memory again\n`
        : `peer ${peer} (${answer.uuid}) was told to leave shared memory\n`,
    )
}
