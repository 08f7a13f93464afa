// A file that shrinks under a mapping turns the next access into SIGBUS. The handler here puts anonymous zero pages over
// the whole range, marks it lost and returns, so that the access goes on and reads zeros; everything else is passed on.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace vmring {

// Within a mapping.
struct ByteRange {
  uint64_t offset;
  uint64_t size;
};

// One address range that is ours for good. Nodes are never freed and ranges never reused (invariant 10), so the handler
// can walk the list at any moment without a lock, and a late fault on a closed range is answered in the same way.
struct GuardedRange {
  uintptr_t begin;
  size_t size;
  std::atomic<uint32_t> lost{0};
  GuardedRange* next = nullptr;

  GuardedRange(void* address, size_t length) : begin(reinterpret_cast<uintptr_t>(address)), size(length) {}
};

// Installs the handler when it is not (or no longer) the process's, and makes the range known to it.
void guard(GuardedRange* range);

// Replaces the pages of a range by anonymous zero pages. Async-signal-safe; false only when the kernel refuses.
bool replace_pages(uintptr_t begin, size_t size) noexcept;

} // namespace vmring
