// An ivshmem device through vfio-pci: memory and registers mapped, MSI-X vectors as eventfds, a warning before unplug.
//
// One process at a time has the device. QEMU drops interrupts until vectors are armed, so the order for the caller is:
// open, arm, look at everything once, then say to the others that it is there.
#pragma once

#include <memory>

#include "linux/pci.hpp"

namespace vmring {

class VfioDevice {
 public:
  // Opens the group, turns on memory decoding and bus mastering, maps the registers. Throws DeviceError: absent,
  // not_ivshmem, other_driver, no_vfio, no_iommu, not_viable, interrupts, busy, permission, system.
  static std::unique_ptr<VfioDevice> open(const std::string& address);

  VfioDevice(const VfioDevice&) = delete;
  VfioDevice& operator=(const VfioDevice&) = delete;
  // Gives the device back to the system, as far as we are concerned: a mapping of its memory holds it too (keep_bytes).
  ~VfioDevice();

  const PciDevice& device() const { return device_; }
  // Own peer id.
  uint32_t position() const;
  // Rings a peer: one register write. May be called from any thread.
  void ring(uint32_t peer, uint32_t vector) const noexcept;

  // The shared memory; the caller owns it, and guards the range: memory of an unplugged device faults.
  Bar map_memory();

  // MSI-X vectors of the device, 0 for ivshmem-plain.
  uint32_t vectors() const { return vectors_; }
  // Makes one eventfd per vector and arms them all; finds out whether interrupts come. Throws DeviceError no_vectors or system.
  void arm();
  // After arm(). False: no interrupt came within a second. True: one came, or it could not be asked.
  bool heard() const { return heard_; }
  // The eventfd of a vector: non-blocking, close-on-exec, owned here. −1 before arm().
  int vector_fd(uint32_t vector) const { return vector < fds_.size() ? fds_[vector] : -1; }
  // Becomes readable when the device is about to be unplugged: the kernel waits until this object and all mappings are
  // gone, and signals again every few seconds. −1 when the kernel has no such notice.
  int request_fd() const { return request_fd_; }

 private:
  VfioDevice() = default;
  void open_group(const std::string& path, bool without_iommu);
  void open_device();
  void enable();
  void map_registers();
  void watch_request();
  bool hears(int milliseconds) const;
  bool enable_again() const;
  struct Region {
    uint64_t size = 0;
    uint64_t offset = 0;
    bool mappable = false;
  };
  Region region(uint32_t index) const;
  void set_irqs(uint32_t index, uint32_t count, const int* fds) const;

  PciDevice device_;
  int container_ = -1;
  int group_ = -1;
  int fd_ = -1;
  uint32_t vectors_ = 0;
  std::vector<int> fds_;
  int request_fd_ = -1;
  bool heard_ = false;
  Region register_region_;
  Registers registers_; // empty: the kernel does not let a BAR below a page be mapped; pread and pwrite then
};

} // namespace vmring
