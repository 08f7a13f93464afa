// Connections that break (test/support/broken-conversation.ts) in a guest that talks to itself over virtio sockets. Vitest alone would
// take longer there than all of it: the few files are translated here, what they import of the package is in dist.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import ts from 'typescript'
import type { Guest } from '../../src/vm/index.js'
import type { Came, Sample } from '../support/broken-conversation.js'

/** What a guest manages in the course of a check. */
export const fewBytes: Sample = { dense: 0, stride: 47, shifts: 24 }

const root = resolve(import.meta.dirname, '../..')

/** Translates a file of test/support and what it imports from there into `folder`; the program's path. */
function translate(file: string, folder: string, done = new Set<string>()): string {
  const target = join(folder, basename(file).replace(/ts$/, 'js'))
  if (done.has(file)) return target
  done.add(file)
  const source = readFileSync(join(root, 'test/support', file), 'utf8')
  const { ESNext } = ts.ModuleKind
  const compilerOptions = { module: ESNext, target: ts.ScriptTarget.ES2022 }
  const text = ts.transpileModule(source, { compilerOptions }).outputText
  writeFileSync(target, text.replaceAll(/(from ')\.\.\/\.\.\/src\//g, `$1${root}/dist/`))
  for (const [, name] of text.matchAll(/from '\.\/([\w-]+)\.js'/g)) translate(`${name}.ts`, folder, done)
  return target
}

export interface Broken extends Came {
  kind: string
  way: string
}

/** What came of all kinds of breaks, or of those named, both ways. Rejects with the first conversation that did not come about. */
export async function breakInGuest(
  guest: Guest,
  { sample, kinds, timeout }: { sample: Sample; kinds?: readonly string[]; timeout: number },
): Promise<Broken[]> {
  await guest.sh('modprobe vsock_loopback')
  const folder = join(guest.share, 'broken')
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  const conversation = translate('broken-conversation.ts', folder)
  const program = join(folder, 'main.js')
  writeFileSync(
    program,
    `import { breakAll, kinds, ways } from '${conversation}'
const [sample, chosen = kinds] = process.argv.slice(2).map((text) => JSON.parse(text))
const say = (kind, way, came, end) => console.log(JSON.stringify({ kind, way, ...came, end }))
for (const kind of chosen) for (const way of ways) {
  say(kind, way, await breakAll(kind, way, sample, (came) => say(kind, way, came, false)), true)
}
process.exit(0)
`,
  )
  // the guest keeps the program as it first was: what differs comes with the call
  const words = [sample, ...(kinds === undefined ? [] : [kinds])].map((word) => JSON.stringify(word))
  const env = ['env', 'VMRING_TEST_VSOCK_CID=1']
  const { stdout } = await guest.run([...env, process.execPath, '--expose-gc', program, ...words], {
    timeout,
  })
  const said = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Broken & { end: boolean })
  return said.filter(({ end }) => end)
}
