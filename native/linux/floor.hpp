// What `vmring bench` holds its results against: round trips and copies without JavaScript and without vmring around them.
// Each measurement forks the other side, so that they are two processes, and waits for it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmring::floor {

enum class Kind { cache_line = 0, ring = 1, eventfd = 2, memcpy = 3, fill = 4 };

struct Setup {
  int cpu[2];          // of this side and of the other; below 0: wherever the scheduler puts them
  uint64_t nanoseconds; // how long to measure
  uint64_t gap;        // nanoseconds of sleep before each round trip (eventfd)
  uint32_t size;       // payload bytes (ring, memcpy, fill)
  uint32_t footprint;  // bytes, a power of two: capacity of the ring, and what memcpy and fill write to in turn
};

// The median: nanoseconds of one round trip, or bytes per second. Throws SystemError.
double measure(Kind kind, const Setup& setup);

// Moves the calling thread to one processor (sched_setaffinity(2)). Throws SystemError.
void pin(int cpu);

// A sum over every byte, at its place in the message: that of a message cut in pieces is the sum of its pieces' sums (mod 2^32),
// `offset` being where the piece begins.
uint32_t checksum(const uint8_t* bytes, size_t length, uint64_t offset);

// Who runs this machine, by cpuid leaf 0x40000000: "KVMKVMKVM", "TCGTCGTCGTCG" (QEMU's emulation), …; "" for nobody.
const char* hypervisor();

} // namespace vmring::floor
