/** The tarball in a project that has Node, npm's program and nothing else, on every line of Node; and what the loader says. */
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeAll, describe, expect, test } from 'vitest'
import { apps, fetched, Project, root, run, tarball } from './tarball.js'

const lines = ['20', '22', '24', '26']
let project: Project | undefined
beforeAll(() => {
  if (!existsSync(tarball)) throw new Error(`${tarball} is missing: npm run prebuild`)
})
afterEach(() => project?.remove())

function open(line: string): Project {
  project = new Project(fetched('nodes', `node${line}/bin/node`))
  project.install()
  return project
}

test.each(lines)('Node %s: npm install --offline, a program, the command', (line) => {
  const { home, env, node } = open(line)
  copyFileSync(join(apps, 'talk.mjs'), join(home, 'talk.mjs'))
  const talk = run(node, ['talk.mjs', join(home, 'region')], home, env)
  expect(talk).toMatchObject({ status: 0, stderr: '' })
  const said = JSON.parse(talk.stdout)
  expect(said).toMatchObject({
    small: 'two coffees: on the way',
    leased: 'one tea: on the way',
    large: true,
    path: 'shm',
    arch: 'x64',
  })
  expect(said.node.split('.')[0]).toBe(line)

  const help = run(join(home, 'node_modules/.bin/vmring'), ['--help'], home, env)
  expect(help).toMatchObject({ status: 0, stderr: '' })
  expect(help.stdout).toContain('Usage: vmring')
})

test.each(['x64', 'arm64'])(
  'the binary for %s asks for no glibc above 2.28 and brings its C++ library',
  (arch) => {
    const file = join(root, `prebuilds/linux-${arch}-glibc/vmring.node`)
    const { status, stdout } = spawnSync('objdump', ['-T', file], { encoding: 'utf8' })
    expect(status).toBe(0)
    const versions = [...stdout.matchAll(/GLIBC_(\d+)\.(\d+)/g)].map(([, a, b]) => [Number(a), Number(b)])
    expect(versions.length).toBeGreaterThan(20)
    expect(versions.filter(([a, b]) => a! > 2 || b! > 28)).toEqual([])
    expect(stdout).not.toMatch(/GLIBCXX|CXXABI|\*UND\*.*\b(_Z|_Unwind)/)
  },
)

describe('what the loader says', () => {
  /** Imports vmring in a Node that is told what machine it is on. */
  function load(pretend: string): { status: number | null; stderr: string } {
    const { home, env, node, installed } = open('20')
    renameSync(join(installed, 'prebuilds'), join(installed, 'elsewhere'))
    writeFileSync(join(home, 'pretend.mjs'), pretend)
    const args = ['--import', './pretend.mjs', '--input-type=module', '-e', "await import('vmring')"]
    return run(node, args, home, env)
  }

  test('no binary: what was tried and what helps', () => {
    const { status, stderr } = load('')
    expect(status).not.toBe(0)
    expect(stderr).toContain('ERR_VMRING_ADDON')
    expect(stderr).toMatch(/prebuilds\/linux-x64-glibc\/vmring\.node: no such file/)
    expect(stderr).toContain('npm ci && npm run build')
    expect(stderr).toContain('VMRING_ADDON')
    expect(stderr).not.toContain('musl')
  })

  test('musl: not supported, and how to build', () => {
    const { stderr } = load('process.report.getReport = () => ({ header: {} })')
    expect(stderr).toMatch(/prebuilds\/linux-x64-musl\/vmring\.node: no such file/)
    expect(stderr).toMatch(/musl is not supported.*build/)
  })

  test('an older glibc: the floor', () => {
    const { stderr } = load("process.report.getReport = () => ({ header: { glibcVersionRuntime: '2.17' } })")
    expect(stderr).toContain('glibc 2.28 or later; this machine has 2.17')
  })

  test('another system, another processor: what there is', () => {
    const { stderr } = load("Object.defineProperty(process, 'arch', { value: 'riscv64' })")
    expect(stderr).toContain('vmring runs on Linux, x64 and arm64; this is linux riscv64.')
  })
})
