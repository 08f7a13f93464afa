/** The tarball of `npm run prebuild`, projects that install it with nothing but npm, and the Nodes that run them. */
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'

export const root = fileURLToPath(new URL('../../', import.meta.url))
export const apps = fileURLToPath(new URL('apps/', import.meta.url))

const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }
export const tarball = join(root, `vmring-${version}.tgz`)

export interface Result {
  status: number | null
  stdout: string
  stderr: string
}

export function run(command: string, args: string[], cwd: string, env: NodeJS.ProcessEnv, timeout = 200_000) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd, env, timeout, encoding: 'utf8' })
  if (error !== undefined) throw error
  return { status, stdout, stderr } satisfies Result
}

/** What `node` and `npm` are found by, and no more: no compiler, no python, no make. */
function emptyPath(dir: string, node: string): string {
  const path = join(dir, 'bin')
  mkdirSync(path)
  symlinkSync(node, join(path, 'node'))
  for (const tool of ['sh', 'env']) symlinkSync(`/bin/${tool}`, join(path, tool))
  return path
}

/** A directory of its own with an empty npm cache and configuration, and the environment of a user who has set nothing. */
export class Project {
  readonly dir = mkdtempSync(join(tmpdir(), 'vmring-package-'))
  readonly home = join(this.dir, 'app')
  readonly env: NodeJS.ProcessEnv

  constructor(readonly node: string) {
    mkdirSync(this.home)
    writeFileSync(
      join(this.home, 'package.json'),
      JSON.stringify({ name: 'app', private: true, type: 'module' }),
    )
    for (const file of ['user.npmrc', 'global.npmrc']) writeFileSync(join(this.dir, file), '')
    this.env = {
      PATH: emptyPath(this.dir, node),
      HOME: this.dir,
      npm_config_cache: join(this.dir, 'cache'),
      npm_config_userconfig: join(this.dir, 'user.npmrc'),
      npm_config_globalconfig: join(this.dir, 'global.npmrc'),
    }
  }

  /** `npm install --offline`, run by this project's Node. */
  install(): void {
    const args = [npm(), 'install', '--offline', '--no-audit', '--no-fund', tarball]
    const { status, stderr } = run(this.node, args, this.home, this.env)
    expect({ status, stderr }).toMatchObject({ status: 0 })
  }

  get installed(): string {
    return join(this.home, 'node_modules/vmring')
  }

  remove(): void {
    rmSync(this.dir, { recursive: true, force: true })
  }
}

/** npm's program, to be run by any Node. */
export function npm(): string {
  return join(realpathSync(findProgram('npm')), '../npm-cli.js')
}

function findProgram(name: string): string {
  const found = (process.env.PATH ?? '').split(':').map((dir) => join(dir, name))
  const path = found.find((file) => existsSync(file))
  if (path === undefined) throw new Error(`${name} is not in PATH`)
  return path
}

/** Installs one of the pinned sets of scripts/ from npm when it is not there yet. */
export function fetched(set: string, file: string, ...flags: string[]): string {
  const prefix = join(root, 'scripts', set)
  const path = join(prefix, 'node_modules', file)
  if (!existsSync(path)) {
    const args = ['ci', '--no-audit', '--no-fund', ...flags, '--prefix', prefix]
    const { status, stderr } = run('npm', args, root, process.env, 500_000)
    if (status !== 0) throw new Error(`npm ${args.join(' ')}\n${stderr}`)
  }
  return path
}

/** Debian packages for files that are missing, by name. */
export function debian(files: Record<string, string>): void {
  const missing = Object.entries(files).filter(([file]) => !existsSync(file))
  if (missing.length === 0) return
  const names = [...new Set(missing.map(([, name]) => name))]
  const sudo = process.getuid?.() === 0 ? [] : ['sudo', '-n']
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  for (const args of [
    ['update', '-qq'],
    ['install', '-y', '-qq', '--no-install-recommends', ...names],
  ]) {
    const [command, ...rest] = [...sudo, 'apt-get', ...args] as [string, ...string[]]
    const { status, stderr } = run(command, rest, root, env, 500_000)
    if (status !== 0) throw new Error(`needs ${names.join(', ')}: ${[command, ...rest].join(' ')}\n${stderr}`)
  }
}
