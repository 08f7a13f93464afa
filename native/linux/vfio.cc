#include "linux/vfio.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>

namespace vmring {
namespace {

constexpr const char* kContainer = "/dev/vfio/vfio";
constexpr uint16_t kCommandMemory = 2;
constexpr uint16_t kCommandBusMaster = 4;
constexpr uint32_t kLargestPeer = 0xffff;
constexpr int kMostCapabilities = 48; // of four bytes at least, in 192 bytes
constexpr int kSoon = 50, kLate = 1000; // ms for an interrupt to come; the second on an emulated processor that is busy

// A device of this process has been waited for in vain, and nothing could be done: whoever attaches again and again waits no more.
std::atomic<bool> known_silent{false};

void close_fd(int& fd) {
  if (fd >= 0) ::close(fd);
  fd = -1;
}

DeviceFault open_fault(int number) {
  switch (number) {
    case EACCES:
    case EPERM: return DeviceFault::permission;
    case EBUSY: return DeviceFault::busy;
    case ENOENT:
    case ENODEV:
    case ENXIO: return DeviceFault::no_vfio;
    default: return DeviceFault::system;
  }
}

// The other devices of the group, with the drivers that keep it from being viable.
std::string others_in_group(int group, const std::string& self) {
  const std::string path = "/sys/kernel/iommu_groups/" + std::to_string(group) + "/devices";
  std::string text;
  DIR* folder = opendir(path.c_str());
  while (dirent* entry = folder ? readdir(folder) : nullptr) {
    if (entry->d_name[0] == '.' || self == entry->d_name) continue;
    char target[PATH_MAX];
    const ssize_t length =
        readlink(("/sys/bus/pci/devices/" + std::string(entry->d_name) + "/driver").c_str(), target, sizeof target - 1);
    if (length < 0) continue; // no driver, no harm
    target[length] = 0;
    const char* slash = std::strrchr(target, '/');
    if (!text.empty()) text += ", ";
    text += std::string(entry->d_name) + " " + (slash ? slash + 1 : target);
  }
  if (folder) closedir(folder);
  return text;
}

} // namespace

std::unique_ptr<VfioDevice> VfioDevice::open(const std::string& address) {
  std::unique_ptr<VfioDevice> self(new VfioDevice);
  self->device_ = read_pci(address);
  const PciDevice& device = self->device_;
  // Without a group vfio-pci cannot even be bound, unless the kernel may do without an IOMMU.
  constexpr const char* kNoIommuMode = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
  if (device.iommu_group < 0 && access(kNoIommuMode, F_OK) != 0) {
    throw DeviceError(DeviceFault::no_iommu, device.address);
  }
  if (device.driver != "vfio-pci") {
    const bool loaded = access("/sys/bus/pci/drivers/vfio-pci", F_OK) == 0;
    throw DeviceError(loaded ? DeviceFault::other_driver : DeviceFault::no_vfio, device.address, 0, "", device.driver);
  }
  if (device.iommu_group < 0) throw DeviceError(DeviceFault::no_iommu, device.address);
  const std::string group = std::to_string(device.iommu_group);
  const bool without_iommu = access(("/dev/vfio/noiommu-" + group).c_str(), F_OK) == 0;
  self->open_group("/dev/vfio/" + ((without_iommu ? "noiommu-" : "") + group), without_iommu);
  self->open_device();
  self->enable();
  self->map_registers();
  vfio_irq_info irq{};
  irq.argsz = sizeof irq;
  irq.index = VFIO_PCI_MSIX_IRQ_INDEX;
  if (ioctl(self->fd_, VFIO_DEVICE_GET_IRQ_INFO, &irq) == 0) self->vectors_ = irq.count;
  self->watch_request();
  return self;
}

VfioDevice::~VfioDevice() {
  if (fd_ >= 0 && !fds_.empty()) {
    vfio_irq_set off{};
    off.argsz = sizeof off;
    off.flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
    off.index = VFIO_PCI_MSIX_IRQ_INDEX;
    ioctl(fd_, VFIO_DEVICE_SET_IRQS, &off); // closing does the same; this way no interrupt meets a closed eventfd
  }
  for (int& fd : fds_) close_fd(fd);
  registers_ = Registers();
  close_fd(fd_);
  close_fd(request_fd_);
  close_fd(group_);
  close_fd(container_);
}

void VfioDevice::open_group(const std::string& path, bool without_iommu) {
  group_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (group_ < 0) {
    const int number = errno;
    const DeviceFault fault = open_fault(number);
    throw DeviceError(fault, path, number, "open", {}, fault == DeviceFault::busy ? find_owner(path) : 0);
  }
  vfio_group_status status{};
  status.argsz = sizeof status;
  if (ioctl(group_, VFIO_GROUP_GET_STATUS, &status) != 0) throw DeviceError(DeviceFault::system, path, errno, "ioctl");
  if ((status.flags & VFIO_GROUP_FLAGS_VIABLE) == 0) {
    throw DeviceError(DeviceFault::not_viable, path, 0, "", others_in_group(device_.iommu_group, device_.address));
  }
  container_ = ::open(kContainer, O_RDWR | O_CLOEXEC);
  if (container_ < 0) throw DeviceError(open_fault(errno), kContainer, errno, "open");
  if (ioctl(container_, VFIO_GET_API_VERSION) != VFIO_API_VERSION) {
    throw DeviceError(DeviceFault::system, kContainer, 0, "", "another version of the vfio interface");
  }
  if (ioctl(group_, VFIO_GROUP_SET_CONTAINER, &container_) != 0) {
    throw DeviceError(DeviceFault::system, path, errno, "ioctl");
  }
  const bool second = ioctl(container_, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) > 0;
  const int type = without_iommu ? VFIO_NOIOMMU_IOMMU : second ? VFIO_TYPE1v2_IOMMU : VFIO_TYPE1_IOMMU;
  if (ioctl(container_, VFIO_SET_IOMMU, type) != 0) {
    const int number = errno;
    // EPERM: interrupts are not remapped. ENODEV: vfio_iommu_type1 is not loaded, or there is no IOMMU behind it.
    const DeviceFault fault = number == EPERM    ? DeviceFault::interrupts
                              : number == ENODEV ? DeviceFault::no_vfio
                                                 : DeviceFault::system;
    throw DeviceError(fault, path, number, "ioctl");
  }
}

void VfioDevice::open_device() {
  fd_ = ioctl(group_, VFIO_GROUP_GET_DEVICE_FD, device_.address.c_str());
  if (fd_ < 0) throw DeviceError(DeviceFault::system, device_.address, errno, "ioctl");
  fcntl(fd_, F_SETFD, FD_CLOEXEC);
}

VfioDevice::Region VfioDevice::region(uint32_t index) const {
  vfio_region_info info{};
  info.argsz = sizeof info;
  info.index = index;
  if (ioctl(fd_, VFIO_DEVICE_GET_REGION_INFO, &info) != 0) {
    throw DeviceError(DeviceFault::system, device_.address, errno, "ioctl");
  }
  return {info.size, info.offset, (info.flags & VFIO_REGION_INFO_FLAG_MMAP) != 0};
}

void VfioDevice::enable() {
  const off_t at = static_cast<off_t>(region(VFIO_PCI_CONFIG_REGION_INDEX).offset) + 4;
  uint16_t command = 0;
  if (pread(fd_, &command, sizeof command, at) != sizeof command) {
    throw DeviceError(DeviceFault::system, device_.address, errno, "pread");
  }
  // Memory decoding for the BARs; bus mastering because an MSI-X message is a write by the device.
  command |= kCommandMemory | kCommandBusMaster;
  if (pwrite(fd_, &command, sizeof command, at) != sizeof command) {
    throw DeviceError(DeviceFault::system, device_.address, errno, "pwrite");
  }
}

void VfioDevice::map_registers() {
  register_region_ = region(VFIO_PCI_BAR0_REGION_INDEX);
  if (register_region_.size < kDoorbell + 4) {
    throw DeviceError(DeviceFault::not_ivshmem, device_.address, 0, "", "its register BAR is too small");
  }
  if (!register_region_.mappable) return;
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); // 256 bytes of BAR, mapped as a whole page
  void* at = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd_,
                  static_cast<off_t>(register_region_.offset));
  if (at == MAP_FAILED) return; // pread and pwrite do it too
  madvise(at, page, MADV_DONTFORK);
  registers_ = Registers(Bar(static_cast<uint8_t*>(at), page));
}

Bar VfioDevice::map_memory() {
  const Region memory = region(VFIO_PCI_BAR2_REGION_INDEX);
  if (memory.size == 0 || !memory.mappable) {
    throw DeviceError(DeviceFault::system, device_.address, 0, "", "its memory BAR cannot be mapped");
  }
  void* at = mmap(nullptr, memory.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, static_cast<off_t>(memory.offset));
  if (at == MAP_FAILED) throw DeviceError(DeviceFault::system, device_.address, errno, "mmap");
  madvise(at, memory.size, MADV_DONTFORK);
  return Bar(static_cast<uint8_t*>(at), memory.size);
}

uint32_t VfioDevice::position() const {
  if (registers_) return registers_.position();
  uint32_t value = 0xffffffff;
  const off_t at = static_cast<off_t>(register_region_.offset + kIvPosition);
  if (pread(fd_, &value, sizeof value, at) != sizeof value) return 0xffffffff;
  return value;
}

void VfioDevice::ring(uint32_t peer, uint32_t vector) const noexcept {
  if (registers_) {
    registers_.ring(peer, vector);
    return;
  }
  const uint32_t value = peer << 16 | (vector & 0xff);
  const off_t at = static_cast<off_t>(register_region_.offset + kDoorbell);
  if (pwrite(fd_, &value, sizeof value, at) != sizeof value) { // unplugged: the watchdog of the peer makes up for it
  }
}

void VfioDevice::set_irqs(uint32_t index, uint32_t count, const int* fds) const {
  std::vector<uint8_t> buffer(sizeof(vfio_irq_set) + count * sizeof(int));
  vfio_irq_set set{};
  set.argsz = static_cast<uint32_t>(buffer.size());
  set.flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
  set.index = index;
  set.start = 0;
  set.count = count;
  std::memcpy(buffer.data(), &set, sizeof set);
  std::memcpy(buffer.data() + sizeof set, fds, count * sizeof(int));
  if (ioctl(fd_, VFIO_DEVICE_SET_IRQS, buffer.data()) != 0) {
    throw DeviceError(DeviceFault::system, device_.address, errno, "ioctl");
  }
}

void VfioDevice::arm() {
  if (vectors_ == 0) throw DeviceError(DeviceFault::no_vectors, device_.address);
  if (!fds_.empty()) return;
  for (uint32_t i = 0; i < vectors_; ++i) {
    const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) throw DeviceError(DeviceFault::system, device_.address, errno, "eventfd");
    fds_.push_back(fd);
  }
  set_irqs(VFIO_PCI_MSIX_IRQ_INDEX, vectors_, fds_.data());
  heard_ = hears(kSoon);
  if (heard_) return;
  const bool again = enable_again();
  if (!again && known_silent) return; // it was waited for once
  heard_ = hears(kLate);
  if (!heard_ && !again) known_silent = true;
}

// Rings itself. QEMU's device does that as it rings others: through the eventfd of its own vector.
bool VfioDevice::hears(int milliseconds) const {
  const uint32_t own = position();
  if (own > kLargestPeer) return true; // no server has told it who it is yet, or it is being unplugged: nothing can be said
  ring(own, 0);
  pollfd entry = {fds_[0], POLLIN, 0};
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  for (int left = milliseconds; left >= 0;) {
    const int ready = poll(&entry, 1, left);
    if (ready > 0) break;
    if (ready == 0 || errno != EINTR) return false;
    left = static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now()).count());
  }
  uint64_t count = 0;
  return read(fds_[0], &count, sizeof count) == sizeof count;
}

// QEMU asks KVM for the interrupts of an ivshmem device when MSI-X is enabled. Linux enables it first and fills the table then, and with an
// IOMMU that remaps interrupts an empty entry is refused: "kvm_irqchip_add_msi_route failed", and none ever comes (hw/misc/ivshmem.c,
// ivshmem_enable_irqfd). Once the table is filled, it is enabled again. vfio does not let that through; configuration space takes it
// from root, unless the kernel is locked down. False: it could not be done.
bool VfioDevice::enable_again() const {
  const std::string path = "/sys/bus/pci/devices/" + device_.address + "/config";
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return false;
  uint8_t at = 0;
  uint8_t head[2] = {};
  uint16_t flags = 0;
  bool found = pread(fd, &at, sizeof at, PCI_CAPABILITY_LIST) == sizeof at;
  for (int steps = 0; found && steps < kMostCapabilities; ++steps) {
    found = at >= PCI_STD_HEADER_SIZEOF && pread(fd, head, sizeof head, at) == sizeof head;
    if (found && head[0] == PCI_CAP_ID_MSIX) break;
    at = head[1];
  }
  bool done = found && head[0] == PCI_CAP_ID_MSIX &&
              pread(fd, &flags, sizeof flags, at + PCI_MSIX_FLAGS) == sizeof flags && (flags & PCI_MSIX_FLAGS_ENABLE) != 0;
  const uint16_t off = flags & static_cast<uint16_t>(~PCI_MSIX_FLAGS_ENABLE);
  for (const uint16_t value : {off, flags}) {
    done = done && pwrite(fd, &value, sizeof value, at + PCI_MSIX_FLAGS) == sizeof value;
  }
  ::close(fd);
  return done;
}

void VfioDevice::watch_request() {
  vfio_irq_info irq{};
  irq.argsz = sizeof irq;
  irq.index = VFIO_PCI_REQ_IRQ_INDEX;
  if (ioctl(fd_, VFIO_DEVICE_GET_IRQ_INFO, &irq) != 0 || irq.count == 0) return;
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return;
  try {
    set_irqs(VFIO_PCI_REQ_IRQ_INDEX, 1, &fd);
    request_fd_ = fd;
  } catch (const DeviceError&) {
    ::close(fd); // an old kernel: unplugging then comes without notice
  }
}

} // namespace vmring
