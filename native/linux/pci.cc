#include "linux/pci.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

namespace vmring {
namespace {

std::string slurp(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The last part of what a symbolic link points to; "" when there is none.
std::string link_name(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t length = readlink(path.c_str(), target, sizeof target - 1);
  if (length < 0) return {};
  target[length] = 0;
  const char* slash = std::strrchr(target, '/');
  return slash ? slash + 1 : target;
}

uint64_t number_in(const std::string& path) { return std::strtoull(slurp(path).c_str(), nullptr, 16); }

// The file `resource` has one line "start end flags" per BAR.
void read_resources(const std::string& folder, PciDevice& device) {
  std::istringstream lines(slurp(folder + "/resource"));
  std::string start, end, flags;
  for (int bar = 0; bar < 3 && lines >> start >> end >> flags; ++bar) {
    const uint64_t from = std::strtoull(start.c_str(), nullptr, 16);
    const uint64_t to = std::strtoull(end.c_str(), nullptr, 16);
    const uint64_t size = to > from ? to - from + 1 : 0;
    if (bar == 0) device.register_bytes = size;
    if (bar == 1) device.interrupts = size != 0;
    if (bar == 2) device.memory_bytes = size;
  }
}

bool is_ivshmem(const std::string& folder) {
  return number_in(folder + "/vendor") == kIvshmemVendor && number_in(folder + "/device") == kIvshmemDevice;
}

PciDevice read_device(const std::string& folder, const std::string& address) {
  PciDevice device;
  device.address = address;
  device.revision = static_cast<uint8_t>(number_in(folder + "/revision"));
  read_resources(folder, device);
  device.driver = link_name(folder + "/driver");
  const std::string group = link_name(folder + "/iommu_group");
  if (!group.empty()) device.iommu_group = std::atoi(group.c_str());
  return device;
}

class Folder { // names in a directory
 public:
  explicit Folder(const std::string& path) : handle_(opendir(path.c_str())) {}
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    if (handle_) closedir(handle_);
  }
  const char* next() {
    while (dirent* entry = handle_ ? readdir(handle_) : nullptr) {
      if (entry->d_name[0] != '.') return entry->d_name;
    }
    return nullptr;
  }

 private:
  DIR* handle_;
};

// Decoding must be on before memory can be touched; without a driver nobody may have done that.
void enable_memory(const std::string& folder) {
  const int config = ::open((folder + "/config").c_str(), O_RDONLY | O_CLOEXEC);
  uint16_t command = 0;
  const bool known = config >= 0 && pread(config, &command, sizeof command, 4) == sizeof command;
  if (config >= 0) ::close(config);
  if (known && (command & 2) != 0) return;
  const int enable = ::open((folder + "/enable").c_str(), O_WRONLY | O_CLOEXEC);
  if (enable < 0) return; // the mapping below says what is wrong
  if (write(enable, "1", 1) != 1) { // likewise
  }
  ::close(enable);
}

// `lock`: takes the file for this process, and keeps the descriptor there.
Bar map_resource(const std::string& path, uint64_t size, int* lock = nullptr) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    const int number = errno;
    const DeviceFault fault = number == EPERM && locked_down()     ? DeviceFault::lockdown
                              : number == EACCES || number == EPERM ? DeviceFault::permission
                              : number == ENOENT                    ? DeviceFault::absent
                                                                    : DeviceFault::system;
    throw DeviceError(fault, path, number, "open");
  }
  if (lock != nullptr && flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int number = errno;
    ::close(fd);
    if (number != EWOULDBLOCK) throw DeviceError(DeviceFault::system, path, number, "flock");
    throw DeviceError(DeviceFault::busy, path, EBUSY, "flock", {}, find_owner(path));
  }
  void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const int number = errno;
  if (lock == nullptr || at == MAP_FAILED) {
    ::close(fd); // the mapping stays
  } else {
    *lock = fd;
  }
  if (at == MAP_FAILED) {
    // Lockdown is the one reason for which the kernel says EPERM here.
    throw DeviceError(number == EPERM ? DeviceFault::lockdown : DeviceFault::system, path, number, "mmap");
  }
  madvise(at, size, MADV_DONTFORK);
  return Bar(static_cast<uint8_t*>(at), size);
}

std::string describe(DeviceFault fault, const std::string& path, int number, const char* call, const std::string& detail,
                     int owner) {
  std::string text = path + ": " + device_fault_name(fault);
  if (!detail.empty()) text += " (" + detail + ")";
  if (owner != 0) text += ", process " + std::to_string(owner);
  if (number != 0) text += std::string(", ") + call + ": " + std::strerror(number);
  return text;
}

} // namespace

const char* device_fault_name(DeviceFault fault) {
  switch (fault) {
    case DeviceFault::absent: return "no such device";
    case DeviceFault::not_ivshmem: return "not an ivshmem device";
    case DeviceFault::other_driver: return "not bound to vfio-pci";
    case DeviceFault::no_vfio: return "the kernel has no vfio, or its modules are not loaded";
    case DeviceFault::no_iommu: return "in no IOMMU group";
    case DeviceFault::not_viable: return "the IOMMU group is not viable";
    case DeviceFault::interrupts: return "the IOMMU does not remap interrupts";
    case DeviceFault::busy: return "in use";
    case DeviceFault::permission: return "permission denied";
    case DeviceFault::lockdown: return "refused by kernel lockdown";
    case DeviceFault::no_vectors: return "the device has no interrupts";
    case DeviceFault::system: return "failed";
  }
  return "failed";
}

DeviceError::DeviceError(DeviceFault what_fault, std::string where, int error_number, const char* call, std::string more,
                         int owner_pid)
    : std::runtime_error(describe(what_fault, where, error_number, call, more, owner_pid)), fault(what_fault),
      path(std::move(where)), number(error_number), syscall(call), detail(std::move(more)), owner(owner_pid) {}

bool normalise_address(const std::string& text, std::string& address) {
  unsigned domain = 0, bus = 0, device = 0, function = 0;
  int used = -1;
  const bool longer = std::sscanf(text.c_str(), "%4x:%2x:%2x.%1x%n", &domain, &bus, &device, &function, &used) == 4;
  if (!longer) {
    domain = 0;
    if (std::sscanf(text.c_str(), "%2x:%2x.%1x%n", &bus, &device, &function, &used) != 3) return false;
  }
  if (used != static_cast<int>(text.size()) || device > 0x1f || function > 7) return false;
  // sscanf takes signs and blanks too
  if (text.find_first_not_of("0123456789abcdefABCDEF:.") != std::string::npos) return false;
  char form[24];
  std::snprintf(form, sizeof form, "%04x:%02x:%02x.%x", domain, bus, device, function);
  address = form;
  return true;
}

PciDevice read_pci(const std::string& text, const std::string& sysfs) {
  std::string address;
  if (!normalise_address(text, address)) throw DeviceError(DeviceFault::absent, text);
  const std::string folder = sysfs + "/bus/pci/devices/" + address;
  if (access((folder + "/vendor").c_str(), F_OK) != 0) throw DeviceError(DeviceFault::absent, address);
  if (!is_ivshmem(folder)) {
    throw DeviceError(DeviceFault::not_ivshmem, address);
  }
  return read_device(folder, address);
}

std::vector<PciDevice> find_ivshmem(const std::string& sysfs) {
  std::vector<PciDevice> found;
  const std::string root = sysfs + "/bus/pci/devices";
  Folder folder(root);
  while (const char* name = folder.next()) {
    const std::string path = root + "/" + name;
    if (is_ivshmem(path)) found.push_back(read_device(path, name));
  }
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.address < b.address; });
  return found;
}

bool locked_down() {
  // "none [integrity] confidentiality": the brackets mark the level in force
  const std::string text = slurp("/sys/kernel/security/lockdown");
  return text.find('[') != std::string::npos && text.find("[none]") == std::string::npos;
}

int find_owner(const std::string& named) {
  char real[PATH_MAX]; // what /proc shows has no links in it
  const std::string path = realpath(named.c_str(), real) != nullptr ? real : named;
  Folder processes("/proc");
  while (const char* name = processes.next()) {
    char* end = nullptr;
    const long pid = std::strtol(name, &end, 10);
    if (pid <= 0 || *end != 0) continue;
    const std::string folder = std::string("/proc/") + name + "/fd";
    Folder descriptors(folder);
    while (const char* fd = descriptors.next()) {
      char target[PATH_MAX];
      const ssize_t length = readlink((folder + "/" + fd).c_str(), target, sizeof target);
      if (length > 0 && path.compare(0, std::string::npos, target, static_cast<size_t>(length)) == 0) {
        return static_cast<int>(pid);
      }
    }
  }
  return 0;
}

Bar& Bar::operator=(Bar&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Bar::~Bar() {
  if (data_) munmap(data_, size_);
}

Registers::Registers(Bar page)
    : range_(new GuardedRange(page.data(), page.size())), base_(page.data()) { // the node stays: see GuardedRange
  guard(range_);
  page.release();
}

Registers& Registers::operator=(Registers&& other) noexcept {
  std::swap(range_, other.range_);
  std::swap(base_, other.base_);
  return *this;
}

Registers::~Registers() {
  if (range_ && range_->lost.exchange(1) == 0) replace_pages(range_->begin, range_->size);
}

SysfsDevice SysfsDevice::open(const std::string& address) {
  SysfsDevice result;
  result.device = read_pci(address);
  const std::string folder = "/sys/bus/pci/devices/" + result.device.address;
  enable_memory(folder);
  // resource2, never resource2_wc: write combining reorders stores, and a release store is none any more.
  int* lock = result.device.interrupts ? &result.lock : nullptr;
  result.memory = map_resource(folder + "/resource2", result.device.memory_bytes, lock);
  try {
    result.registers = Registers(map_resource(folder + "/resource0", static_cast<uint64_t>(sysconf(_SC_PAGESIZE))));
  } catch (const DeviceError& error) {
    if (error.fault == DeviceFault::absent) { // unplugged meanwhile
      if (result.lock >= 0) ::close(result.lock);
      throw;
    }
  }
  return result;
}

bool keep_bytes(uint8_t* data, uint64_t size, std::span<const ByteRange> kept) {
  void* copy = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy == MAP_FAILED) return false;
  for (const auto& [offset, bytes] : kept) {
    if (offset > size || bytes > size - offset) continue; // no part of it
    std::memcpy(static_cast<uint8_t*>(copy) + offset, data + offset, bytes);
  }
  madvise(copy, size, MADV_DONTFORK);
  // One step: no moment at which the range is not mapped.
  if (mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, data) != MAP_FAILED) return true;
  munmap(copy, size);
  return false;
}

double read_speed(const uint8_t* data, uint64_t size) {
  using Clock = std::chrono::steady_clock;
  constexpr uint64_t kWindow = 64 * 1024;
  const uint64_t bytes = size < kWindow ? size / 8 * 8 : kWindow;
  double best = 0;
  for (int pass = 0; pass < 3; ++pass) {
    const auto start = Clock::now();
    for (uint64_t at = 0; at < bytes; at += 8) {
      const auto word = *reinterpret_cast<const volatile uint64_t*>(data + at);
      static_cast<void>(word);
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (seconds > 0) best = std::max(best, static_cast<double>(bytes) / seconds);
  }
  return best;
}

} // namespace vmring
