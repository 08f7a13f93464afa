// What runs in a guest before any job: the init of its initramfs, with the agent that starts jobs.
//
// The root is the host's, read-only over 9p below a tmpfs overlay; /job is a folder of the host, writable. Jobs come over
// a virtio serial port as lines, and their input and output are files in /job/N, so that nothing of a job goes through
// a terminal:
//   host → guest   RUN n · KILL n SIGNAL · LOAD n MODULES… · OFF
//   guest → host   READY boot-id · PID n pid · DONE n code

/** Modules put into the initramfs; those with a star are loaded at every boot. */
export const MODULES = [
  '*virtio_pci',
  '*virtio_console',
  '*9pnet_virtio',
  '*9p',
  '*overlay',
  'vfio_iommu_type1',
  'vfio-pci',
  'vsock_loopback',
  'vmw_vsock_virtio_transport',
  'vhost_vsock',
  'virtio_net',
  'pci-stub',
  'tun',
  'kvm_intel',
  'kvm_amd',
] as const

/** Loaded besides, unless boot() names others. */
export const DEFAULT_MODULES = ['vfio_iommu_type1', 'vfio-pci']

export const PORT_NAME = 'vmring.agent'

export const initScript = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/sbin:/usr/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1
fail() { echo "vmring-bed: $1"; sleep 1; poweroff -f; }

modprobe -a ${MODULES.filter((name) => name.startsWith('*'))
  .map((name) => name.slice(1))
  .join(' ')} || fail 'modules'
mkdir -p /lower /upper /root
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 host /lower || fail 'no root'
mount -t tmpfs -o mode=755 tmpfs /upper && mkdir /upper/data /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /root || fail 'no overlay'
mkdir -p /root/job
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 job /root/job || fail 'no job folder'
for there in proc sys dev; do mount --bind /$there /root/$there; done
mkdir -p /dev/shm /dev/pts
mount -t tmpfs tmpfs /root/dev/shm
mount -t devpts devpts /root/dev/pts
ln -sfn /proc/self/fd /dev/fd
mount -t tmpfs tmpfs /root/run
mount -t securityfs securityfs /root/sys/kernel/security
mkdir -p /root/lib/modules/$(uname -r)
mount --bind /lib/modules/$(uname -r) /root/lib/modules/$(uname -r)
hostname vmring-guest
ifconfig lo 127.0.0.1 up
for word in $(cat /proc/cmdline); do
  case $word in vmring.modules=?*) modprobe -a $(echo \${word#*=} | tr , ' ') || echo 'vmring-bed: a module failed';; esac
done

port=
for tries in 1 2 3 4 5 6 7 8 9 10; do
  for one in /sys/class/virtio-ports/*; do
    [ "$(cat $one/name 2>/dev/null)" = ${PORT_NAME} ] && port=/dev/\${one##*/}
  done
  [ -n "$port" ] && [ -c $port ] && break
  sleep 0.2
done
[ -c "$port" ] || fail 'no agent port'
exec 3<>$port || fail 'agent port'
mkdir -p /agent
say() { echo "$*" >&3; }

start() {
  cd /root/job/$1 || { say DONE $1 127; return; }
  setsid chroot /root /bin/sh /job/$1/run <stdin >stdout 2>stderr &
  job=$!
  cd /
  echo $job >/agent/$1
  say PID $1 $job
  wait $job
  code=$?
  rm -f /agent/$1
  say DONE $1 $code
}

say READY $(cat /proc/sys/kernel/random/boot_id)
while :; do
  # without a listener on the host's side a read ends at once
  read -r word number rest <&3 || { sleep 0.1; continue; }
  case $word in
    RUN) start $number & ;;
    KILL) [ -f /agent/$number ] && kill -$rest -$(cat /agent/$number) 2>/dev/null ;;
    LOAD) modprobe -a $rest; say DONE $number $? ;;
    OFF) sync; poweroff -f ;;
  esac
done
`
