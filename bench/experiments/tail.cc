// What the machine itself does to one in a thousand: single trips of one cache line between two processes that do nothing else, and what
// one thread misses that does nothing but read the clock. The times that are not ours are in both.
//   g++ -O2 -std=c++20 bench/experiments/tail.cc -o tail && ./tail [SECONDS]
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "pin.hpp"

namespace {

uint64_t now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

void report(const char* name, std::vector<uint32_t>& times, double seconds) {
  std::sort(times.begin(), times.end());
  const auto at = [&](double share) { return times[static_cast<size_t>(share * static_cast<double>(times.size() - 1))]; };
  std::printf("%s: p50 %u, p99 %u, p99.9 %u, p99.99 %u, max %u ns;", name, at(0.5), at(0.99), at(0.999), at(0.9999), at(1));
  for (const uint32_t limit : {2'000u, 5'000u, 10'000u, 100'000u, 1'000'000u}) {
    const auto above = times.end() - std::upper_bound(times.begin(), times.end(), limit);
    std::printf(" above %u us %.0f a second%s", limit / 1000, static_cast<double>(above) / seconds, limit == 1'000'000 ? "\n" : ",");
  }
}

} // namespace

int main(int count, char** arguments) {
  const double seconds = count > 1 ? std::atof(arguments[1]) : 2;
  const auto length = static_cast<uint64_t>(seconds * 1e9);
  auto* lines = static_cast<std::atomic<uint64_t>*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
  std::atomic<uint64_t>&there = lines[0], &back = lines[16];
  const pid_t other = fork();
  if (other == 0) {
    pin(1);
    for (uint64_t i = 1;; ++i) {
      while (there.load(std::memory_order_acquire) != i) {
      }
      back.store(i, std::memory_order_release);
    }
  }
  pin(0);
  std::vector<uint32_t> times(static_cast<size_t>(seconds * 2e7)); // touched before it counts
  size_t filled = 0;
  uint64_t end = now() + length;
  for (uint64_t i = 1, begin = now(); begin < end && filled < times.size(); ++i, ++filled) {
    there.store(i, std::memory_order_release);
    while (back.load(std::memory_order_acquire) != i) {
    }
    const uint64_t over = now();
    times[filled] = static_cast<uint32_t>(over - begin);
    begin = over;
  }
  kill(other, SIGKILL);
  times.resize(filled);
  report("a cache line there and back", times, seconds);
  times.assign(static_cast<size_t>(seconds * 4e7), 0);
  filled = 0;
  end = now() + length;
  for (uint64_t begin = now(); begin < end && filled < times.size(); ++filled) {
    const uint64_t over = now();
    times[filled] = static_cast<uint32_t>(over - begin);
    begin = over;
  }
  times.resize(filled);
  report("the clock alone", times, seconds);
}
