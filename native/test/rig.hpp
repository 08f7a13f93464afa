// What the tests of core have in common: memory whose neighbours may not be touched, and rings and regions built in it.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "check.hpp"
#include "core/end.hpp"
#include "core/remote.hpp"

namespace rig {

using A = vmring::StdAtomics;

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif

// splitmix64: small, seeded, the same everywhere.
struct Random {
  uint64_t state;
  uint64_t next() {
    uint64_t z = (state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  uint32_t below(uint32_t limit) { return static_cast<uint32_t>((next() >> 32) * limit >> 32); }
  bool one_in(uint32_t n) { return below(n) == 0; }
};

// Zeroed memory that ends at, and begins behind, a page nobody may touch: one byte outside ends the program.
class Guarded {
 public:
  // `shared`: with processes that are forked later.
  explicit Guarded(uint64_t bytes, bool shared = false) : mapped_(vmring::align_up(bytes, vmring::kPage)) {
    const int kind = shared ? MAP_SHARED : MAP_PRIVATE;
    void* all = mmap(nullptr, mapped_ + 2 * vmring::kPage, PROT_NONE, kind | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) abort();
    all_ = static_cast<uint8_t*>(all);
    if (mprotect(all_ + vmring::kPage, mapped_, PROT_READ | PROT_WRITE) != 0) abort();
    base_ = all_ + vmring::kPage + (mapped_ - bytes); // the end is the edge that overruns reach
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(all_, mapped_ + 2 * vmring::kPage); }
  uint8_t* base() const { return base_; }

 private:
  uint64_t mapped_;
  uint8_t* all_;
  uint8_t* base_;
};

// One thread writes life 1, 2, 3 … of something small, this one reads it: true from `read` for one that was whole, whose life
// it puts in its argument. A second and a half, and longer when the two had to share one processor and hardly met.
template <class Write, class Read>
void write_against_read(Write write, Read read) {
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (uint32_t i = 1; !stop; ++i) {
      write(i == 0 ? 1 : i);
      for (uint32_t k = i % 64; k > 0; --k) asm volatile("" ::: "memory"); // so that some reads succeed
    }
  });
  uint32_t reads = 0;
  uint32_t last = 0;
  const auto begin = std::chrono::steady_clock::now();
  const auto more = [&] {
    const auto passed = std::chrono::steady_clock::now() - begin;
    return passed < std::chrono::milliseconds(1500) || (reads <= 100 && passed < std::chrono::seconds(30));
  };
  for (int i = 0; check::failures == 0 && (i % 1024 != 0 || more()); ++i) {
    uint32_t life = 0;
    if (!read(life)) continue;
    if (life != last) ++reads;
    last = life;
  }
  stop = true;
  writer.join();
  CHECK(reads > 100);
}

// One direction: a ring and the reader block of its consumer, each between guard pages.
struct Pipe {
  static constexpr uint32_t kTag = 0xabcd0001;

  explicit Pipe(uint32_t capacity, uint32_t first_sequence = 0, bool joined = true)
      : ring(vmring::ring_bytes(capacity)), block(sizeof(vmring::ReaderBlock)),
        head(reinterpret_cast<vmring::RingHead*>(ring.base())), data(ring.base() + sizeof(vmring::RingHead)),
        reader(reinterpret_cast<vmring::ReaderBlock*>(block.base())), tx(head, data, capacity, kTag, first_sequence),
        rx(reader, first_sequence) {
    if (joined) join(capacity);
  }
  void join(uint32_t capacity) {
    tx.attach(reader);
    rx.attach(head, data, capacity, kTag);
  }
  uint64_t* word(uint32_t position) {
    return reinterpret_cast<uint64_t*>(data + (position & (tx.capacity() - 1)));
  }

  Guarded ring;
  Guarded block;
  vmring::RingHead* head;
  uint8_t* data;
  vmring::ReaderBlock* reader;
  // each on lines of its own, as in two processes
  alignas(vmring::kLine) vmring::Producer<A> tx;
  alignas(vmring::kLine) vmring::Consumer<A> rx;
};

// A formatted region between guard pages.
struct Region {
  explicit Region(uint64_t size = vmring::kMinRegion, uint32_t sections = 2, bool shared = false)
      : memory(size, shared) {
    uint8_t uuid[16];
    for (uint8_t i = 0; i < 16; ++i) uuid[i] = i;
    if (vmring::format_region<A>(memory.base(), size, sections, uuid, false, 7) != vmring::Header::ok) abort();
    if (vmring::read_geometry<A>(memory.base(), size, geometry) != vmring::Header::ok) abort();
  }
  uint8_t* base() const { return memory.base(); }
  vmring::SectionView section(uint32_t index) const { return {memory.base(), geometry, index}; }
  vmring::SectionAllocator allocator() const { return {geometry.heap_begin(), geometry.section_size}; }

  Guarded memory;
  vmring::Geometry geometry;
};

// Bytes that only this (stream, sequence) has, and their check: a reader that knows both needs nothing else.
inline void fill(uint8_t* to, uint64_t length, uint64_t seed) {
  Random random{seed};
  uint64_t at = 0;
  for (; at + 8 <= length; at += 8) {
    const uint64_t value = random.next();
    memcpy(to + at, &value, 8);
  }
  const uint64_t value = random.next();
  if (at != length) memcpy(to + at, &value, length - at); // `to` may be null when there is nothing to fill
}
inline bool filled(const uint8_t* bytes, uint64_t length, uint64_t seed) {
  Random random{seed};
  uint64_t at = 0;
  uint64_t value = 0;
  for (; at + 8 <= length; at += 8) {
    memcpy(&value, bytes + at, 8);
    if (value != random.next()) return false;
  }
  const uint64_t last = random.next();
  return memcmp(bytes + at, &last, length - at) == 0;
}

} // namespace rig
