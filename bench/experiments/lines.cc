// What it is worth that a producer asks for the line behind the tail, for writing, as soon as it has published (`will_write`): messages through
// the core's ring between two processes, each on its processor, the ways in turn. There and back, and one way, where the producer works 60 ns
// for each message and the consumer 80.
//
//   g++ -O2 -std=c++20 -I native bench/experiments/lines.cc -o /tmp/lines && /tmp/lines
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "core/consumer.hpp"
#include "core/producer.hpp"
#include "pin.hpp"

using namespace vmring;

namespace {

struct Without : StdAtomics {
  static void will_write(const void*) {}
};

constexpr uint32_t kCapacity = 65536;
constexpr int kRounds = 5;
constexpr uint32_t kEach = 64; // messages between two looks at the clock

struct Shared {
  struct Side {
    alignas(128) uint8_t ring[sizeof(RingHead) + kCapacity];
    alignas(128) ReaderBlock reader;
    alignas(128) uint64_t ready;
    alignas(128) uint64_t line;
  } side[2];
  alignas(128) uint64_t over;
  alignas(128) double result;
};

struct Way {
  const char* name;
  bool trips;
  bool line; // a cache line alone
  bool ahead;
  uint32_t size = 64;
};

uint64_t now() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                   std::chrono::steady_clock::now().time_since_epoch())
                                   .count());
}
void work(uint32_t turns) {
  for (uint32_t i = 0; i < turns; ++i) asm volatile("" ::: "memory");
}
uint32_t turns_of(uint32_t nanoseconds) {
  static const double each = [] {
    const uint64_t begin = now();
    work(10'000'000);
    return static_cast<double>(now() - begin) / 1e7;
  }();
  return static_cast<uint32_t>(nanoseconds / each);
}

template <class S>
double run(Shared* shared, const Way& way) {
  std::fill_n(reinterpret_cast<uint8_t*>(shared), sizeof *shared, uint8_t{0});
  const uint32_t produce = turns_of(60), consume = turns_of(80);
  const pid_t child = fork();
  const int me = child == 0 ? 1 : 0;
  pin(me);
  Shared::Side& mine = shared->side[me];
  Shared::Side& theirs = shared->side[1 - me];
  const auto data = [](Shared::Side& side) { return side.ring + sizeof(RingHead); };
  Producer<S> out(reinterpret_cast<RingHead*>(mine.ring), data(mine), kCapacity, 7, 0);
  Consumer<S> in(&mine.reader, 0);
  in.attach(reinterpret_cast<RingHead*>(theirs.ring), data(theirs), kCapacity, 7);
  out.attach(&theirs.reader);
  std::atomic_ref<uint64_t>(mine.ready).store(1);
  while (std::atomic_ref<uint64_t>(theirs.ready).load() == 0) {
  }
  const std::atomic_ref<uint64_t> over(shared->over);
  uint8_t bytes[4096] = {};
  uint64_t sum = 0;
  const auto send = [&] {
    while (out.send(bytes, way.size, Kind::data, false) != Send::ok) {
      if (over.load(std::memory_order_relaxed) != 0) return;
      __builtin_ia32_pause();
    }
    out.wake_needed();
  };
  const auto receive = [&] {
    Record record;
    while (in.poll(record) != Poll::record) {
      if (over.load(std::memory_order_relaxed) != 0) return;
      __builtin_ia32_pause();
    }
    sum += record.payload[0];
    in.release(record.sequence);
    if (in.unpublished() > kCapacity / 4) {
      in.publish_released();
      in.space_wake_needed();
    }
  };
  const std::atomic_ref<uint64_t> my_line(mine.line), their_line(theirs.line);
  uint64_t turn = 0;
  const auto trip = [&] {
    if (way.line) {
      ++turn;
      if (me == 0) my_line.store(turn, std::memory_order_release);
      while (their_line.load(std::memory_order_acquire) != turn) {
        if (over.load(std::memory_order_relaxed) != 0) return;
      }
      if (me == 1) my_line.store(turn, std::memory_order_release);
    } else if (me == 0) {
      send();
      receive();
    } else {
      receive();
      send();
    }
  };
  const auto body = [&] {
    if (way.trips) return trip();
    if (me == 0) {
      work(produce);
      send();
    } else {
      receive();
      work(consume);
    }
  };
  if (me == 1) {
    while (over.load(std::memory_order_relaxed) == 0) body();
    _exit(sum == 77);
  }
  std::vector<double> times;
  for (int i = 0; i < 1500; ++i) {
    const uint64_t begin = now();
    for (uint32_t k = 0; k < kEach; ++k) body();
    times.push_back(static_cast<double>(now() - begin) / kEach);
  }
  over.store(1);
  waitpid(child, nullptr, 0);
  std::sort(times.begin() + 150, times.end());
  return times[150 + (times.size() - 150) * 3 / 10];
}

} // namespace

int main() {
  auto* shared = static_cast<Shared*>(
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
  const std::vector<Way> ways = {
      {"a line alone", true, true, false},
      {"there and back, without", true, false, false},
      {"there and back", true, false, true},
      {"one way, without", false, false, false},
      {"one way", false, false, true},
      {"one way, 1 KiB, without", false, false, false, 1024},
      {"one way, 1 KiB", false, false, true, 1024},
  };
  std::vector<std::vector<double>> results(ways.size());
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < ways.size(); ++i)
      results[i].push_back(ways[i].ahead ? run<StdAtomics>(shared, ways[i]) : run<Without>(shared, ways[i]));
  }
  for (size_t i = 0; i < ways.size(); ++i) {
    std::sort(results[i].begin(), results[i].end());
    std::printf("%-28s %.0f ns (of %d rounds: %.0f to %.0f)\n", ways[i].name, results[i][kRounds / 2], kRounds,
                results[i].front(), results[i].back());
  }
}
