// What native/linux says about ivshmem devices, as lines of JSON, for the tests in guests.
//
//   device_probe list             one line per device found
//   device_probe sysfs ADDRESS    maps it through sysfs, measures it
//   device_probe open ADDRESS     opens it through vfio-pci and lets go of it at once
//   device_probe hold ADDRESS     keeps it until it is to be unplugged: "held", then "request", then "released"
//
// A DeviceError is a result too: {"fault":…}; the exit code is 0 for it.
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "linux/vfio.hpp"

namespace {

using namespace vmring;

void print(const PciDevice& device, const char* more) {
  std::printf("{\"address\":\"%s\",\"driver\":\"%s\",\"group\":%d,\"revision\":%d,\"interrupts\":%s,\"memory\":%llu%s}\n",
              device.address.c_str(), device.driver.c_str(), device.iommu_group, device.revision,
              device.interrupts ? "true" : "false", static_cast<unsigned long long>(device.memory_bytes), more);
  std::fflush(stdout);
}

void sysfs(const char* address) {
  const SysfsDevice opened = SysfsDevice::open(address);
  char more[128];
  std::snprintf(more, sizeof more, ",\"registers\":%s,\"position\":%u,\"speed\":%.0f", opened.registers ? "true" : "false",
                opened.registers ? opened.registers.position() : 0, read_speed(opened.memory.data(), opened.memory.size()));
  print(opened.device, more);
}

void open_device(const char* address, bool hold) {
  auto opened = VfioDevice::open(address);
  Bar memory = opened->map_memory();
  if (opened->vectors() != 0) opened->arm();
  char more[128];
  std::snprintf(more, sizeof more, ",\"vectors\":%u,\"position\":%u,\"request\":%s,\"speed\":%.0f", opened->vectors(),
                opened->position(), opened->request_fd() >= 0 ? "true" : "false", read_speed(memory.data(), memory.size()));
  print(opened->device(), more);
  if (!hold) return;
  std::memcpy(memory.data() + 8192, "still here", 11);
  std::printf("held\n");
  std::fflush(stdout);
  pollfd one{opened->request_fd(), POLLIN, 0};
  if (poll(&one, 1, 60'000) != 1) {
    std::printf("no request within 60 s\n");
    return;
  }
  std::printf("request\n");
  const ByteRange whole{0, memory.size()};
  const bool kept = keep_bytes(memory.data(), memory.size(), {&whole, 1});
  opened.reset();
  std::printf("released, %s\n", kept ? reinterpret_cast<const char*>(memory.data() + 8192) : "without its bytes");
}

} // namespace

int main(int argc, char** argv) {
  const char* what = argc > 1 ? argv[1] : "";
  const char* address = argc > 2 ? argv[2] : "";
  try {
    if (std::strcmp(what, "list") == 0) {
      for (const PciDevice& device : find_ivshmem()) print(device, "");
    } else if (std::strcmp(what, "sysfs") == 0) {
      sysfs(address);
    } else if (std::strcmp(what, "open") == 0 || std::strcmp(what, "hold") == 0) {
      open_device(address, what[0] == 'h');
    } else {
      std::fprintf(stderr, "usage: device_probe list | sysfs|open|hold ADDRESS\n");
      return 2;
    }
  } catch (const DeviceError& error) {
    std::printf("{\"fault\":\"%s\",\"path\":\"%s\",\"errno\":%d,\"detail\":\"%s\",\"owner\":%d}\n",
                device_fault_name(error.fault), error.path.c_str(), error.number, error.detail.c_str(), error.owner);
  }
  return 0;
}
