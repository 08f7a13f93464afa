// One virtual machine: a QEMU process, its console, its QMP socket, the agent that runs jobs in it.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  afterUnplug,
  DEFAULT_VECTORS,
  type Device,
  deviceArguments,
  plugCommands,
  rootPort,
} from './devices.js'
import { GuestError, tail, within } from './errors.js'
import { Fillers } from './fillers.js'
import { DEFAULT_MODULES, PORT_NAME } from './init.js'
import { Job, type JobOptions, type JobResult, jobScript } from './job.js'
import { kernel } from './kernel.js'
import { LineSocket } from './lines.js'
import { Qmp } from './qmp.js'
import { findProgram, needProgram } from './tools.js'

export interface GuestOptions {
  name?: string
  devices?: Device[]
  /** MiB; default 512 */
  memory?: number
  /** virtual processors; default 1 */
  cpus?: number
  /** false: no virtual IOMMU, so that vfio-pci cannot be used; 'no-remap': one that does not remap interrupts */
  iommu?: boolean | 'no-remap'
  /** kernel modules beyond those that the root needs; default those of vfio-pci */
  modules?: string[]
  /** further kernel arguments */
  append?: string
  /** further QEMU arguments */
  qemu?: string[]
  /** root ports without a device, for plugging; default 1 */
  sparePorts?: number
  /** ms until the agent must answer; default 120 s */
  bootTimeout?: number
  /** ms until QEMU is killed whatever happens; default 15 minutes */
  lifetime?: number
}

const living = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of living) child.kill('SIGKILL')
})

export class Guest {
  readonly name: string
  /** the host's folder that the guest sees as /job */
  readonly share: string
  /** milliseconds from power-on to the agent's first word */
  bootTime = 0
  #options: GuestOptions
  #child: ChildProcess | undefined
  #killed = false
  #exit!: Promise<void>
  #dead = false
  #end = ''
  #qmp!: Qmp
  #agent!: LineSocket
  #jobs = new Map<number, Job>()
  #nextJob = 1
  #ports: (Device | null)[] = []
  /** null with KVM, where QEMU needs none */
  #fillers: Fillers | null
  #ready: { resolve(): void } | undefined
  #lifetime: NodeJS.Timeout | undefined

  /** `folder` is an empty one of its own. */
  constructor(
    private readonly folder: string,
    options: GuestOptions,
  ) {
    this.name = options.name ?? 'guest'
    this.share = join(folder, 'job')
    this.#fillers = this.accelerator.startsWith('kvm') ? null : new Fillers(folder)
    this.#options = options
  }

  /** Resolves when jobs can run. Once. */
  async boot(): Promise<void> {
    try {
      await this.#boot()
    } catch (error) {
      await this.kill()
      throw error
    }
  }

  get pid(): number {
    return this.#child?.pid ?? -1
  }

  get accelerator(): string {
    return process.env.VMRING_VM_ACCEL ?? 'tcg,thread=multi'
  }

  get dead(): boolean {
    return this.#dead
  }

  /** The last lines of the console. */
  console(bytes = 4000): string {
    return tail(['console', 'qemu'].map((name) => this.#file(name)).join(''), bytes)
  }

  /** Starts a program; returns at once. */
  start(argv: string[], options: JobOptions = {}): Job {
    const id = this.#nextJob++
    const folder = join(this.share, String(id))
    mkdirSync(folder)
    writeFileSync(join(folder, 'run'), jobScript(argv, options))
    writeFileSync(join(folder, 'stdin'), options.input ?? '')
    const job = new Job(
      id,
      `${this.name}: ${argv.join(' ')}`,
      folder,
      this.#jobHost(),
      options.timeout ?? 120_000,
    )
    if (this.#dead) job.lose(`the guest is dead (${this.#end})`)
    else {
      this.#jobs.set(id, job)
      this.#agent.send(`RUN ${id}`)
    }
    return job
  }

  /** Runs a program to its end; throws unless its exit code is 0. */
  run(argv: string[], options: JobOptions = {}): Promise<JobResult> {
    return this.start(argv, options).success()
  }

  /** Runs lines of shell. */
  sh(script: string, options: JobOptions = {}): Promise<JobResult> {
    return this.run(['/bin/sh', '-ec', script], options)
  }

  /** Binds every ivshmem device to vfio-pci; their PCI addresses. */
  async bindVfio(): Promise<string[]> {
    const result = await this.sh(
      `for d in /sys/bus/pci/devices/*; do
        read vendor < $d/vendor; read device < $d/device
        [ $vendor$device = 0x1af40x1110 ] || continue
        address=\${d##*/}
        echo vfio-pci > $d/driver_override
        case $(readlink $d/driver || true) in
          */vfio-pci) ;;
          '') echo $address > /sys/bus/pci/drivers_probe ;;
          *) echo $address > $d/driver/unbind; echo $address > /sys/bus/pci/drivers_probe ;;
        esac
        echo $address
      done`,
    )
    return result.stdout.split('\n').filter((line) => line !== '')
  }

  /** Any QMP command. When QEMU ends meanwhile, the error says how, with the console. */
  async qmp(command: string, args?: Record<string, unknown>): Promise<unknown> {
    return this.#whole(this.#qmp.command(command, args))
  }

  /** Halts the virtual processors, as `stop` in QEMU's monitor. */
  async stop(): Promise<void> {
    await this.qmp('stop')
  }

  async cont(): Promise<void> {
    await this.qmp('cont')
  }

  /** Power cycle: QEMU and so the ivshmem peer id stay, everything in the guest starts anew. */
  async reset(): Promise<void> {
    await this.qmp('set-action', { reboot: 'reset' })
    const started = Date.now()
    const ready = this.#untilReady('after its reset')
    this.#loseJobs('the guest was reset')
    await this.qmp('system_reset')
    await ready
    await this.qmp('set-action', { reboot: 'shutdown' })
    this.bootTime = Date.now() - started
  }

  /** Takes a device out with notice. Waits until the guest has let go of it, at most `timeout` ms. */
  unplug(id: string, timeout = 60_000): Promise<void> {
    return this.#whole(this.#unplug(id, timeout))
  }

  async #unplug(id: string, timeout: number): Promise<void> {
    const port = this.#ports.findIndex((device) => device?.id === id)
    const device = this.#ports[port]
    if (!device) throw new GuestError(`has no device ${id}`, this.name, '')
    const remove = async () => {
      const deleted = this.#qmp.event('DEVICE_DELETED', timeout, (data) => data.device === id)
      await this.#qmp.command('device_del', { id })
      await deleted
    }
    if (device.kind === 'doorbell' && this.#fillers !== null)
      await this.#fillers.unplug(this.#qmp, this.pid, remove)
    else await remove()
    this.#ports[port] = null
    const after = afterUnplug(device)
    await this.#qmp.command(after.command, after.args)
  }

  /** Puts a device into a free root port and waits until the guest's kernel has found it. */
  async plug(device: Device): Promise<void> {
    const port = this.#ports.indexOf(null)
    if (port < 0) throw new GuestError('has no free root port; see sparePorts', this.name, '')
    const before = await this.#countDevices()
    const add = async () => {
      for (const step of plugCommands(device, port)) await this.#qmp.command(step.command, step.args)
    }
    const vectors = device.kind === 'doorbell' ? (device.vectors ?? DEFAULT_VECTORS) : 0
    await this.#whole(
      vectors === 0 || this.#fillers === null ? add() : this.#fillers.plug(this.#qmp, this.pid, vectors, add),
    )
    this.#ports[port] = device
    for (let tries = 0; tries < 100; tries++) {
      if ((await this.#countDevices()) > before) return
      await sleep(100)
    }
    throw new GuestError(`did not find the device ${device.id}`, this.name, this.console())
  }

  /** Ends the guest in an orderly way, within seconds. */
  async powerOff(): Promise<void> {
    if (this.#dead) return
    this.#agent.send('OFF')
    await within(this.#exit, 5000, () => new Error('late')).catch(() => {})
    await this.kill()
  }

  /** kill -9 for QEMU. Returns when the process is gone. */
  async kill(): Promise<void> {
    clearTimeout(this.#lifetime)
    this.#killed = true
    if (this.#child === undefined) return
    if (!this.#dead) this.#child.kill('SIGKILL')
    await this.#exit
  }

  async #boot(): Promise<void> {
    const { version, image, initramfs } = await kernel()
    if (this.#killed) throw this.#error('was given up before it booted')
    mkdirSync(this.share, { recursive: true })
    const args = this.#arguments(image, initramfs)
    writeFileSync(join(this.folder, 'command'), `${args.join(' ')}\n# kernel ${version}\n`)
    const started = Date.now()
    this.#spawn(args)
    const limit = this.#options.bootTimeout ?? 120_000
    const alive = () => !this.#dead
    const refused = async (error: Error) => {
      await Promise.race([this.#exit, sleep(1000)]) // its sockets are closed before it is gone
      throw this.#error(`QEMU did not start: ${this.#end || error.message}`)
    }
    const ready = this.#untilReady('at boot')
    this.#qmp = await Qmp.open(join(this.folder, 'qmp'), limit, alive).catch(refused)
    this.#agent = await LineSocket.open(
      join(this.folder, 'agent'),
      limit,
      alive,
      (line) => this.#line(line),
      () => {},
    ).catch(refused)
    await ready
    this.bootTime = Date.now() - started
  }

  #arguments(image: string, initramfs: string): string[] {
    const options = this.#options
    const iommu = options.iommu ?? true
    const modules = options.modules ?? DEFAULT_MODULES
    this.#ports = [...(options.devices ?? []), ...Array<null>(options.sparePorts ?? 1).fill(null)]
    const append = `console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable mitigations=off nokaslr ${iommu ? 'intel_iommu=on' : ''}
      vmring.modules=${modules.join()} ${options.append ?? ''}`
    return [
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-net', 'none'],
      ...(this.#fillers?.arguments() ?? []),
      ...['-accel', this.accelerator, '-cpu', 'max', '-M', `q35${iommu ? ',kernel-irqchip=split' : ''}`],
      ...['-m', String(options.memory ?? 512), '-smp', String(options.cpus ?? 1)],
      ...(iommu ? ['-device', `intel-iommu,intremap=${iommu === 'no-remap' ? 'off' : 'on'}`] : []),
      ...['-kernel', image, '-initrd', initramfs, '-append', append.replace(/\s+/g, ' ').trim()],
      ...['-chardev', `file,id=console,path=${join(this.folder, 'console')}`, '-serial', 'chardev:console'],
      ...['-qmp', `unix:${join(this.folder, 'qmp')},server=on,wait=off`],
      ...['-fsdev', 'local,id=host,path=/,security_model=none,readonly=on,multidevs=remap'],
      ...['-device', 'virtio-9p-pci,fsdev=host,mount_tag=host'],
      ...['-fsdev', `local,id=job,path=${this.share},security_model=none,multidevs=remap`],
      ...['-device', 'virtio-9p-pci,fsdev=job,mount_tag=job'],
      ...['-chardev', `socket,id=agent,path=${join(this.folder, 'agent')},server=on,wait=off`],
      ...['-device', 'virtio-serial-pci', '-device', `virtserialport,chardev=agent,name=${PORT_NAME}`],
      ...['-object', 'rng-random,id=rng,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng'],
      ...this.#ports.flatMap((_, index) => rootPort(index)),
      ...this.#ports.flatMap((device, index) => (device === null ? [] : deviceArguments(device, index))),
      ...(options.qemu ?? []),
    ]
  }

  #spawn(args: string[]): void {
    const qemu = needProgram('qemu-system-x86_64')
    // QEMU dies with this process, even when that is killed before it can clean up.
    const setpriv = findProgram('setpriv')
    const [command, all] = setpriv === null ? [qemu, args] : [setpriv, ['--pdeathsig', 'KILL', qemu, ...args]]
    const log = join(this.folder, 'qemu')
    const child = spawn(command, all, { stdio: ['ignore', 'pipe', 'pipe'] })
    this.#child = child
    living.add(child)
    const lifetime = this.#options.lifetime ?? 15 * 60_000
    let expired = false
    const said: Buffer[] = []
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk: Buffer) => {
        said.push(chunk)
        writeFileSync(log, Buffer.concat(said))
      })
    }
    this.#exit = new Promise((resolve) => {
      const gone = (code: unknown, signal?: string | null) => {
        this.#dead = true
        const how =
          code instanceof Error ? code.message : signal ? `killed by ${signal}` : `exit code ${code}`
        this.#end = expired ? `${how}: its ${lifetime / 1000} s were over` : how
        living.delete(child)
        clearTimeout(this.#lifetime)
        this.#loseJobs(`QEMU is gone (${this.#end})`)
        this.#agent?.close()
        this.#qmp?.close()
        resolve()
      }
      child.once('close', gone)
      child.once('error', gone)
    })
    this.#lifetime = setTimeout(() => {
      expired = true
      child.kill('SIGKILL')
    }, lifetime)
    this.#lifetime.unref()
  }

  #untilReady(when: string): Promise<void> {
    const ready = new Promise<void>((resolve) => {
      this.#ready = { resolve }
    })
    const gone = this.#exit.then(() => {
      throw this.#error(`QEMU ended ${when} (${this.#end})`)
    })
    const limit = this.#options.bootTimeout ?? 120_000
    const both = within(Promise.race([ready, gone]), limit, () =>
      this.#error(`no word from its agent ${when} within ${limit / 1000} s`),
    )
    both.catch(() => {}) // boot() may fail before it waits for this
    return both
  }

  #line(line: string): void {
    const [word, number, value] = line.split(' ')
    const job = this.#jobs.get(Number(number))
    if (word === 'READY') this.#ready?.resolve()
    else if (word === 'PID' && job) job.pid = Number(value)
    else if (word === 'DONE' && job) {
      this.#jobs.delete(job.id)
      job.finish(Number(value))
    }
  }

  #loseJobs(why: string): void {
    for (const job of this.#jobs.values()) job.lose(why)
    this.#jobs.clear()
  }

  #jobHost() {
    return { send: (line: string) => this.#agent.send(line), console: () => this.console() }
  }

  async #countDevices(): Promise<number> {
    const found = await this.sh('cat /sys/bus/pci/devices/*/device | grep -c 0x1110 || true')
    return Number(found.stdout)
  }

  #file(name: string): string {
    try {
      return readFileSync(join(this.folder, name), 'latin1')
    } catch {
      return ''
    }
  }

  /** What `asked` says; if QEMU ended meanwhile, how it did. */
  async #whole<T>(asked: Promise<T>): Promise<T> {
    return asked.catch(async (error: Error) => {
      await Promise.race([this.#exit, sleep(1000)]) // its socket is closed before it is gone
      throw this.#dead ? this.#error(`${error.message} (${this.#end})`) : error
    })
  }

  #error(message: string): GuestError {
    return new GuestError(message, this.name, this.console())
  }
}
