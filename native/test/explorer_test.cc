// The real core headers under the interleaving explorer (explorer/engine.hpp says what it does and does not model).
//
// First every scenario as it is: no schedule within its bounds fails. Then every full fence, release fence and release
// store of core weakened, one Site at a time: a schedule that fails must be found, else the scenario shows nothing (or the
// Site is not needed). EXPLORER_SCHEDULES=1 prints those schedules too.
#undef _FORTIFY_SOURCE
#include "check.hpp"

#include <chrono>
#include <cstdlib>

#include "explorer/ring_scenarios.hpp"
#include "explorer/table_scenarios.hpp"

namespace {

using namespace explorer;

enum class Mode { tso, pso, late };
constexpr const char* kModes[] = {"TSO", "PSO", "PSO with late reads"};

Result run(Factory factory, Mode mode, int weakened) {
  // A sanitizer sees the first part of the search only: it looks for memory errors, the plain build for schedules.
  const uint64_t bound = explorer::kSanitized ? 20000 / explorer::kSlower : 3000000;
  const auto begin = std::chrono::steady_clock::now();
  Result r = engine().explore(factory, {mode == Mode::tso ? Model::tso : Model::pso, weakened, mode == Mode::late, bound});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  printf("  %s: %llu executions, %llu states, %llu steps, %.2f s%s%s%s\n", kModes[static_cast<int>(mode)],
         static_cast<unsigned long long>(r.executions), static_cast<unsigned long long>(r.states),
         static_cast<unsigned long long>(r.transitions), took.count(), r.failed ? "; fails after " : "",
         r.failed ? (std::to_string(r.schedule.size()) + " lines: ").c_str() : "", r.reason.c_str());
  const bool wanted = weakened >= 0;
  if (r.failed && (!wanted || getenv("EXPLORER_SCHEDULES"))) {
    for (const std::string& line : r.schedule) printf("    %s\n", line.c_str());
  }
  return r;
}

template <class S>
void holds(Mode mode) {
  const Result r = run(make<S>, mode, -1);
  CHECK(!r.failed);
  CHECK(r.complete || explorer::kSanitized);
}
template <class S>
void needs(Site site, Mode mode) {
  const Result r = run(make<S>, mode, static_cast<int>(site));
  CHECK(r.failed || (explorer::kSanitized && !r.complete));
}

using Wake = DataWake<2, 1>;
using WakeThree = DataWake<3, 1>;
using WakeBursts = DataWake<3, 2, 0xffffffe0>; // positions wrap at 2^32 on the way
using Space = SpaceWait<1, false>;
using SpacePayload = SpaceWait<2, true, 0, false>; // without a look at the counts, which show the same Site missing
using SpaceTwice = SpaceWait<2, false>;
using SpaceOutOfOrder = SpaceWait<2, true, 0xffffffe0>;
using HandshakeOnce = PingPong<1>;
using HandshakeTwice = PingPong<2>;
using WrapAtZero = Wrap<0>;
using WrapAtEnd = Wrap<0xffffffc0>;
using SmallRingAtEnd = SmallRing<0xffffffc0>;
using EntryTwice = TableEntry<2, 1>;
using EntryOnce = TableEntry<1, 2>;

} // namespace

#define HOLDS(Name) \
  TEST(holds_tso_##Name) { holds<Name>(Mode::tso); } \
  TEST(holds_pso_##Name) { holds<Name>(Mode::pso); }
// Where payload is read that somebody else may use again: reads may also be delayed.
#define HOLDS_LATE(Name) \
  HOLDS(Name) \
  TEST(holds_late_##Name) { holds<Name>(Mode::late); }

HOLDS(Wake)
HOLDS(WakeThree)
HOLDS(WakeBursts)
HOLDS(TwoEnds)
HOLDS_LATE(Space)
HOLDS_LATE(SpaceTwice)
HOLDS_LATE(SpaceOutOfOrder)
HOLDS(HandshakeOnce)
HOLDS(HandshakeTwice)
HOLDS(Crossing)
HOLDS(WrapAtZero)
HOLDS(WrapAtEnd)
HOLDS_LATE(SmallRingAtEnd)
HOLDS_LATE(ControlInOrder)
HOLDS_LATE(ControlFull)
HOLDS(ControlNewReader)
HOLDS(ControlNewWriter)
HOLDS_LATE(Large)
HOLDS(EntryTwice)
HOLDS(EntryOnce)
HOLDS(Restart)
HOLDS(Format)
// Too many states for PSO: two write every line of a header.
TEST(holds_tso_FormatAgreed) { holds<FormatTogether<true>>(Mode::tso); }
TEST(holds_tso_FormatBlank) { holds<FormatTogether<false>>(Mode::tso); }
HOLDS(Claim)

#define NEEDS(site, mode, Name) \
  TEST(without_##site##_##mode##_##Name##_fails) { needs<Name>(Site::site, Mode::mode); }
// Store-load order: wrong without the fence on x86 too.
#define NEEDS_FENCE(site, Name) \
  NEEDS(site, tso, Name) \
  NEEDS(site, pso, Name)

NEEDS_FENCE(fence_park, Wake)
NEEDS_FENCE(fence_published, Wake)
NEEDS_FENCE(fence_want_space, Space)
NEEDS_FENCE(fence_released, Space)
NEEDS_FENCE(fence_sleep, Wake)
NEEDS_FENCE(fence_bell, Wake)
// Store-store order.
NEEDS(publish_record, pso, WrapAtZero)
NEEDS(publish_record, pso, Wake)
NEEDS(publish_released, pso, Space)
NEEDS(ring_bell, pso, Wake)
NEEDS(ring_bell, pso, TwoEnds)
NEEDS(publish_control, pso, ControlInOrder)
NEEDS(control_begin, pso, ControlNewWriter)
NEEDS(table_begin, pso, EntryOnce)
NEEDS(table_begin, pso, Restart)
NEEDS(table_end, pso, EntryOnce)
NEEDS(publish_identity, pso, Restart)
NEEDS(publish_magic, pso, Format)
NEEDS(claim_entry, pso, Claim)
// Load-store order: reads of payload that end before its memory is given back.
NEEDS(publish_released, late, SpacePayload)
NEEDS(publish_ack, late, ControlFull)
NEEDS(release_large, late, Large)
