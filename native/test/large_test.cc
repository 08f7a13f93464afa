// core/large.hpp: memory that is lent by a descriptor and given back by a word.
#include "check.hpp"
#include "rig.hpp"

using namespace vmring;
using rig::A;
using rig::Random;

namespace {

constexpr uint64_t kBegin = 1024;
constexpr uint64_t kBytes = 64 * 1024;
constexpr uint32_t kTag = 77;

struct Lender {
  ReaderBlock block{};
  SectionAllocator memory{kBegin, kBegin + kBytes};
  LargeOutbox<A> out;
  LargeInbox<A> in;
  uint32_t sequence = 0;

  Lender() {
    out.attach(&block, kTag);
    in.attach(&block, kTag, kBegin, kBegin + kBytes);
  }
  // The descriptor as it lies in a record.
  bool accept(const LargeDescriptor& d, LargeDescriptor& read, uint32_t length = sizeof(LargeDescriptor)) {
    return in.accept({Kind::large, false, length, sequence, reinterpret_cast<const uint8_t*>(&d)}, read);
  }
  bool accepts(uint64_t offset, uint64_t length, uint32_t slot = 0) {
    LargeDescriptor read{};
    return accept({offset, length, slot, 1}, read);
  }
};

} // namespace

TEST(memory_goes_out_and_comes_back) {
  Lender lender;
  for (uint32_t i = 0; i < 300; ++i) {
    const uint64_t offset = lender.out.allocate(lender.memory, 5000);
    REQUIRE(offset != 0);
    LargeDescriptor sent{};
    LargeDescriptor read{};
    REQUIRE(lender.out.describe(offset, 4999, sent));
    REQUIRE(sent.length == 4999 && sent.offset == offset);
    lender.out.sent(offset);
    REQUIRE(!lender.out.describe(offset, 4999, sent)); // sent once
    lender.sequence = i;
    REQUIRE(lender.accept(sent, read));
    REQUIRE(read.offset == offset && read.length == 4999);
    lender.out.reclaim(lender.memory);
    REQUIRE(lender.memory.free_bytes() < kBytes);
    REQUIRE(lender.in.release(i));
    REQUIRE(!lender.in.release(i));
    lender.out.reclaim(lender.memory);
    REQUIRE(lender.memory.free_bytes() == kBytes);
  }
  CHECK(lender.in.empty());
}

TEST(each_comes_back_by_itself_in_any_order) {
  Lender lender;
  Random random{1};
  struct Out {
    uint32_t sequence;
    uint64_t offset;
  };
  std::vector<Out> lent;
  uint32_t refused = 0;
  for (int i = 0; i < 20000; ++i) {
    if (random.one_in(2)) {
      const uint64_t length = 1 + random.below(6000);
      const uint64_t offset = lender.out.allocate(lender.memory, length);
      if (offset == 0) {
        ++refused;
        continue;
      }
      if (random.one_in(5)) {
        REQUIRE(lender.out.cancel(lender.memory, offset));
        REQUIRE(!lender.out.cancel(lender.memory, offset));
        continue;
      }
      LargeDescriptor sent{};
      LargeDescriptor read{};
      REQUIRE(lender.out.describe(offset, length, sent));
      lender.out.sent(offset);
      ++lender.sequence;
      REQUIRE(lender.accept(sent, read));
      for (const Out& o : lent) REQUIRE(o.offset != offset); // not while somebody reads it
      lent.push_back({lender.sequence, offset});
    } else if (!lent.empty()) {
      const uint32_t k = random.below(static_cast<uint32_t>(lent.size()));
      REQUIRE(lender.in.release(lent[k].sequence));
      lent.erase(lent.begin() + k);
    }
  }
  CHECK(refused > 10);
  for (const Out& o : lent) CHECK(lender.in.release(o.sequence));
  lender.out.reclaim(lender.memory);
  CHECK_EQ(lender.memory.free_bytes(), kBytes);
}

TEST(slots_run_out_before_memory_does) {
  Lender lender;
  for (uint32_t i = 0; i < kLargeSlots; ++i) CHECK(lender.out.allocate(lender.memory, 1) != 0);
  CHECK_EQ(lender.out.allocate(lender.memory, 1), 0);
  CHECK(lender.memory.free_bytes() > 0);
  lender.out.release_all(lender.memory);
  CHECK_EQ(lender.memory.free_bytes(), kBytes);
  CHECK(lender.out.allocate(lender.memory, 1) != 0);
}

TEST(a_release_word_counts_for_one_generation_only) {
  Lender lender;
  const auto send = [&] {
    const uint64_t offset = lender.out.allocate(lender.memory, kBytes);
    LargeDescriptor d{};
    CHECK(lender.out.describe(offset, kBytes, d));
    lender.out.sent(offset);
    return d;
  };
  const LargeDescriptor first = send();
  const auto freed = [&](uint64_t word) {
    lender.block.large[first.slot] = word;
    lender.out.reclaim(lender.memory);
    return lender.memory.free_bytes() != 0;
  };
  CHECK(!freed(tagged(kTag, first.generation + 1)));
  CHECK(!freed(tagged(kTag, first.generation - 1)));
  CHECK(!freed(tagged(kTag + 1, first.generation)));
  CHECK(!freed(~uint64_t{0}));
  CHECK(freed(tagged(kTag, first.generation)));
  const LargeDescriptor second = send();
  CHECK(second.slot == first.slot && second.generation == first.generation + 1);
  CHECK(!freed(tagged(kTag, first.generation))); // the old word stands there still
}

TEST(what_is_being_filled_is_not_taken_back) {
  Lender lender;
  const uint64_t offset = lender.out.allocate(lender.memory, 1000);
  for (uint64_t& word : lender.block.large) word = tagged(kTag, 1);
  lender.out.reclaim(lender.memory);
  LargeDescriptor d{};
  CHECK(lender.out.describe(offset, 1000, d));
  CHECK(!lender.out.describe(offset + 128, 1000, d));
}

TEST(descriptors_outside_the_heap_are_refused) {
  Lender lender;
  CHECK(lender.accepts(kBegin, kBytes));
  CHECK(lender.accepts(kBegin + kBytes, 0));
  CHECK(!lender.accepts(kBegin - 1, 1));
  CHECK(!lender.accepts(0, 1)); // the identity of the section
  CHECK(!lender.accepts(kBegin, kBytes + 1));
  CHECK(!lender.accepts(kBegin + 1, kBytes));
  CHECK(!lender.accepts(kBegin + kBytes, 1));
  CHECK(!lender.accepts(~uint64_t{0}, 1)); // sums wrap
  CHECK(!lender.accepts(~uint64_t{0} - 10, 100));
  CHECK(!lender.accepts(kBegin, ~uint64_t{0}));
  CHECK(!lender.accepts(kBegin + 128, ~uint64_t{0} - 127));
  CHECK(!lender.accepts(kBegin, 1, kLargeSlots));
  CHECK(!lender.accepts(kBegin, 1, 0xffffffff));
  LargeDescriptor read{};
  for (const uint32_t length : {0u, 23u, 25u, 4096u}) CHECK(!lender.accept({kBegin, 1, 0, 1}, read, length));
}

TEST(any_descriptor_leads_into_the_heap_or_nowhere) {
  Lender lender;
  Random random{2};
  uint32_t good = 0;
  for (int i = 0; i < 200000; ++i) {
    const auto near = [&] { return random.one_in(4) ? random.next() : kBegin - 8 + random.below(kBytes + 16); };
    LargeDescriptor read{};
    ++lender.sequence;
    if (!lender.accept({near(), near(), random.below(kLargeSlots + 2), random.below(3)}, read)) continue;
    ++good;
    REQUIRE(read.offset >= kBegin && read.length <= kBytes && read.offset + read.length <= kBegin + kBytes);
    REQUIRE(read.slot < kLargeSlots);
    REQUIRE(lender.in.release(lender.sequence));
  }
  CHECK(good > 1000);
}
