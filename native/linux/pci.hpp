// ivshmem devices in a guest, as sysfs shows them, and their memory through sysfs: no driver needed, no interrupts to be had.
//
// vfio.hpp is the better way where a driver and an IOMMU are there. Both hand out a Bar, whose pages the caller gives to
// a guarded range: a device that is unplugged turns the next access into SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "linux/sigbus.hpp"

namespace vmring {

inline constexpr uint16_t kIvshmemVendor = 0x1af4;
inline constexpr uint16_t kIvshmemDevice = 0x1110;

// Registers in BAR 0, little endian, 32 bits each.
inline constexpr size_t kIvPosition = 8;
inline constexpr size_t kDoorbell = 12; // peer << 16 | vector

// What is in the way of using a device; each has a cure of its own (src/errors.ts, `vmring doctor`).
enum class DeviceFault : uint8_t {
  absent,       // no device at that address
  not_ivshmem,  // something else is there
  other_driver, // `detail`: its driver, or "" for none; vfio-pci is wanted
  no_vfio,      // the kernel has no vfio, or the modules are not loaded
  no_iommu,     // the device is in no IOMMU group
  not_viable,   // `detail`: what else is in the IOMMU group with a driver of its own
  interrupts,   // the IOMMU does not remap interrupts
  busy,         // `owner`: pid of the process that has the group open, 0 when it cannot be seen
  permission,   // `path` may not be opened by this user
  lockdown,     // kernel lockdown (Secure Boot) refuses
  no_vectors,   // no MSI-X: ivshmem-plain has no interrupts
  system,       // anything else: errno and call say what
};

const char* device_fault_name(DeviceFault fault);

struct DeviceError : std::runtime_error {
  DeviceError(DeviceFault what_fault, std::string where, int error_number = 0, const char* call = "",
              std::string more = {}, int owner_pid = 0);
  DeviceFault fault;
  std::string path;
  int number; // errno, 0 when no system call failed
  const char* syscall;
  std::string detail;
  int owner;
};

struct PciDevice {
  std::string address; // as in sysfs: 0000:00:02.0
  uint8_t revision = 0;
  uint64_t register_bytes = 0; // BAR 0
  uint64_t memory_bytes = 0;   // BAR 2
  bool interrupts = false;     // BAR 1 is there: ivshmem-doorbell
  std::string driver;          // "" none
  int iommu_group = -1;        // −1 none
};

// Every ivshmem device, ordered by address. `sysfs` is for tests.
std::vector<PciDevice> find_ivshmem(const std::string& sysfs = "/sys");
// One device. Throws DeviceError absent or not_ivshmem.
PciDevice read_pci(const std::string& address, const std::string& sysfs = "/sys");
// "00:02.0" and "0000:00:02.0" both mean the latter. False: neither form.
bool normalise_address(const std::string& text, std::string& address);

// True when the kernel says so itself; unknown counts as false.
bool locked_down();
// The process that has `path` open: its pid, or 0 when none can be seen (other users' processes are hidden).
int find_owner(const std::string& path);

// A mapped BAR. Unmaps it unless released to somebody who keeps the range for ever.
class Bar {
 public:
  Bar() = default;
  Bar(uint8_t* data, uint64_t size) : data_(data), size_(size) {}
  Bar(Bar&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr; }
  Bar& operator=(Bar&& other) noexcept;
  ~Bar();

  uint8_t* data() const { return data_; }
  uint64_t size() const { return size_; }
  explicit operator bool() const { return data_ != nullptr; }
  uint8_t* release() {
    uint8_t* data = data_;
    data_ = nullptr;
    return data;
  }

 private:
  uint8_t* data_ = nullptr;
  uint64_t size_ = 0;
};

// BAR 0 as registers: IVPosition and the doorbell. The page is a guarded range for good: after an unplug, and after this
// object is gone, ringing writes to anonymous memory instead of faulting.
class Registers {
 public:
  Registers() = default;
  explicit Registers(Bar page);
  Registers(Registers&& other) noexcept : range_(other.range_), base_(other.base_) {
    other.range_ = nullptr;
    other.base_ = nullptr;
  }
  Registers& operator=(Registers&& other) noexcept;
  ~Registers();

  uint32_t position() const { return *reinterpret_cast<const volatile uint32_t*>(base_ + kIvPosition); }
  // One register write; from any thread.
  void ring(uint32_t peer, uint32_t vector) const noexcept {
#if defined(__aarch64__)
    // Stores to the memory BAR are seen before the one to the register. (x86 keeps stores in order by itself.)
    asm volatile("dmb oshst" ::: "memory");
#else
    asm volatile("" ::: "memory");
#endif
    *reinterpret_cast<volatile uint32_t*>(base_ + kDoorbell) = peer << 16 | (vector & 0xff);
  }
  explicit operator bool() const { return base_ != nullptr; }

 private:
  GuardedRange* range_ = nullptr;
  uint8_t* base_ = nullptr;
};

// Memory by resource2 and, when it may be opened, the registers by resource0: enough to ring others, not to be rung.
// A plain device has no doorbell that would do anything; its registers are mapped all the same.
struct SysfsDevice {
  PciDevice device;
  Bar memory;
  Registers registers; // empty: not permitted
  int lock = -1;       // resource2 of a device with interrupts, locked; the caller closes it

  // A device that has a peer id belongs to one process at a time, as with vfio: two would write one section. A plain
  // device has none, so any number of processes may map it.
  // Throws DeviceError: absent, not_ivshmem, permission, lockdown, busy, system.
  static SysfsDevice open(const std::string& address);
};

// Puts private pages over a mapped BAR, with the same bytes in the ranges `kept` and zeros elsewhere, so that views of it
// stay readable while the device goes. The caller's own writers stand still meanwhile. False: not enough memory, nothing has
// changed. A mapping holds the device: only after this (or replace_pages, or munmap) can it be given back.
// Not all of it, since a device's page that was never looked at before can cost a millisecond (nested guests).
bool keep_bytes(uint8_t* data, uint64_t size, std::span<const ByteRange> kept);

// Bytes per second at which this mapping is read with 64-bit loads: best of three short passes. Cached memory gives
// several GB/s, an uncached or write-combining mapping some tens of MB/s.
double read_speed(const uint8_t* data, uint64_t size);
inline constexpr double kSlowMapping = 300e6;

} // namespace vmring
