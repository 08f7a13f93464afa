import { expect, test } from 'vitest'
import { scratch, startCli, vmring } from '../support/processes.js'

const commands = ['host', 'demo', 'cat', 'proxy', 'ls', 'revoke', 'format', 'bind', 'unbind', 'doctor']

test('without arguments it prints help and says that this was no success', async () => {
  const { code, text, stderr } = await vmring([])
  expect(code).toBe(2)
  expect(text).toBe('')
  for (const name of commands) expect(stderr).toContain(name)
})

test('--help and --version succeed', async () => {
  const help = await vmring(['--help'])
  expect(help.code).toBe(0)
  expect(help.text).toContain('Examples:')
  const version = await vmring(['--version'])
  expect(version.code).toBe(0)
  expect(version.text).toMatch(/^\d+\.\d+\.\d+\n$/)
})

test.each(commands)('%s --help shows examples', async (name) => {
  const { code, text, stderr } = await vmring([name, '--help'])
  expect(stderr).toBe('')
  expect(code).toBe(0)
  expect(text).toContain(`vmring ${name}`)
  expect(text).toContain('Example')
})

test.each([
  ['an unknown command', ['nonsense']],
  ['an unknown option', ['ls', '--nonsense']],
  ['a missing argument', ['cat']],
  ['a surplus argument', ['doctor', 'surplus']],
  ['a missing option value', ['cat', 'service', '--wait']],
  ['a path of no known kind', ['cat', 'service', '--path', 'pigeon']],
  ['a wait that is no number', ['cat', 'service', '--wait', 'soon']],
  ['a size that is no size', ['format', '/dev/null/x', '--size', 'big']],
])('%s: exit code 2 and one line that begins with the name of the program', async (_what, args) => {
  const { code, stderr, text } = await vmring(args)
  expect({ code, text }).toEqual({ code: 2, text: '' })
  expect(stderr).toMatch(/^vmring: /)
  expect(stderr).not.toMatch(/^\s+at /m)
})

test('a region address of no known form: the code and the cure, no stack', async () => {
  const { code, stderr } = await vmring(['cat', 'service', '--region', 'carrier:pigeon'])
  expect(code).not.toBe(0)
  expect(stderr).toMatch(/^vmring: .*\(ERR_VMRING_REGION_ADDRESS\)\n {2}cure: /)
  expect(stderr).not.toMatch(/^\s+at /m)
})

test('a reader of our output that goes away is no crash', async () => {
  const process_ = startCli(['--help'], { stdio: ['ignore', 'pipe', 'pipe'], cwd: scratch() })
  process_.child.stdout!.destroy()
  const { code, signal, stderr } = await process_.finish()
  expect(signal).toBeNull()
  expect([0, 1]).toContain(code)
  expect(stderr).toBe('')
})

test.each([['host'], ['cat', 'x', '--region', 'unix:/nowhere'], ['format', '/nowhere/x']])(
  'without the addon `%s` says what to do',
  async (...args) => {
    const { code, stderr } = await vmring(args, { env: { VMRING_ADDON: '/nowhere/vmring.node' } })
    expect(code).toBe(1)
    expect(stderr).toMatch(/^vmring: the native addon could not be loaded/)
    expect(stderr).toContain('(ERR_VMRING_ADDON)')
    expect(stderr).not.toMatch(/^\s+at /m)
  },
)

test('help needs no addon', async () => {
  const { code, text } = await vmring(['--help'], { env: { VMRING_ADDON: '/nowhere/vmring.node' } })
  expect(code).toBe(0)
  expect(text).toContain('doctor')
})
