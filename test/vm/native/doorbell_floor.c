/* The floor of a round trip in event mode between two guests: register write, MSI-X, eventfd, and nothing of vmring.
 *
 *   doorbell_floor ADDRESS id                   prints the own peer id
 *   doorbell_floor ADDRESS pong PEER ROUNDS     says "ready", answers every doorbell with one
 *   doorbell_floor ADDRESS ping PEER ROUNDS     rings, waits for the answer; prints JSON with times in nanoseconds
 *
 * The device must be bound to vfio-pci. Exit code 0: all rounds done.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static volatile uint32_t *registers;
static int bell;

static void die(const char *what) {
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  exit(1);
}

static int open_device(const char *address) {
  char path[128], target[PATH_MAX];
  snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/iommu_group", address);
  ssize_t length = readlink(path, target, sizeof target - 1);
  if (length < 0) die(path);
  target[length] = 0;
  snprintf(path, sizeof path, "/dev/vfio/%s", strrchr(target, '/') + 1);
  int container = open("/dev/vfio/vfio", O_RDWR), group = open(path, O_RDWR);
  if (container < 0 || group < 0) die(path);
  if (ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) || ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU)) {
    die("container");
  }
  int device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
  if (device < 0) die("device");
  struct vfio_region_info config = {.argsz = sizeof config, .index = VFIO_PCI_CONFIG_REGION_INDEX};
  struct vfio_region_info bar = {.argsz = sizeof bar, .index = VFIO_PCI_BAR0_REGION_INDEX};
  if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &config) || ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &bar)) {
    die("region");
  }
  uint16_t command = 0;
  if (pread(device, &command, 2, (off_t)config.offset + 4) != 2) die("command register");
  command |= 6;
  if (pwrite(device, &command, 2, (off_t)config.offset + 4) != 2) die("command register");
  registers = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, device, (off_t)bar.offset);
  if (registers == MAP_FAILED) die("registers");
  return device;
}

static void arm(int device) {
  char buffer[sizeof(struct vfio_irq_set) + sizeof(int)];
  struct vfio_irq_set set = {.argsz = sizeof buffer,
                             .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
                             .index = VFIO_PCI_MSIX_IRQ_INDEX,
                             .count = 1};
  bell = eventfd(0, EFD_NONBLOCK);
  memcpy(buffer, &set, sizeof set);
  memcpy(buffer + sizeof set, &bell, sizeof bell);
  if (ioctl(device, VFIO_DEVICE_SET_IRQS, buffer)) die("interrupts");
}

/* One wait, as an event loop does it: poll, then read. */
static void await_bell(void) {
  struct pollfd one = {.fd = bell, .events = POLLIN};
  uint64_t count;
  if (poll(&one, 1, 10000) != 1) die("no doorbell within 10 s");
  if (read(bell, &count, sizeof count) != sizeof count) die("eventfd");
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
  const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
  if (argc < 3 || (strcmp(argv[2], "id") && argc < 5)) {
    fprintf(stderr, "usage: doorbell_floor ADDRESS id|ping|pong PEER ROUNDS\n");
    return 2;
  }
  int device = open_device(argv[1]);
  if (!strcmp(argv[2], "id")) {
    printf("%u\n", registers[2]);
    return 0;
  }
  const uint32_t doorbell = (uint32_t)atoi(argv[3]) << 16;
  const int rounds = atoi(argv[4]);
  arm(device);
  if (!strcmp(argv[2], "pong")) {
    printf("ready\n");
    fflush(stdout);
    for (int i = 0; i < rounds; i++) {
      await_bell();
      registers[3] = doorbell;
    }
    return 0;
  }
  int64_t *times = calloc((size_t)rounds, sizeof *times);
  for (int i = 0; i < rounds; i++) {
    const int64_t start = now();
    registers[3] = doorbell;
    await_bell();
    times[i] = now() - start;
  }
  qsort(times, (size_t)rounds, sizeof *times, by_value);
  printf("{\"rounds\":%d,\"p10\":%lld,\"p50\":%lld,\"p90\":%lld}\n", rounds, (long long)times[rounds / 10],
         (long long)times[rounds / 2], (long long)times[rounds * 9 / 10]);
  return 0;
}
