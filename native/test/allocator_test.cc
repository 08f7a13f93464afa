// core/allocator.hpp against a model that knows every line.
#include "check.hpp"
#include "rig.hpp"

using namespace vmring;
using rig::Random;

TEST(hands_out_lines_first_fit) {
  SectionAllocator memory(1024, 1024 + 10 * kLine);
  CHECK_EQ(memory.size(), 10 * kLine);
  CHECK_EQ(memory.largest(), 10 * kLine);
  CHECK_EQ(memory.allocate(1), 1024);
  CHECK_EQ(memory.allocate(kLine), 1024 + kLine);
  CHECK_EQ(memory.allocate(kLine + 1), 1024 + 2 * kLine);
  CHECK_EQ(memory.free_bytes(), 6 * kLine);
  CHECK(memory.release(1024 + kLine));
  CHECK_EQ(memory.allocate(2 * kLine), 1024 + 4 * kLine);
  CHECK_EQ(memory.allocate(kLine), 1024 + kLine);
}

TEST(refuses_what_cannot_be) {
  SectionAllocator memory(1024, 1024 + 4 * kLine);
  CHECK_EQ(memory.allocate(0), 0);
  CHECK_EQ(memory.allocate(4 * kLine + 1), 0);
  CHECK_EQ(memory.allocate(~uint64_t{0}), 0); // rounding up would wrap
  CHECK_EQ(memory.allocate(~uint64_t{0} - 126), 0);
  CHECK(!memory.release(1024));
  const uint64_t offset = memory.allocate(4 * kLine);
  CHECK_EQ(offset, 1024);
  CHECK_EQ(memory.allocate(1), 0);
  CHECK(!memory.release(offset + kLine)); // inside, not at the beginning
  CHECK(memory.release(offset));
  CHECK(!memory.release(offset)); // once
  SectionAllocator none(1024, 1024);
  CHECK_EQ(none.allocate(1), 0);
  CHECK_EQ(none.largest(), 0);
}

TEST(neighbours_are_joined_in_every_order) {
  const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
  for (const auto& order : orders) {
    SectionAllocator memory(1024, 1024 + 3 * kLine);
    uint64_t offsets[3];
    for (uint64_t& offset : offsets) offset = memory.allocate(kLine);
    for (const int i : order) CHECK(memory.release(offsets[i]));
    CHECK_EQ(memory.largest(), 3 * kLine);
    CHECK_EQ(memory.allocate(3 * kLine), 1024);
  }
}

TEST(random_use_agrees_with_a_model) {
  constexpr uint64_t kBegin = 4096;
  constexpr uint32_t kLines = 200;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Random random{seed};
    SectionAllocator memory(kBegin, kBegin + kLines * kLine);
    std::vector<bool> taken(kLines);
    std::map<uint64_t, uint32_t> held; // offset → lines
    for (int step = 0; step < 5000; ++step) {
      if (random.below(5) < 3) {
        const uint64_t length = 1 + random.below(random.one_in(4) ? 40 * kLine : 4 * kLine);
        const uint32_t lines = static_cast<uint32_t>((length + kLine - 1) / kLine);
        uint64_t expected = 0; // the first stretch that is long enough
        for (uint32_t at = 0, run = 0; at < kLines && expected == 0; ++at) {
          run = taken[at] ? 0 : run + 1;
          if (run == lines) expected = kBegin + (at + 1 - lines) * kLine;
        }
        const uint64_t offset = memory.allocate(length);
        REQUIRE(offset == expected);
        if (offset == 0) continue;
        held[offset] = lines;
        for (uint32_t i = 0; i < lines; ++i) taken[(offset - kBegin) / kLine + i] = true;
      } else if (!held.empty()) {
        auto it = held.lower_bound(kBegin + random.below(kLines) * kLine);
        if (it == held.end()) it = held.begin();
        REQUIRE(memory.release(it->first));
        for (uint32_t i = 0; i < it->second; ++i) taken[(it->first - kBegin) / kLine + i] = false;
        held.erase(it);
      }
      uint64_t lines_free = 0;
      uint64_t most = 0;
      uint64_t run = 0;
      for (const bool t : taken) {
        run = t ? 0 : run + 1;
        lines_free += t ? 0 : 1;
        most = run > most ? run : most;
      }
      REQUIRE(memory.free_bytes() == lines_free * kLine);
      REQUIRE(memory.largest() == most * kLine);
    }
    while (!held.empty()) {
      REQUIRE(memory.release(held.begin()->first));
      held.erase(held.begin());
    }
    CHECK_EQ(memory.largest(), kLines * kLine);
  }
}
