// The races that the fences of the wake protocol decide, run for real: two threads do their half of a handshake at the same
// moment, a great many times, and never may both miss the other. Without a fence a store waits in its processor's store
// buffer while the load behind it is done, both see the old state, and a wake-up is lost; on x86 this happens within
// seconds, which is why these tests exist beside the explorer. (With one processor nothing runs at the same moment; then
// they show little, and the explorer decides.)
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "check.hpp"
#include "rig.hpp"

using namespace vmring;
using rig::A;
using rig::Pipe;
using rig::Random;

namespace {

constexpr auto kTime = std::chrono::milliseconds(rig::kThreadSanitizer ? 1500 : 2200);

int64_t nanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Two threads that share a processor take turns and race for nothing; a busy machine would leave them so. Pins the calling
// thread to the first or second processor that it may use, until the end of the scope.
class Pinned {
 public:
  explicit Pinned(int which) {
    sched_getaffinity(0, sizeof before_, &before_);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &before_) || which-- > 0) continue;
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      sched_setaffinity(0, sizeof one, &one);
      return;
    }
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() { sched_setaffinity(0, sizeof before_, &before_); }

 private:
  cpu_set_t before_;
};

// Waits in steps of a few processor cycles, so that the two halves meet at every distance.
void dawdle(uint32_t turns) {
  for (uint32_t i = 0; i < turns; ++i) asm volatile("" ::: "memory");
}

// Stores leave a processor in order: behind these, to lines that the other one has just read, a store waits long.
struct Ballast {
  struct alignas(kLine) Slow {
    std::atomic<uint32_t> word{0};
  };
  Slow lines[12];
  void write() {
    for (Slow& line : lines) line.word.store(1, std::memory_order_relaxed);
  }
  void read() {
    for (Slow& line : lines) line.word.load(std::memory_order_relaxed);
  }
};

// What one thread does in a round: look() first brings the lines that the other will write into its own cache, so that its
// loads take no time, while the other's stores take long. Then act().
template <class Look, class Act>
struct Half {
  Look look;
  Act act;
};

// Runs both halves at the same moment (the left one waits for as long as it was early on average), then verify() alone; until the time is up or a round fails.
template <class Left, class Right, class Check>
void race(Left left, Right right, Check verify) {
  alignas(kLine) static std::atomic<uint64_t> begin;
  alignas(kLine) static std::atomic<uint64_t> done;
  static Ballast of_left;
  static Ballast of_right;
  begin = 0;
  done = 0;
  std::atomic<bool> over{false};
  int64_t right_at = 0; // when the right half last acted; handed over with `done`
  // A core that is shared with other programs may take a thread away at any point: give way after a while.
  const auto pause = [](uint32_t& spins) {
    if (++spins > 5000) std::this_thread::yield();
  };
  std::thread other([&] {
    const Pinned pinned(1);
    Random random{7};
    for (uint64_t i = 1;; ++i) {
      uint32_t spins = 0;
      while (begin.load(std::memory_order_acquire) != i) {
        if (over.load(std::memory_order_relaxed)) return;
        pause(spins);
      }
      of_left.read();
      right.look();
      dawdle(random.below(200));
      right_at = nanoseconds();
      if (random.one_in(2)) of_right.write();
      right.act();
      done.store(i, std::memory_order_release);
    }
  });
  const Pinned pinned(0);
  Random random{8};
  const auto end = std::chrono::steady_clock::now() + kTime;
  uint64_t i = 0;
  int64_t lead = 0;
  while (check::failures == 0) {
    if (++i % 128 == 0 && std::chrono::steady_clock::now() > end) break;
    begin.store(i, std::memory_order_release);
    of_right.read();
    left.look();
    for (const int64_t begun = nanoseconds(); nanoseconds() - begun < lead;) {
    }
    dawdle(random.below(600));
    const int64_t left_at = nanoseconds();
    if (random.one_in(2)) of_left.write();
    left.act();
    uint32_t spins = 0;
    while (done.load(std::memory_order_acquire) != i) pause(spins);
    const int64_t early = right_at - left_at;
    // far apart: a thread was taken from its processor, which says nothing about the next round
    if (early > -20000 && early < 20000) lead = std::clamp(lead + early / 32, int64_t{0}, int64_t{20000});
    verify();
  }
  over = true;
  other.join();
  printf("  %llu rounds\n", static_cast<unsigned long long>(i));
}

} // namespace

TEST(commit_against_park_loses_no_bell) {
  Pipe pipe(1 << 16);
  bool rung = false;
  bool sleeps = false;
  race(
      Half{[&] { A::load_relaxed(&pipe.reader->wake_at); },
           [&] {
             pipe.tx.send(nullptr, 0, Kind::data, false);
             rung = pipe.tx.wake_needed();
           }},
      Half{[&] { pipe.rx.readable(); }, [&] { sleeps = pipe.rx.park(); }},
      [&] {
        CHECK(rung || !sleeps);
        Record record{};
        CHECK(pipe.rx.poll(record) == Poll::record);
        CHECK(pipe.rx.release(record.sequence));
        pipe.rx.publish_released();
      });
}

TEST(release_against_want_space_loses_no_bell) {
  Pipe pipe(kMinCapacity);
  const std::vector<uint8_t> bytes(kMinCapacity);
  const uint32_t length = kMinCapacity / 4 - kHeaderSize; // three such records fill the ring, no padding ever
  bool rung = false;
  bool fits = false;
  Record record{};
  const auto refill = [&] {
    CHECK(pipe.tx.send(bytes.data(), length, Kind::data, false) == Send::ok);
    CHECK(pipe.rx.poll(record) == Poll::record);
  };
  for (int i = 0; i < 3; ++i) refill();
  CHECK(!pipe.tx.want_space(length));
  race(
      Half{[&] { A::load_relaxed(&pipe.head->space_at); },
           [&] {
             pipe.rx.release(record.sequence - 2);
             pipe.rx.publish_released();
             rung = pipe.rx.space_wake_needed();
           }},
      Half{[&] { A::load_relaxed(&pipe.reader->released); }, [&] { fits = pipe.tx.want_space(length); }},
      [&] {
        CHECK(rung || fits);
        refill();
      });
}

TEST(bell_against_sleep_loses_no_doorbell) {
  alignas(kLine) uint32_t line[kBellWords] = {};
  alignas(kLine) uint64_t word = 0;
  BellWriter<A> writer(line);
  BellReader<A> reader(line);
  reader.take();
  Sleeper<A> sleeper(&word, 42);
  bool rung = false;
  bool sleeps = false;
  race(
      Half{[&] { A::load_relaxed(&word); },
           [&] {
             writer.ring(5);
             rung = writer.doorbell_needed(&word, 42);
           }},
      Half{[&] { reader.changed(); },
           [&] {
             sleeper.announce();
             sleeps = !reader.changed();
           }},
      [&] {
        CHECK(rung || !sleeps);
        sleeper.awake();
        CHECK(reader.changed());
        CHECK_EQ(reader.take(), 1u | 1u << 5);
      });
}

TEST(padding_is_never_seen_before_the_record_it_leads_to) {
  Pipe pipe(kMinCapacity);
  const std::vector<uint8_t> bytes(kMinCapacity);
  Record record{};
  Poll seen = Poll::none;
  race(
      Half{[] {}, [&] { CHECK(pipe.tx.send(bytes.data(), 1500, Kind::data, false) == Send::ok); }}, // two, then padding
      Half{[&] { A::load_relaxed(pipe.word(0)); },
           [&] {
             for (int i = 0; i < 100 && seen == Poll::none; ++i) seen = pipe.rx.poll(record);
           }},
      [&] {
        CHECK(seen != Poll::fault);
        if (seen == Poll::none) seen = pipe.rx.poll(record);
        CHECK(seen == Poll::record);
        CHECK(pipe.rx.release(record.sequence));
        pipe.rx.publish_released();
        seen = Poll::none;
      });
}
