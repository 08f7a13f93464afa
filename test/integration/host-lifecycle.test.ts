import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { askHost, hostStatus } from '../../src/host/admin-client.js'
import { startHost } from '../../src/host/daemon.js'
import {
  hostProcess,
  openDescriptors,
  pythonPeer,
  startDaemon,
  temporaryDirectory,
  until,
} from '../support/host.js'

describe('vmring host as a process', () => {
  it.each(['SIGTERM', 'SIGINT', 'SIGHUP'] as const)(
    '%s ends it with code 0 and leaves no file',
    async (signal) => {
      const daemon = await startDaemon()
      const peer = pythonPeer('talk', daemon.socket)
      await peer.event('message')
      expect(readdirSync(daemon.directory).sort()).toEqual([
        'host.sock',
        'host.sock.admin',
        'host.sock.relay',
      ])
      expect(await daemon.process.exit(signal)).toBe(0)
      expect(readdirSync(daemon.directory)).toEqual([])
      await peer.event('closed')
    },
  )

  it('replaces the socket files of a daemon that was killed', async () => {
    const daemon = await startDaemon()
    await daemon.process.exit('SIGKILL')
    expect(readdirSync(daemon.directory)).toHaveLength(3)
    const next = hostProcess('--socket', daemon.socket, '--size', '1M', '--json')
    expect(await next.event('listening')).toMatchObject({
      socket: daemon.socket,
      pid: next.pid,
      size: 2 ** 20,
    })
    expect((await hostStatus(daemon.socket)).pid).toBe(next.pid)
    expect(await next.exit('SIGTERM')).toBe(0)
    expect(readdirSync(daemon.directory)).toEqual([])
  })

  it('refuses to start where a daemon answers, says what to do, and leaves that one alone, its ids included', async () => {
    const daemon = await startDaemon()
    for (let i = 0; i < 3; i++) {
      const second = hostProcess('--socket', daemon.socket, '--size', '1M')
      expect(await second.exit()).not.toBe(0)
      expect(second.errors).toMatch(/EADDRINUSE.*a daemon already answers there/)
    }
    const status = await hostStatus(daemon.socket)
    expect(status).toMatchObject({ pid: daemon.pid, counters: { dropped: 0 }, ids: { available: 65536 } })
  })

  it('of daemons started at the same time on one path, exactly one stays', async () => {
    const socket = join(temporaryDirectory(), 'host.sock')
    const all = Array.from({ length: 4 }, () => hostProcess('--socket', socket, '--size', '1M', '--json'))
    const outcomes = await Promise.all(
      all.map((one) =>
        Promise.race([one.event('listening').then(() => 'up'), one.exit()]).catch(() => 'ended'),
      ),
    )
    expect(outcomes.filter((outcome) => outcome === 'up')).toHaveLength(1)
    expect((await hostStatus(socket)).pid).toBe(all[outcomes.indexOf('up')]!.pid)
  })

  it('does not touch a file that is no socket', async () => {
    const socket = join(temporaryDirectory(), 'precious')
    writeFileSync(socket, 'keep me')
    const daemon = hostProcess('--socket', socket, '--size', '1M')
    expect(await daemon.exit()).not.toBe(0)
    expect(daemon.errors).toContain('a file that is no socket is in the way')
    expect(statSync(socket).size).toBe(7)
  })

  it('gives both sockets the mode asked for', async () => {
    const daemon = await startDaemon('--mode', '0600', '--group', String(process.getgid!()))
    for (const path of [daemon.socket, `${daemon.socket}.admin`]) {
      expect(statSync(path).mode & 0o777).toBe(0o600)
      expect(statSync(path).gid).toBe(process.getgid!())
    }
  })

  it.each([
    [['--size', '3M'], /power of two/],
    [['--size', '512K'], /power of two/],
    [['--size', 'much'], /a size is a number/],
    [['--sections', '0'], /from 1 to 256/],
    [['--sections', '257'], /from 1 to 256/],
    [['--vectors', '65'], /from 1 to 64/],
    [['--mode', '9'], /octal/],
    [['--group', 'no-such-group-here'], /no group/],
    [['--size', '1M', '--sections', '256'], /section|size/i],
  ])('refuses %j with a sentence', async (args, message) => {
    const socket = join(temporaryDirectory(), 'host.sock')
    const daemon = hostProcess('--socket', socket, ...args)
    expect(await daemon.exit()).not.toBe(0)
    expect(daemon.errors).toMatch(message)
    expect(daemon.errors).not.toContain('    at ')
    expect(existsSync(socket)).toBe(false)
  })

  it('goes on when descriptors run out, and serves again when they come back', async () => {
    const directory = temporaryDirectory()
    const socket = join(directory, 'host.sock')
    await using host = await startHost({ socket, size: 2 ** 20, vectors: 64, sections: 1 })
    const base = openDescriptors(process.pid)
    const peers = [pythonPeer('talk', socket), pythonPeer('talk', socket)]
    await until(() => host.status().peers.length === 2, 'both are in')
    expect(openDescriptors(process.pid)).toBeGreaterThanOrEqual(base + 2 * 64)
    for (const peer of peers) await peer.exit('SIGKILL')
    await until(() => host.status().peers.length === 0 && openDescriptors(process.pid) <= base, 'all closed')
  })
})

describe('startHost() in this process', () => {
  it('can be opened and closed again and again without a trace', async () => {
    const directory = temporaryDirectory()
    const socket = join(directory, 'host.sock')
    const round = async () => {
      const host = await startHost({ socket, size: 2 ** 20 })
      await expect(startHost({ socket, size: 2 ** 20 })).rejects.toMatchObject({
        code: 'EADDRINUSE',
        syscall: 'listen',
        address: socket,
        errno: -98,
      })
      expect((await hostStatus(socket)).region.uuid).toBe(host.regionUuid)
      await host.close()
      await host.close()
      expect(readdirSync(directory)).toEqual([])
    }
    await round()
    const before = openDescriptors(process.pid)
    for (let i = 0; i < 10; i++) await round()
    await until(() => openDescriptors(process.pid) <= before, 'no descriptor is left')
  })

  it('fails whole: without the administration socket there is no daemon', async () => {
    const directory = temporaryDirectory()
    const socket = join(directory, 'host.sock')
    mkdirSync(`${socket}.admin`)
    await expect(startHost({ socket, size: 2 ** 20 })).rejects.toMatchObject({ code: 'EEXIST' })
    expect(readdirSync(directory)).toEqual(['host.sock.admin'])
  })

  it.each([
    ['a path that is too long', { socket: `/tmp/${'x'.repeat(200)}` }, 'ENAMETOOLONG'],
    ['a directory that is not there', { socket: '/nonexistent-directory/host.sock' }, 'ENOENT'],
    ['no power of two', { size: 3 * 2 ** 20 }, 'ERR_VMRING_REGION_SIZE'],
    ['sections out of range', { sections: 1000 }, 'ERR_VMRING_ARGUMENT'],
    ['vectors out of range', { vectors: 0 }, 'ERR_VMRING_ARGUMENT'],
  ])('rejects %s', async (_, options, code) => {
    const socket = join(temporaryDirectory(), 'host.sock')
    await expect(startHost({ socket, ...options })).rejects.toMatchObject({ code })
  })
})

describe('the administration socket', () => {
  /** Sends bytes, returns everything that comes back until the daemon closes or `answers` lines are there. */
  function raw(path: string, bytes: string | Buffer, answers = Number.POSITIVE_INFINITY): Promise<string[]> {
    return new Promise((resolve, reject) => {
      let text = ''
      const socket = connect(path, () => socket.write(bytes))
      const finish = () => {
        socket.destroy()
        resolve(text.split('\n').slice(0, -1))
      }
      socket.setEncoding('utf8').on('data', (chunk) => {
        text += chunk
        if (text.split('\n').length > answers) finish()
      })
      socket.on('close', finish)
      socket.on('error', (error: NodeJS.ErrnoException) =>
        error.code === 'EPIPE' ? undefined : reject(error),
      )
    })
  }

  it('answers what it understands and explains what it does not, in order, on one connection', async () => {
    const daemon = await startDaemon()
    const requests = [
      '{"op":"status"}',
      'nonsense',
      '[1]',
      'null',
      '"status"',
      '{}',
      '{"op":"rm -rf"}',
      '\u0000',
      '',
      '{"op":"status"}',
    ]
    const answers = await raw(`${daemon.socket}.admin`, `${requests.join('\n')}\n`, 9)
    const codes = answers.map((line) => {
      const answer = JSON.parse(line)
      return answer.ok ? 'ok' : answer.error.code
    })
    expect(codes).toEqual([
      'ok',
      'ERR_JSON',
      'ERR_REQUEST',
      'ERR_REQUEST',
      'ERR_REQUEST',
      'ERR_OP',
      'ERR_OP',
      'ERR_JSON',
      'ok',
    ])
    await expect(askHost(daemon.socket, { op: 'nothing' })).rejects.toMatchObject({ code: 'ERR_OP' })
  })

  it('closes an endless line, survives binary noise, and bounds what an asker who does not read can cost', async () => {
    const daemon = await startDaemon()
    const admin = `${daemon.socket}.admin`
    const [answer] = await raw(admin, 'x'.repeat(70_000))
    expect(JSON.parse(answer!)).toMatchObject({ ok: false, error: { code: 'ERR_LINE' } })
    await raw(admin, Buffer.from(Array.from({ length: 1000 }, (_, i) => (i * 37) & 255)), 1)
    // deaf askers
    const deaf = await Promise.all(
      Array.from({ length: 20 }, async () => {
        const socket = connect(admin)
        socket.on('error', () => {})
        socket.pause()
        await new Promise<void>((resolve) => socket.once('connect', () => resolve()))
        for (let i = 0; i < 50; i++) socket.write('{"op":"status"}\n'.repeat(1000))
        return socket
      }),
    )
    await new Promise((resolve) => setTimeout(resolve, 500))
    expect((await hostStatus(daemon.socket)).pid).toBe(daemon.pid)
    for (const socket of deaf) socket.destroy()
  })

  it('turns away the 33rd connection, and serves again when others have gone', async () => {
    const daemon = await startDaemon()
    const admin = `${daemon.socket}.admin`
    const held = Array.from({ length: 32 }, () => connect(admin))
    await Promise.all(
      held.map((socket) => new Promise<void>((resolve) => socket.once('connect', () => resolve()))),
    )
    await expect(askHost(daemon.socket, { op: 'status' })).rejects.toMatchObject({ code: 'ERR_BUSY' })
    for (const socket of held) socket.destroy()
    await until(
      () =>
        hostStatus(daemon.socket).then(
          () => true,
          () => false,
        ),
      'served again',
    )
  })

  it('says what is wrong when nobody is there', async () => {
    await expect(hostStatus(join(temporaryDirectory(), 'none'))).rejects.toMatchObject({ code: 'ENOENT' })
  })
})
