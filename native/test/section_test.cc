// core/section.hpp, end.hpp and remote.hpp: where things lie, who is there, and offers that point elsewhere.
#include <thread>

#include "check.hpp"
#include "rig.hpp"

using namespace vmring;
using rig::A;
using rig::fill;
using rig::filled;
using rig::Region;

namespace {

constexpr uint32_t kCapacity = 16384;

Identity identity_of(uint32_t incarnation) {
  Identity identity;
  for (uint8_t& byte : identity.uuid) byte = static_cast<uint8_t>(incarnation);
  identity.incarnation = incarnation;
  identity.state = EntryState::joined;
  identity.peer_id = incarnation + 1;
  identity.vector = incarnation + 2;
  identity.pid = incarnation + 3;
  return identity;
}

// Two ends of one channel over one region.
struct Two {
  Region region;
  SectionView section[2] = {region.section(0), region.section(1)};
  SectionAllocator memory[2] = {region.allocator(), region.allocator()};
  RingOffer offer[2] = {*End<A>::allocate(section[0], memory[0], kCapacity, 11, 5),
                        *End<A>::allocate(section[1], memory[1], kCapacity, 22, 6)};
  End<A> end[2] = {{section[0], offer[0], 0, 0}, {section[1], offer[1], 0, 0}};
};

} // namespace

TEST(areas_of_a_section_do_not_overlap) {
  for (const uint32_t sections : {1u, 2u, 3u, 16u}) {
    Region region(uint64_t{4} << 20, sections);
    for (uint32_t s = 0; s < sections; ++s) {
      const SectionView v = region.section(s);
      std::vector<std::pair<uint8_t*, uint64_t>> areas = {{reinterpret_cast<uint8_t*>(v.identity()), kLine},
                                                          {reinterpret_cast<uint8_t*>(v.heartbeat()), kLine},
                                                          {reinterpret_cast<uint8_t*>(v.sleep_word()), kLine},
                                                          {v.base() + kDirectoryOffset, 4 * sizeof(DirectoryEntry)}};
      for (uint32_t i = 0; i < sections; ++i) areas.push_back({reinterpret_cast<uint8_t*>(v.bells(i)), kLine});
      for (uint32_t i = 0; i < sections; ++i) areas.push_back({reinterpret_cast<uint8_t*>(v.ack(i)), kLine});
      for (uint32_t i = 0; i < sections; ++i) areas.push_back({v.control(i), kControlStride});
      areas.push_back({v.base() + v.heap_begin(), v.size() - v.heap_begin()});
      uint8_t* end = v.base();
      for (const auto& [at, length] : areas) {
        REQUIRE(at >= end && (at - region.base()) % static_cast<long>(kLine) == 0);
        end = at + length;
      }
      REQUIRE(end <= region.base() + region.geometry.size);
      if (s + 1 < sections) REQUIRE(end <= region.section(s + 1).base());
    }
  }
}

TEST(in_heap_holds_for_stretches_of_the_heap_only) {
  Region region;
  const SectionView v = region.section(1);
  const uint64_t begin = v.heap_begin();
  const uint64_t size = v.size();
  CHECK(v.in_heap(begin, size - begin));
  CHECK(v.in_heap(size - 128, 128));
  CHECK(v.in_heap(size, 0));
  CHECK(!v.in_heap(begin, size - begin + 1));
  CHECK(!v.in_heap(begin - 128, 128));
  CHECK(!v.in_heap(0, 128));
  CHECK(!v.in_heap(begin + 1, 16));
  CHECK(!v.in_heap(begin + 8, 16));
  CHECK(!v.in_heap(size, 1));
  CHECK(!v.in_heap(size - 128, 129));
  CHECK(!v.in_heap(begin, ~uint64_t{0}));
  CHECK(!v.in_heap(~uint64_t{127}, 128)); // the sum wraps to 0
  CHECK(!v.in_heap(~uint64_t{127}, ~uint64_t{0}));
}

TEST(an_identity_is_whole_or_absent) {
  IdentityBlock block{};
  Identity out;
  CHECK(!read_identity<A>(&block, out));
  write_identity<A>(&block, identity_of(41));
  REQUIRE(read_identity<A>(&block, out));
  const Identity in = identity_of(41);
  CHECK(memcmp(out.uuid, in.uuid, 16) == 0 && out.incarnation == 41 && out.peer_id == 42 && out.vector == 43);
  CHECK(out.pid == 44 && out.state == EntryState::joined);
  write_identity_state<A>(&block, EntryState::leaving);
  CHECK(read_identity<A>(&block, out) && out.state == EntryState::leaving);
  for (const uint32_t lie : {3u, 4u, 0xffffffffu}) {
    block.state = lie;
    CHECK(!read_identity<A>(&block, out));
  }
}

#if !defined(__SANITIZE_THREAD__)
// The UUID is copied as plain bytes while it may change, and thrown away when it did: TSan rightly calls that a race.
TEST(a_reader_never_mixes_two_identities) {
  IdentityBlock block{};
  rig::write_against_read([&](uint32_t life) { write_identity<A>(&block, identity_of(life)); },
                          [&](uint32_t& life) {
                            Identity out;
                            if (!read_identity<A>(&block, out)) return false;
                            life = out.incarnation;
                            const Identity in = identity_of(life);
                            CHECK(memcmp(out.uuid, in.uuid, 16) == 0 && out.peer_id == in.peer_id);
                            CHECK(out.vector == in.vector && out.pid == in.pid);
                            return true;
                          });
}
#endif

TEST(an_end_is_allocated_whole_or_not_at_all) {
  Region region;
  const SectionView own = region.section(0);
  SectionAllocator memory = region.allocator();
  const uint64_t all = memory.free_bytes();
  for (const uint32_t bad : {0u, 2048u, 4097u, 12288u, 1u << 31, 0xffffffffu}) {
    CHECK(!End<A>::allocate(own, memory, bad, 1, 0));
  }
  CHECK(!End<A>::allocate(own, memory, 1 << 20, 1, 0)); // larger than the section
  CHECK_EQ(memory.free_bytes(), all);
  // room for the ring, none for the reader block
  SectionAllocator tight(own.heap_begin(), own.heap_begin() + ring_bytes(kCapacity));
  CHECK(!End<A>::allocate(own, tight, kCapacity, 1, 0));
  CHECK_EQ(tight.free_bytes(), ring_bytes(kCapacity));
  memset(own.base() + own.heap_begin(), 0xee, memory.size()); // what an earlier owner left behind
  const auto offer = End<A>::allocate(own, memory, kCapacity, 7, 3);
  REQUIRE(offer.has_value());
  CHECK(offer->capacity == kCapacity && offer->tag == 7 && offer->bell == 3);
  const ReaderBlock blank{};
  CHECK(memcmp(own.reader_block(offer->reader_offset), &blank, sizeof blank) == 0);
  End<A> end(own, *offer, 0, 0);
  CHECK_EQ(memory.free_bytes(), all - ring_bytes(kCapacity) - sizeof(ReaderBlock));
  CHECK(end.large_out().allocate(memory, 1000) != 0);
  end.free(memory);
  CHECK_EQ(memory.free_bytes(), all);
  CHECK_EQ(memory.largest(), all);
}

TEST(offers_outside_the_section_are_refused) {
  Two two;
  const RingOffer good = two.offer[1];
  const uint64_t size = two.section[1].size();
  const auto attach = [&](auto change) {
    RingOffer offer = good;
    change(offer);
    End<A> end(two.section[0], two.offer[0], 0, 0);
    const bool result = end.attach(two.section[1], offer);
    CHECK(result == (end.tx().attached() && end.rx().attached()));
    return result;
  };
  CHECK(attach([](RingOffer&) {}));
  for (const uint64_t offset : {uint64_t{0}, uint64_t{512}, two.section[1].heap_begin() - 128, size - 128, size,
                                size - ring_bytes(kCapacity) + 128, good.ring_offset + 8, good.ring_offset + 1,
                                uint64_t{1} << 40, ~uint64_t{0}, ~uint64_t{127}, uint64_t{1} << 63}) {
    CHECK(!attach([&](RingOffer& o) { o.ring_offset = offset; }));
  }
  for (const uint64_t offset : {uint64_t{0}, two.section[1].heap_begin() - 128, size, size - sizeof(ReaderBlock) + 128,
                                good.reader_offset + 8, ~uint64_t{0}, ~uint64_t{127}}) {
    CHECK(!attach([&](RingOffer& o) { o.reader_offset = offset; }));
  }
  for (const uint32_t capacity : {0u, 1u, 4096u, kCapacity * 2, kCapacity + 1, 0x80000000u, 0xffffffffu}) {
    CHECK(!attach([&](RingOffer& o) { o.capacity = capacity; }));
  }
  CHECK(!attach([](RingOffer& o) { o.tag = 0; }));
  CHECK(two.end[0].attach(two.section[1], good));
  CHECK(!two.end[0].attach(two.section[1], good)); // once
}

TEST(two_ends_talk_both_ways) {
  Two two;
  REQUIRE(two.end[0].attach(two.section[1], two.offer[1]));
  REQUIRE(two.end[1].attach(two.section[0], two.offer[0]));
  rig::Random random{1};
  for (uint32_t i = 0; i < 5000; ++i) {
    for (int side = 0; side < 2; ++side) {
      End<A>& from = two.end[side];
      End<A>& to = two.end[1 - side];
      SectionAllocator& memory = two.memory[side];
      const uint32_t length = random.below(9000);
      const bool large = length > inline_limit(kCapacity);
      if (large) {
        const uint64_t offset = from.large_out().allocate(memory, length);
        REQUIRE(offset != 0);
        fill(two.section[side].base() + offset, length, i);
        LargeDescriptor d{};
        REQUIRE(from.large_out().describe(offset, length, d));
        REQUIRE(from.tx().send(reinterpret_cast<uint8_t*>(&d), sizeof d, Kind::large, false) == Send::ok);
        from.large_out().sent(offset);
      } else {
        uint8_t* payload = nullptr;
        REQUIRE(from.tx().reserve(length, payload) == Send::ok);
        fill(payload, length, i);
        REQUIRE(from.tx().commit(length, Kind::data, false) == Send::ok);
      }
      Record record{};
      REQUIRE(to.rx().poll(record) == Poll::record);
      if (large) {
        LargeDescriptor d{};
        REQUIRE(record.kind == Kind::large && to.large_in().accept(record, d));
        REQUIRE(filled(to.remote().base() + d.offset, d.length, i));
      } else {
        REQUIRE(filled(record.payload, record.length, i));
      }
      REQUIRE(to.release(record.sequence));
      REQUIRE(!to.release(record.sequence));
      to.rx().publish_released();
    }
  }
}

TEST(remotes_hear_of_each_other) {
  Region region;
  Remote<A> a(region.section(0), region.section(1), 0, 1, 100);
  Remote<A> b(region.section(1), region.section(0), 1, 0, 200);
  uint8_t bytes[kMaxControl] = {1, 2, 3};
  CHECK(!a.present() && !a.news() && !a.send_control(bytes, 3));
  CHECK_EQ(a.poll_control(bytes), 0);
  a.arrive(identity_of(200));
  b.arrive(identity_of(100));
  CHECK(b.news());
  CHECK_EQ(b.take_news(), 1);
  CHECK(!b.news());
  Sleeper<A> sleeper(region.section(1).sleep_word(), 200);
  REQUIRE(a.send_control(bytes, 3));
  CHECK(!a.ring_control()); // awake: no doorbell
  CHECK(b.news());
  CHECK_EQ(b.take_news(), 1);
  uint8_t got[kMaxControl] = {};
  CHECK_EQ(b.poll_control(got), 3);
  CHECK(memcmp(got, "\1\2\3", 3) == 0);
  sleeper.announce();
  CHECK(!b.news());
  CHECK(a.ring_end(40)); // asleep: doorbell
  CHECK_EQ(b.take_news(), 1u | 1u << bell_group(40));
  sleeper.awake();
  // a new life of b: nothing of the old one reaches it, and a learns to speak to it
  REQUIRE(a.send_control(bytes, 3));
  b.leave();
  CHECK(!b.present() && !b.news() && b.poll_control(got) == 0);
  Remote<A> b2(region.section(1), region.section(0), 1, 0, 201);
  b2.arrive(identity_of(100));
  CHECK_EQ(b2.poll_control(got), 0);
  a.arrive(identity_of(201));
  REQUIRE(a.send_control(bytes, 2));
  CHECK_EQ(b2.poll_control(got), 2);
  Sleeper<A>(region.section(1).sleep_word(), 200).announce(); // asleep in the old life
  CHECK(!a.ring_control());
  *region.section(1).heartbeat() = 77;
  CHECK_EQ(a.heartbeat(), 77);
}
