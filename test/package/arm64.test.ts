/** The arm64 binary from the installed tarball, in an arm64 Node that qemu-user interprets: the program and the API suite. */
import { spawn } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import ts from 'typescript'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { apps, debian, fetched, Project, root, run, tarball } from './tarball.js'

const sysroot = '/usr/aarch64-linux-gnu'
const qemu = '/usr/bin/qemu-aarch64-static'
// inside the repository, so that the matchers are found in its node_modules
const suite = join(root, 'node_modules/.cache/vmring-arm64')
const suiteFiles = ['test/unit', 'test/conformance'].flatMap((dir) =>
  readdirSync(join(root, dir)).map((file) => join(dir, file)),
)
// five times what the longest takes on a machine that does nothing else
const FILE_LIMIT = 1_000_000

let project: Project
let wrapper: string
let env: NodeJS.ProcessEnv

beforeAll(() => {
  if (!existsSync(tarball)) throw new Error(`${tarball} is missing: npm run prebuild`)
  debian({
    [qemu]: 'qemu-user-static',
    [`${sysroot}/lib/libc.so.6`]: 'libc6-arm64-cross',
    [`${sysroot}/lib/libstdc++.so.6`]: 'libstdc++6-arm64-cross',
  })
  const arm = fetched('nodes-arm64', 'node20/bin/node', '--force')
  project = new Project(fetched('nodes', 'node20/bin/node'))
  project.install()
  wrapper = join(project.dir, 'node-arm64')
  writeFileSync(wrapper, `#!/bin/sh\nexec ${qemu} -L ${sysroot} '${arm}' "$@"\n`)
  chmodSync(wrapper, 0o755)
  env = { ...project.env, SHIM_NODE: wrapper, VMRING_TEST_SLOW: '10', VMRING_RELAY: 'none' }
  translate()
})
afterAll(() => {
  project?.remove()
  rmSync(suite, { recursive: true, force: true })
})

test('the program', () => {
  copyFileSync(join(apps, 'talk.mjs'), join(project.home, 'talk.mjs'))
  const talk = run(wrapper, ['talk.mjs', join(project.home, 'region')], project.home, env)
  expect(talk).toMatchObject({ status: 0 })
  expect(JSON.parse(talk.stdout)).toMatchObject({
    small: 'two coffees: on the way',
    leased: 'one tea: on the way',
    large: true,
    path: 'shm',
    arch: 'arm64',
  })
})

/** The suite as JavaScript, over the sources in the installed package: src/ is a link to its dist/. */
function translate(): void {
  rmSync(suite, { recursive: true, force: true })
  const files = ['test/unit', 'test/conformance', 'test/support'].flatMap((dir) =>
    readdirSync(join(root, dir)).map((file) => join(dir, file)),
  )
  for (const file of files) {
    const to = join(suite, file.replace(/\.ts$/, '.js'))
    mkdirSync(dirname(to), { recursive: true })
    if (!file.endsWith('.ts')) {
      copyFileSync(join(root, file), to)
      continue
    }
    const compilerOptions = {
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.ESNext,
      verbatimModuleSyntax: true,
    }
    const { outputText } = ts.transpileModule(readFileSync(join(root, file), 'utf8'), { compilerOptions })
    writeFileSync(to, outputText.replaceAll(/from ['"]vitest['"]/g, "from '../../shim.mjs'"))
  }
  copyFileSync(join(root, 'test/package/shim.mjs'), join(suite, 'shim.mjs'))
  writeFileSync(join(suite, 'package.json'), '{ "type": "module" }')
  for (const name of ['src', 'dist']) symlinkSync(join(project.installed, 'dist'), join(suite, name))
  writeFileSync(
    join(suite, 'main.mjs'),
    "import { main } from './shim.mjs'\nawait main(process.argv.slice(2))\n",
  )
}

/** What a file said under qemu: its tests, each with its time, and the one that was running when time was up. */
interface Said {
  code: number | string | null
  failed: string[]
  /** the last of the output, when something is wrong */
  output: string
}

function suiteFile(file: string): Promise<Said> {
  const addon = join(project.installed, 'prebuilds/linux-arm64-glibc/vmring.node')
  const args = ['--expose-gc', join(suite, 'main.mjs'), join(suite, file.replace(/\.ts$/, '.js'))]
  return new Promise((resolve, reject) => {
    const child = spawn(wrapper, args, {
      cwd: suite,
      env: { ...env, VMRING_ADDON: addon },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        output += text
      })
    }
    const timer = setTimeout(() => child.kill('SIGKILL'), FILE_LIMIT)
    child.on('error', reject)
    child.on('close', (code, signal) => {
      clearTimeout(timer)
      const lines = output.split('\n')
      const failed = lines.filter((line) => line.startsWith('✗'))
      console.log(`${file}: ${lines.findLast((line) => /^\d+ passed/.test(line)) ?? signal}`)
      resolve({ code: code ?? signal, failed, output: code === 0 ? '' : output.slice(-6000) })
    })
  })
}

test.concurrent.each(suiteFiles)(
  '%s',
  async (file) => {
    expect(await suiteFile(file)).toEqual({ code: 0, failed: [], output: '' })
  },
  FILE_LIMIT + 20_000,
)
