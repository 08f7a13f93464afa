// Shared memory that somebody scribbles over, word by word, while both roles run. Every access goes through a policy that
// checks its place and counts it: nothing outside the region, a bounded number of accesses for each call, whatever the
// words say; what cannot be true is reported as a fault. (Guard pages and ASan look after accesses that go round the policy.)
#include <thread>

#include "check.hpp"
#include "lies.hpp"

using namespace vmring;
using hostile::Side;
using rig::Random;

namespace {

[[maybe_unused]] const bool reported_as_failures = [] {
  hostile::violated = [](const char* file, int line, const char* what) {
    check::fail(file, line, what);
    throw check::Abandoned{};
  };
  return true;
}();

// Two peers in a region of their own, with a channel between them.
struct Round {
  explicit Round(uint32_t number)
      : memory{region.base(), region.geometry}, a(memory, 0, 2 * number + 1), b(memory, 1, 2 * number + 2),
        rings{{a.offer, b.offer}} {
    REQUIRE(a.end.attach(b.own, b.offer) && b.end.attach(a.own, a.offer));
  }
  rig::Region region;
  hostile::Memory memory;
  Side a;
  Side b;
  hostile::Rings rings;
};

// Mostly where a message passes, sometimes anywhere.
hostile::Area any_area(Random& random) {
  if (random.one_in(2)) return hostile::Area::records;
  return static_cast<hostile::Area>(random.below(hostile::kAreas.size()));
}

} // namespace

TEST(scribbles_between_calls_are_bounded_and_reported) {
  Random random{1};
  uint64_t faults = 0;
  uint64_t popped = 0;
  for (uint32_t number = 0; number < (rig::kThreadSanitizer ? 600 : 2500); ++number) {
    Round round(number);
    hostile::Liar liar(round.memory, random);
    bool over = false;
    for (int i = 0; i < 2000 && !over && check::failures == 0; ++i) {
      over = !hostile::step(random.one_in(2) ? round.a : round.b, random);
      if (random.one_in(8)) liar.lie(any_area(random), round.rings);
    }
    faults += over;
    popped += round.a.popped + round.b.popped;
    if (over) { // a fault is final, and harmless
      for (int i = 0; i < 50; ++i) hostile::step(i % 2 ? round.a : round.b, random);
    }
  }
  printf("  %llu faults, %llu records\n", static_cast<unsigned long long>(faults), static_cast<unsigned long long>(popped));
  CHECK(faults > 200);
  CHECK(popped > 5000);
}

TEST(without_scribbles_nothing_is_reported) {
  Random random{2};
  Round round(1);
  for (int i = 0; i < 200000; ++i) REQUIRE(hostile::step(random.one_in(2) ? round.a : round.b, random));
  CHECK(round.a.popped > 1000 && round.b.popped > 1000);
}

#if defined(__SANITIZE_THREAD__)
// The scribbler races on purpose, with plain payload accesses too: TSan would report just that. Runs in the other builds.
static const int not_run = printf("not run under TSan: scribbles_at_the_same_moment_are_bounded_and_reported\n");
#else
TEST(scribbles_at_the_same_moment_are_bounded_and_reported) {
  uint64_t faults = 0;
  uint64_t popped = 0;
  Random random{3};
  // Where others want the processors the liar comes first more often; then it takes more rounds until as many records were received.
  constexpr uint32_t kRounds = 1000;
  for (uint32_t number = 0; number < kRounds || (popped <= kRounds && number < 10 * kRounds); ++number) {
    Round round(number);
    hostile::Liar liar(round.memory, random);
    std::atomic<bool> over{false};
    std::atomic<int> running{2};
    std::atomic<uint32_t> reported{0};
    const auto role = [&](Side& side, uint64_t seed) {
      Random own{seed};
      try {
        for (int i = 0; i < 4000 && !over; ++i) {
          if (!hostile::step(side, own)) {
            ++reported;
            over = true;
          }
        }
      } catch (const check::Abandoned&) {
        over = true;
      }
      --running;
    };
    std::thread first(role, std::ref(round.a), random.next());
    std::thread second(role, std::ref(round.b), random.next());
    while (running > 0) {
      for (uint32_t k = random.below(20000); k > 0; --k) asm volatile("" ::: "memory");
      liar.lie(any_area(random), round.rings);
    }
    first.join();
    second.join();
    faults += reported > 0;
    popped += round.a.popped + round.b.popped;
    if (check::failures > 0) break;
  }
  printf("  %llu rounds with faults, %llu records\n", static_cast<unsigned long long>(faults),
         static_cast<unsigned long long>(popped));
  CHECK(faults > 100);
  CHECK(popped > kRounds);
}
#endif
