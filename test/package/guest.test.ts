/** The tarball in a booted guest: no network, no compiler, an empty npm cache, and every line of Node. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { Bed, type Guest } from '../../src/vm/index.js'
import { apps, fetched, npm, tarball } from './tarball.js'

let bed: Bed
let guest: Guest
beforeAll(async () => {
  if (!existsSync(tarball)) throw new Error(`${tarball} is missing: npm run prebuild`)
  bed = await Bed.open()
  guest = await bed.boot({ name: 'app', memory: 1024, iommu: false })
})
afterAll(() => bed?.close())

test.each(['20', '22', '24', '26'])(
  'Node %s: npm install --offline, a program, the command',
  async (line) => {
    const node = fetched('nodes', `node${line}/bin/node`)
    // the same programs as in emptyPath()
    const { stdout } = await guest.sh(
      `[ -z "$(ls /sys/class/net | grep -v '^lo$')" ]
      mkdir -p /tmp/${line}/bin /tmp/${line}/app
      cd /tmp/${line}/bin; ln -s ${node} node; ln -s /bin/sh /bin/env .
      cd ../app; echo '{ "name": "app", "private": true, "type": "module" }' > package.json
      cp ${join(apps, 'talk.mjs')} .
      clean() { /bin/env -i PATH=/tmp/${line}/bin HOME=/tmp/${line} "$@"; }
      clean node ${npm()} install --offline --no-audit --no-fund ${tarball} >&2
      clean node talk.mjs /tmp/${line}/region
      clean node_modules/.bin/vmring --help
      rm -r /tmp/${line}`,
      { timeout: 400_000 },
    )
    const [said, ...help] = stdout.split('\n')
    expect(JSON.parse(said!)).toMatchObject({
      small: 'two coffees: on the way',
      leased: 'one tea: on the way',
      large: true,
      path: 'shm',
      arch: 'x64',
      node: expect.stringMatching(new RegExp(`^v?${line}\\.`)),
    })
    expect(help.join('\n')).toContain('Usage: vmring')
  },
  500_000,
)
