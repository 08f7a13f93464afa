// What an ivshmem server may send, nine bytes each: a value, and whether a descriptor comes along.
#include "linux/ivshmem_client.hpp"

#include <cstddef>
#include <cstdlib>
#include <cstring>

using namespace vmring;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  IvshmemClient client;
  bool memory = false;
  uint32_t own = 0;
  for (; size >= 9; data += 9, size -= 9) {
    int64_t value = 0;
    memcpy(&value, data, 8);
    const bool has_fd = (data[8] & 1) != 0;
    const bool was_broken = client.stage() == IvshmemClient::Stage::broken;
    const IvshmemStep step = client.feed(value, has_fd);
    // Once broken always broken; what wants a descriptor has one; numbers stay in their ranges; memory comes once.
    bool sane = !was_broken || step.event == IvshmemEvent::fault;
    switch (step.event) {
      case IvshmemEvent::vector:
        sane = sane && has_fd && step.peer == value && step.vector < ivshmem_max_vectors;
        sane = sane && step.own == (step.peer == client.own_id());
        if (step.own) sane = sane && step.vector == own++;
        break;
      case IvshmemEvent::memory:
        sane = sane && has_fd && !memory;
        memory = true;
        break;
      case IvshmemEvent::left: sane = sane && !has_fd && step.peer == value && step.peer != client.own_id(); break;
      case IvshmemEvent::own_id: sane = sane && !has_fd && step.peer == value; break;
      case IvshmemEvent::fault:
        sane = sane && step.fault != IvshmemFault::none && client.stage() == IvshmemClient::Stage::broken;
        break;
      case IvshmemEvent::none: break;
    }
    if (client.ready()) sane = sane && memory && own > 0;
    if (!sane) abort();
  }
  return 0;
}
