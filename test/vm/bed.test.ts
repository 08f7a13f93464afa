import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Bed, type Guest, GuestError, JobError } from '../../src/vm/index.js'

let bed: Bed
let guest: Guest

beforeAll(async () => {
  bed = await Bed.open()
  guest = await bed.boot({ name: 'one' })
}, 180_000)

afterAll(() => bed?.close(), 30_000)

describe('jobs in a guest', () => {
  it('run with arguments, environment, folder and input, and give back output and exit code', async () => {
    const script = 'read line; echo "$line|$1|$WHO|$PWD"; echo oops >&2; exit 3'
    const job = guest.start(['/bin/sh', '-c', script, 'sh', "it's"], {
      env: { WHO: 'a b' },
      cwd: '/usr',
      input: 'first\nsecond\n',
    })
    expect(await job.done).toEqual({ code: 3, stdout: "first|it's|a b|/usr\n", stderr: 'oops\n' })
    await expect(job.success()).rejects.toThrow(/ended with code 3[\s\S]*it's[\s\S]*oops/)
  })

  it('run Node from the host, on the host’s files', async () => {
    const result = await guest.run(['node', '-p', 'require("node:os").release() + process.cwd()'], {
      cwd: import.meta.dirname,
    })
    expect(result.stdout).toContain('amd64')
    expect(result.stdout).toContain(import.meta.dirname)
  })

  it('write to their own copy of the host’s files, and share /job', async () => {
    const path = join(bed.folder, 'not-on-the-host')
    await guest.sh(`echo x > ${path}; cat ${path} > /job/shared; rm ${path}`)
    expect(existsSync(path)).toBe(false)
    expect(readFileSync(join(guest.share, 'shared'), 'utf8')).toBe('x\n')
    writeFileSync(join(guest.share, 'back'), 'from the host')
    expect((await guest.sh('cat /job/back')).stdout).toBe('from the host')
  })

  it('run side by side, can be watched, signalled, and end when their time is over', async () => {
    const slow = guest.start(['/bin/sh', '-c', 'echo started; sleep 50; echo late'])
    const late = guest.start(['sleep', '50'], { timeout: 1500 })
    await slow.until(/started/)
    expect((await guest.sh('echo quick')).stdout).toBe('quick\n')
    slow.kill('TERM')
    expect((await slow.done).code).toBe(143)
    await expect(late.done).rejects.toThrow(/did not end within 1.5 s/)
    await expect(slow.until(/late/)).rejects.toThrow(/ended without/)
    const left = 'grep -lz "^sleep" /proc/[0-9]*/cmdline 2>/dev/null | wc -l'
    await sleep(200)
    expect((await guest.sh(left)).stdout.trim()).toBe('0')
  })
})

// In a guest, because there a program can be hidden and the network is none.
describe('what a demo with guests needs, and this machine has not', () => {
  const demo = [
    process.execPath,
    join(import.meta.dirname, '../../dist/cli/main.js'),
    'demo',
    '--vm',
    '/etc/passwd',
  ]

  it('is named with the command that installs it', async () => {
    const hide = ['qemu-system-x86_64', 'busybox'].map(
      (name) => `mount --bind /dev/null $(command -v ${name})`,
    )
    const script = `${hide.join('; ')}; exec "$@"`
    const job = guest.start(['unshare', '-m', '/bin/sh', '-ec', script, 'sh', ...demo])
    const { code, stderr } = await job.done
    expect(code).toBe(1)
    expect(stderr).toContain('the programs qemu-system-x86_64, busybox')
    expect(stderr).toContain('sudo apt-get install qemu-system-x86 busybox-static')
    expect(stderr).toContain('ERR_VMRING_VM_MISSING')
  })

  it('if it is the kernel, its package is named, and the way without apt', async () => {
    // without package lists, which apt needs half a minute to read under emulation
    const script = 'mount -t tmpfs none /var/lib/apt/lists; exec "$@"'
    const { code, stderr } = await guest.start(['unshare', '-m', '/bin/sh', '-ec', script, 'sh', ...demo], {
      env: { VMRING_VM_CACHE: '/root/empty' },
      timeout: 200_000,
    }).done
    expect(code).toBe(1)
    expect(stderr).toContain('ERR_VMRING_VM_MISSING')
    expect(stderr).toMatch(/linux-image-\S*amd64/)
    expect(stderr).toContain('VMRING_VM_KERNEL')
  })
})

describe('the life of a guest', () => {
  it('stops and goes on', async () => {
    const counting = guest.start(['/bin/sh', '-c', 'while :; do echo tick; sleep 0.1; done'])
    await counting.until(/tick/)
    await guest.stop()
    await sleep(300) // what was on its way
    const before = counting.stdout().length
    await sleep(700)
    expect(counting.stdout().length).toBe(before)
    await guest.cont()
    await counting.until(new RegExp(`^(tick\\n){${before / 5 + 2}}`))
    counting.kill()
    await counting.done
  })

  it('is reset under the same process', async () => {
    const { pid } = guest
    const lost = guest.start(['sleep', '50'])
    const boot = () => guest.sh('cat /proc/sys/kernel/random/boot_id')
    const before = (await boot()).stdout
    await guest.reset()
    await expect(lost.done).rejects.toThrow(/the guest was reset/)
    expect((await boot()).stdout).not.toBe(before)
    expect(guest.pid).toBe(pid)
  }, 180_000)

  it('can be killed: jobs fail with a reason, later ones at once', async () => {
    const job = guest.start(['/bin/sh', '-c', 'echo running; sleep 50'])
    await job.until(/running/)
    await guest.kill()
    const error = await job.done.catch((reason: unknown) => reason)
    expect(error).toBeInstanceOf(JobError)
    expect((error as JobError).message).toMatch(/QEMU is gone[\s\S]*running/)
    await expect(guest.run(['true'])).rejects.toThrow(/the guest is dead .killed by SIGKILL./)
    expect(() => process.kill(guest.pid, 0)).toThrow(/ESRCH/)
  })

  it('that does not come up says why', async () => {
    const refused = bed.boot({ name: 'refused', qemu: ['-device', 'no-such-device'] })
    await expect(refused).rejects.toThrow(GuestError)
    await expect(refused).rejects.toThrow(/no-such-device/)
    await expect(bed.boot({ name: 'late', bootTimeout: 1000 })).rejects.toThrow(/within 1 s/)
    await expect(bed.boot({ name: 'short', lifetime: 1000 })).rejects.toThrow(/its 1 s were over/)
  })
})
