import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import { arch, env, platform, report } from 'node:process'
import { fileURLToPath } from 'node:url'
import type { NativeBinding } from './types.js'

const require = createRequire(import.meta.url)
// src/native/ and dist/native/ lie equally deep
const root = fileURLToPath(new URL('../../', import.meta.url))

/** The oldest glibc that the prebuilt binaries run on (scripts/prebuild.mjs builds against it and checks it). */
const glibcFloor = 28

/** The version of glibc, "2.36"; undefined with musl. */
function glibc(): string | undefined {
  // without this the report looks up names of open connections, which can take seconds
  const settings = report as typeof report & { excludeNetwork?: boolean }
  settings.excludeNetwork = true
  const { header } = settings.getReport() as { header: { glibcVersionRuntime?: string } }
  return header.glibcVersionRuntime
}

function libcCures(): string[] {
  const version = glibc()
  if (version === undefined)
    return [
      'musl is not supported and has no prebuilt binary: build as above on this machine, then set VMRING_ADDON.',
    ]
  if (Number(version.split('.')[1]) >= glibcFloor) return []
  return [
    `The prebuilt binaries need glibc 2.${glibcFloor} or later; this machine has ${version}: build on it.`,
  ]
}

function fail(tried: string[], cause?: unknown): never {
  const cures =
    platform !== 'linux' || (arch !== 'x64' && arch !== 'arm64')
      ? [`vmring runs on Linux, x64 and arm64; this is ${platform} ${arch}.`]
      : [
          'A package without prebuilds/ is not whole: install again, from the tarball that npm run prebuild makes.',
          'In a clone of the repository: npm ci && npm run build (needs python3, make and g++).',
          ...libcCures(),
          'Or set VMRING_ADDON to the path of a vmring.node built for this machine.',
        ]
  const message = [
    'vmring: the native addon could not be loaded. Tried:',
    ...tried.map((line) => `  ${line}`),
    ...cures,
  ]
  throw Object.assign(new Error(message.join('\n'), { cause }), { code: 'ERR_VMRING_ADDON' })
}

function load(): NativeBinding {
  const tried: string[] = []
  let cause: unknown
  const attempt = (path: string): NativeBinding | undefined => {
    if (!existsSync(path)) {
      tried.push(`${path}: no such file`)
      return undefined
    }
    try {
      return require(path) as NativeBinding
    } catch (error) {
      tried.push(`${path}: ${(error as Error).message}`)
      cause = error
      return undefined
    }
  }
  // named by the user: this one or none
  if (env.VMRING_ADDON) return attempt(resolve(env.VMRING_ADDON)) ?? fail(tried, cause)
  // a build made on purpose on this machine goes before the one that came with the package
  return (
    attempt(`${root}build/Release/vmring.node`) ??
    attempt(`${root}prebuilds/linux-${arch}-${glibc() === undefined ? 'musl' : 'glibc'}/vmring.node`) ??
    fail(tried, cause)
  )
}

/**
 * The addon's functions as properties of an object that the engine knows the shape of. What an addon fills property by property is a hash
 * table to it, and each call through that a search.
 */
function shaped(addon: NativeBinding): NativeBinding {
  const names = Object.getOwnPropertyNames(addon) as (keyof NativeBinding)[]
  return { ...Object.fromEntries(names.map((name) => [name, addon[name]])) } as unknown as NativeBinding
}

/** The addon, loaded once per process (and once per worker thread). */
export const native: NativeBinding = shaped(load())
