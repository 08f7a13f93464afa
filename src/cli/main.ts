#!/usr/bin/env node
/** The `vmring` command. Commands load what they need when they run, so that help and `doctor` work without the addon. */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { benchCommand } from './bench.js'
import { bindCommand, unbindCommand } from './bind.js'
import { catCommand } from './cat.js'
import { demoCommand } from './demo.js'
import { doctorCommand } from './doctor.js'
import { describeFailure, EXIT_USAGE, exitCodeOf } from './failure.js'
import { formatCommand } from './format.js'
import { Interrupted } from './interrupt.js'
import { lsCommand } from './ls.js'
import { proxyCommand } from './proxy.js'
import { revokeCommand } from './revoke.js'

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

/** The daemon needs the addon as soon as it is loaded; the other commands, `doctor` above all, must do without. */
async function hostCommand(): Promise<Command> {
  try {
    return (await import('./host.js')).hostCommand()
  } catch (error) {
    return new Command('host')
      .description('run the host daemon (the native addon is missing: see `vmring doctor`)')
      .argument('[anything...]')
      .allowUnknownOption()
      .action(() => {
        throw error
      })
  }
}

const program = new Command('vmring')
  .description('Messages between virtual machines and processes on one host, through shared memory.')
  .version(version, '-V, --version', 'print the version')
  .helpOption('-h, --help', 'print help')
  .helpCommand('help [command]', 'print the help of a command')
  .showHelpAfterError('Try `vmring --help`.')
  .addHelpText(
    'after',
    `
Examples:
  $ vmring demo                       what it does and how fast, on this machine, in seconds
  $ vmring host                       the daemon that owns the shared memory
  $ vmring cat --listen orders        receive what another process sends to "orders"
  $ date | vmring cat orders          send it
  $ vmring proxy --listen cache --to tcp:127.0.0.1:6379
                                      any program's socket as a service, or the other way round
  $ sudo vmring bind                  in a guest: give its device to vfio-pci, for interrupts
  $ vmring doctor                     what is missing here, and the command that mends it

Regions (--region, or VMRING_REGION):
  unix:/run/vmring/default.sock       the socket of a host daemon
  file:/dev/shm/x                     a plain region file, made with \`vmring format\`
  pci:0000:01:00.0                    the ivshmem device of a guest

Exit codes: 0 success, 1 failure, 2 wrong usage, 128 + n ended by signal n.`,
  )

program.exitOverride()
program.configureOutput({
  outputError: (text, write) => write(text.replace(/^error: /, 'vmring: ')),
})

/** What addCommand() does not hand down: errors come back here, so that there is one place that chooses the exit code. */
function settle(command: Command, parent: Command, name: string): void {
  command.copyInheritedSettings(parent).exitOverride()
  command.showHelpAfterError(`Try \`${name} --help\`.`)
  for (const child of command.commands) settle(child, command, `${name} ${child.name()}`)
}

for (const command of [
  await hostCommand(),
  demoCommand(),
  benchCommand(),
  catCommand(),
  proxyCommand(),
  lsCommand(),
  revokeCommand(),
  formatCommand(),
  bindCommand(),
  unbindCommand(),
  doctorCommand(),
]) {
  settle(command, program, `vmring ${command.name()}`)
  program.addCommand(command)
}

// A closed pipe on standard output is an everyday event (`vmring ls | head -1`); commands that stream listen themselves.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (process.stdout.listenerCount('error') > 1) return
  if (error.code === 'EPIPE') process.exit(1)
  throw error
})

try {
  if (process.argv.length <= 2) {
    program.outputHelp({ error: true })
    process.exitCode = EXIT_USAGE
  } else {
    await program.parseAsync()
  }
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : EXIT_USAGE
  } else if (!(error instanceof Interrupted)) {
    process.stderr.write(describeFailure(error))
    process.exitCode = exitCodeOf(error)
  }
}
