// What publishes a record: its header word, or a separate tail index? Round trips of 64-byte messages between two processes,
// each spinning on its core, beside the floor (one cache line there and back) in the same run.
//
//   g++ -O2 -std=c++20 -I native bench/experiments/publication.cc -o /tmp/publication && /tmp/publication
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "core/consumer.hpp"
#include "core/producer.hpp"
#include "pin.hpp"

using namespace vmring;
using S = StdAtomics;

namespace {

constexpr uint32_t kCapacity = 65536;
constexpr int kRounds = 7;
constexpr uint64_t kTrips = 100000;
enum class Way { cache_line, header_word, tail_index };

struct Shared {
  struct Side {
    alignas(128) uint8_t ring[sizeof(RingHead) + kCapacity];
    alignas(128) ReaderBlock reader;
    alignas(128) uint64_t line;
    alignas(128) uint64_t ready;
  } side[2];
};

double round_trip(Shared* shared, Way way) {
  std::fill_n(reinterpret_cast<uint8_t*>(shared), sizeof *shared, uint8_t{0});
  const int me = fork() == 0 ? 1 : 0;
  pin(me);
  Shared::Side& mine = shared->side[me];
  Shared::Side& theirs = shared->side[1 - me];
  Producer<S> out(reinterpret_cast<RingHead*>(mine.ring), mine.ring + sizeof(RingHead), kCapacity, 7, 0);
  Consumer<S> in(&mine.reader, 0);
  in.attach(reinterpret_cast<RingHead*>(theirs.ring), theirs.ring + sizeof(RingHead), kCapacity, 7);
  out.attach(&theirs.reader);
  std::atomic_ref<uint64_t>(mine.ready).store(1);
  while (std::atomic_ref<uint64_t>(theirs.ready).load() == 0) {
  }
  uint8_t bytes[64] = {};
  std::atomic_ref<uint64_t> my_line(mine.line), their_line(theirs.line);
  const auto send = [&](uint64_t i) {
    if (way != Way::cache_line) {
      while (out.send(bytes, sizeof bytes, Kind::data, false) != Send::ok) {
      }
      out.wake_needed();
    }
    if (way != Way::header_word) my_line.store(i, std::memory_order_release);
  };
  const auto receive = [&](uint64_t i) {
    if (way != Way::header_word) {
      while (their_line.load(std::memory_order_acquire) < i) {
      }
    }
    if (way == Way::cache_line) return;
    Record record;
    while (in.poll(record) != Poll::record) {
    }
    S::read_bytes(bytes, record.payload, record.length);
    in.release(record.sequence);
    if (in.unpublished() > kCapacity / 8) {
      in.publish_released();
      in.space_wake_needed();
    }
  };
  const auto start = std::chrono::steady_clock::now();
  for (uint64_t i = 1; i <= kTrips; ++i) {
    if (me == 0) send(i);
    receive(i);
    if (me == 1) send(i);
  }
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
  if (me == 1) _exit(0);
  wait(nullptr);
  return took.count() / kTrips;
}

} // namespace

int main() {
  auto* shared = static_cast<Shared*>(
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  if (shared == MAP_FAILED) return 1;
  double took[3][kRounds];
  for (int round = 0; round < kRounds; ++round) {
    for (int way = 0; way < 3; ++way) took[way][round] = round_trip(shared, static_cast<Way>(way));
  }
  const char* names[] = {"one cache line (floor)", "header word publishes", "tail index publishes"};
  for (int way = 0; way < 3; ++way) {
    std::sort(took[way], took[way] + kRounds);
    std::printf("%-24s median %4.0f ns  (%.0f to %.0f), %.2f times the floor\n", names[way], took[way][kRounds / 2],
                took[way][0], took[way][kRounds - 1], took[way][kRounds / 2] / took[0][kRounds / 2]);
  }
}
