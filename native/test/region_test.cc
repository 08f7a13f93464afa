// core/region.hpp: what a header must say to be believed, and entries of the peer table under writers that stop or lie.
#include <algorithm>
#include <thread>

#include "check.hpp"
#include "rig.hpp"

using namespace vmring;
using rig::A;
using rig::Random;
using rig::Region;

namespace {

constexpr uint64_t kSize = kMinRegion;
constexpr uint8_t kUuid[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

Header read(const Region& region, uint64_t mapped = kSize) {
  Geometry out;
  return read_geometry<A>(region.base(), mapped, out);
}
template <class T>
Header with(size_t offset, T value) {
  Region region;
  memcpy(region.base() + offset, &value, sizeof value);
  return read(region);
}

} // namespace

TEST(geometry_covers_the_region_without_overlap) {
  for (uint64_t size = kMinRegion; size <= uint64_t{1} << 40; size *= 2) {
    for (uint32_t sections = 1; sections <= kMaxSections; ++sections) {
      const Geometry g = plan_geometry(size, sections);
      if (g.section_size == 0) continue;
      REQUIRE(g.section_offset % kPage == 0 && g.section_size % kPage == 0);
      REQUIRE(g.entry_at(sections) <= g.section_offset);
      REQUIRE(g.section_at(sections) <= size);
      REQUIRE(g.section_size >= g.heap_begin() + kMinHeap);
      REQUIRE(control_offset(sections) == acks_offset(sections) + sections * kLine);
      REQUIRE(g.heap_begin() == control_offset(sections) + sections * kControlStride);
    }
  }
  CHECK(plan_geometry(kMinRegion, 2).section_size != 0);
  CHECK(plan_geometry(uint64_t{64} << 20, 64).section_size != 0);
  CHECK_EQ(plan_geometry(kMinRegion, 0).section_size, 0);
  CHECK_EQ(plan_geometry(uint64_t{1} << 40, kMaxSections + 1).section_size, 0);
  CHECK_EQ(plan_geometry(uint64_t{1} << 40, 0xffffffff).section_size, 0);
  CHECK_EQ(plan_geometry(kMinRegion, 64).section_size, 0);
}

TEST(what_is_formatted_is_read) {
  for (const bool plain : {false, true}) {
    rig::Guarded memory(kSize);
    memset(memory.base(), 0xee, kSize); // formatting needs no zeroed memory
    REQUIRE(format_region<A>(memory.base(), kSize, 3, kUuid, plain, 99) == Header::ok);
    Geometry g;
    REQUIRE(read_geometry<A>(memory.base(), kSize, g) == Header::ok);
    CHECK(g.size == kSize && g.sections == 3 && g.plain == plain && g.daemon_incarnation == 99);
    CHECK(memcmp(g.uuid, kUuid, 16) == 0);
    CHECK(memcmp(memory.base(), "VMRING1\n", 8) == 0);
    for (uint32_t i = 0; i < 3; ++i) {
      Entry entry;
      Identity identity;
      CHECK(read_entry<A>(reinterpret_cast<EntryBlock*>(memory.base() + g.entry_at(i)), entry));
      CHECK(entry.state == EntryState::free);
      CHECK(!read_identity<A>(SectionView(memory.base(), g, i).identity(), identity)); // nobody seems to be there
      const auto* directory = reinterpret_cast<DirectoryEntry*>(memory.base() + g.section_at(i) + kDirectoryOffset);
      uint64_t end = kBellsOffset;
      for (uint32_t k = 0; k < 4; ++k) {
        CHECK_EQ(directory[k].type, k + 1);
        CHECK_EQ(directory[k].offset, end);
        end = directory[k].offset + directory[k].length;
      }
      CHECK_EQ(end, g.section_size);
    }
  }
}

TEST(regions_that_cannot_be_are_not_formatted) {
  rig::Guarded memory(2 * kSize);
  const auto format = [&](uint64_t size, uint32_t sections) {
    return format_region<A>(memory.base(), size, sections, kUuid, false, 1);
  };
  CHECK(format(kSize / 2, 1) == Header::size);
  CHECK(format(kSize + kPage, 2) == Header::size);
  CHECK(format(0, 2) == Header::size);
  CHECK(format(kSize, 0) == Header::size);
  CHECK(format(kSize, 64) == Header::size);
  CHECK(format(kSize, kMaxSections + 1) == Header::size);
  for (uint64_t i = 0; i < kHeaderLength; ++i) REQUIRE(memory.base()[i] == 0); // nothing was written
}

TEST(every_error_has_its_own_name) {
  const uint64_t odd = 0x1234;
  CHECK(with(offsetof(HeaderBlock, magic), uint64_t{0}) == Header::blank);
  CHECK(with(offsetof(HeaderBlock, magic), odd) == Header::magic);
  CHECK(with(offsetof(HeaderBlock, magic), kMagic + 1) == Header::magic);
  CHECK(with(offsetof(HeaderBlock, endian), uint32_t{0x04030201}) == Header::magic);
  CHECK(with(offsetof(HeaderBlock, major), uint16_t{2}) == Header::version);
  CHECK(with(offsetof(HeaderBlock, major), uint16_t{0}) == Header::version);
  CHECK(with(offsetof(HeaderBlock, incompatible), uint32_t{1}) == Header::feature);
  CHECK(with(offsetof(HeaderBlock, size), kSize * 2) == Header::truncated);
  CHECK(with(offsetof(HeaderBlock, size), uint64_t{0}) == Header::size);
  for (const uint32_t other : {0u, 128u, 8192u, 0xffffffffu}) {
    CHECK(with(offsetof(HeaderBlock, header_length), other) == Header::geometry);
    CHECK(with(offsetof(HeaderBlock, table_stride), other + 1) == Header::geometry);
    CHECK(with(offsetof(HeaderBlock, line), other + 1) == Header::geometry);
  }
  for (const uint64_t other : {uint64_t{0}, uint64_t{128}, kSize, ~uint64_t{0}, ~uint64_t{4095}}) {
    CHECK(with(offsetof(HeaderBlock, table_offset), other) == Header::geometry);
    CHECK(with(offsetof(HeaderBlock, section_offset), other) == Header::geometry);
    CHECK(with(offsetof(HeaderBlock, section_size), other) == Header::geometry);
  }
  for (const uint32_t count : {0u, 1u, 3u, 64u, 257u, 0xffffffffu}) {
    CHECK(with(offsetof(HeaderBlock, table_count), count) == Header::geometry);
  }
  // what a newer writer may say
  CHECK(with(offsetof(HeaderBlock, minor), uint16_t{9}) == Header::ok);
  CHECK(with(offsetof(HeaderBlock, compatible), uint32_t{0x80000000}) == Header::ok);
}

TEST(the_size_of_the_mapping_decides) {
  Region region;
  CHECK(read(region, 0) == Header::size);
  CHECK(read(region, 16) == Header::size);
  CHECK(read(region, kHeaderLength) == Header::truncated);
  CHECK(read(region, kSize / 2) == Header::truncated);
  CHECK(read(region, kSize - 1) == Header::truncated);
  CHECK(read(region, kSize) == Header::ok);
  rig::Guarded empty(kSize); // a file of zero bytes
  Geometry out;
  CHECK(read_geometry<A>(empty.base(), kSize, out) == Header::blank);
}

TEST(any_flipped_byte_is_refused_or_harmless) {
  Region region;
  Random random{1};
  for (size_t at = 0; at < offsetof(HeaderBlock, daemon_incarnation) + 8; ++at) {
    for (int k = 0; k < 40; ++k) {
      const uint8_t was = region.base()[at];
      region.base()[at] = static_cast<uint8_t>(random.next());
      Geometry g;
      if (read_geometry<A>(region.base(), kSize, g) == Header::ok) {
        REQUIRE(g.size == kSize && g.sections == region.geometry.sections);
        REQUIRE(g.section_offset == region.geometry.section_offset && g.section_size == region.geometry.section_size);
      } else {
        REQUIRE(g.size == 0); // nothing of a bad header is kept
      }
      region.base()[at] = was;
    }
  }
}

TEST(entries_are_written_and_read) {
  EntryBlock block{};
  Entry out;
  for (uint32_t i = 0; i < 100; ++i) {
    const Entry in{static_cast<EntryState>(i % 3), i, i * 2, i * 3};
    write_entry<A>(&block, in);
    REQUIRE(read_entry<A>(&block, out));
    REQUIRE(out.state == in.state && out.peer_id == i && out.vectors == 2 * i && out.generation == 3 * i);
    REQUIRE((block.lock & 1) == 0);
  }
}

TEST(an_entry_that_stays_half_written_ends_the_read) {
  EntryBlock block{};
  write_entry<A>(&block, {EntryState::joined, 5, 2, 1});
  block.lock |= 1; // its writer died there
  Entry out{EntryState::leaving, 9, 9, 9};
  CHECK(!read_entry<A>(&block, out)); // bounded: it comes back
  CHECK(out.peer_id == 9 && out.state == EntryState::leaving);
  write_entry<A>(&block, {EntryState::joined, 6, 2, 2}); // the next writer repairs it
  CHECK(read_entry<A>(&block, out) && out.peer_id == 6);
  block.state = 3; // no such state
  CHECK(!read_entry<A>(&block, out));
  block.state = 0xffffffff;
  CHECK(!read_entry<A>(&block, out));
}

TEST(a_reader_never_mixes_two_entries) {
  EntryBlock block{};
  rig::write_against_read([&](uint32_t i) { write_entry<A>(&block, {EntryState::joined, i, i, i}); },
                          [&](uint32_t& life) {
                            Entry out;
                            if (!read_entry<A>(&block, out)) return false;
                            life = out.peer_id;
                            CHECK(out.peer_id == out.vectors && out.peer_id == out.generation);
                            return true;
                          });
}

TEST(one_of_many_claims_an_entry) {
  for (uint32_t round = 0; round < 200; ++round) {
    EntryBlock block{};
    std::atomic<uint32_t> winners{0};
    std::atomic<bool> go{false};
    const auto claim = [&](uint32_t incarnation) {
      while (!go) std::this_thread::yield();
      winners += claim_entry<A>(&block, incarnation, false) ? 1 : 0;
    };
    std::thread a(claim, 1);
    std::thread b(claim, 2);
    std::thread c(claim, 3);
    go = true;
    a.join();
    b.join();
    c.join();
    REQUIRE(winners == 1 && block.claim >= 1 && block.claim <= 3);
    REQUIRE(!claim_entry<A>(&block, 4, false));
    REQUIRE(claim_entry<A>(&block, 5, true)); // on the operator's word
    unclaim_entry<A>(&block);
    REQUIRE(claim_entry<A>(&block, 6, false));
  }
}

namespace {

// Stands still before the access with a given number, once, until it is told to go on.
struct Halting : StdAtomics {
  static inline thread_local int left = -1;
  static inline std::atomic<int> state{0}; // 1: stands still, 2: go on
  static void count() {
    if (left < 0 || left-- != 0) return;
    state = 1;
    while (state != 2) std::this_thread::yield();
  }
  template <Site site, class T>
  static T load_acquire(const T* p) {
    count();
    return StdAtomics::load_acquire<site>(p);
  }
  template <Site site, class T>
  static void store_release(T* p, T value) {
    count();
    StdAtomics::store_release<site>(p, value);
  }
  template <Site site>
  static bool compare_swap(uint32_t* p, uint32_t expected, uint32_t desired) {
    count();
    return StdAtomics::compare_swap<site>(p, expected, desired);
  }
  static void write_words(void* shared, const void* from, size_t length) {
    count();
    StdAtomics::write_words(shared, from, length);
  }
  static void read_words(void* to, const void* shared, size_t length) {
    count();
    StdAtomics::read_words(to, shared, length);
  }
};

// Joins as attach() does: finds the region formatted, and claims the first free entry. The section, −1 for none.
int join_formatted(uint8_t* base, uint32_t incarnation, Geometry& g) {
  REQUIRE(read_geometry<A>(base, kSize, g) == Header::ok);
  for (uint32_t i = 0; i < g.sections; ++i) {
    auto* entry = reinterpret_cast<EntryBlock*>(base + g.entry_at(i));
    if (!claim_entry<A>(entry, incarnation, false)) continue;
    write_entry<A>(entry, {EntryState::joined, i, 1, 1});
    Identity identity;
    identity.incarnation = incarnation;
    write_identity<A>(SectionView(base, g, i).identity(), identity);
    return static_cast<int>(i);
  }
  return -1;
}

} // namespace

// One stops before each of its accesses; another formats and joins meanwhile; then the first goes on. Nothing changes.
TEST(a_formatter_that_stops_holds_up_nobody_and_spoils_nothing) {
  bool stopped = true;
  int at = 0;
  for (; stopped; ++at) {
    rig::Guarded memory(kSize);
    Halting::state = 0;
    Header late = Header::blank;
    std::atomic<bool> done{false};
    std::thread first([&] {
      Halting::left = at;
      const uint8_t other[16] = {9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9};
      late = format_together<Halting>(memory.base(), kSize, 2, other);
      done = true;
    });
    while (Halting::state != 1 && !done) std::this_thread::yield();
    stopped = Halting::state == 1;
    REQUIRE(done || may_format<A>(memory.base(), kSize)); // what is half-written still counts as blank
    REQUIRE(format_together<A>(memory.base(), kSize, 3, kUuid) == Header::ok);
    Geometry g;
    REQUIRE(join_formatted(memory.base(), 77, g) == 0);
    const std::vector<uint8_t> before(memory.base(), memory.base() + kSize);
    Halting::state = 2;
    first.join();
    REQUIRE(late == Header::ok);
    REQUIRE(memcmp(before.data(), memory.base(), kSize) == 0);
  }
  CHECK(at > 12);
}

TEST(many_format_and_join_at_once) {
  for (uint32_t round = 0; round < (rig::kThreadSanitizer ? 30 : 300); ++round) {
    rig::Guarded memory(kSize);
    constexpr uint32_t kMany = 6;
    std::atomic<uint32_t> ready{0};
    int sections[kMany];
    Geometry seen[kMany];
    std::vector<std::thread> threads;
    for (uint32_t i = 0; i < kMany; ++i) {
      threads.emplace_back([&, i] {
        uint8_t uuid[16];
        memset(uuid, static_cast<int>(i + 1), sizeof uuid);
        ++ready;
        while (ready != kMany) std::this_thread::yield();
        REQUIRE(format_together<A>(memory.base(), kSize, 4, uuid) == Header::ok);
        sections[i] = join_formatted(memory.base(), 100 + i, seen[i]);
      });
    }
    for (std::thread& thread : threads) thread.join();
    uint32_t taken = 0;
    for (uint32_t i = 0; i < kMany; ++i) {
      CHECK(memcmp(seen[i].uuid, seen[0].uuid, 16) == 0 && seen[i].sections == 4);
      if (sections[i] >= 0) taken |= 1u << sections[i];
    }
    REQUIRE(taken == 0xf && std::count(sections, sections + kMany, -1) == 2);
  }
}

TEST(what_is_not_blank_is_not_formatted) {
  Geometry g = plan_geometry(kSize, 2);
  const std::pair<uint64_t, uint8_t> places[] = {{0, 1},   {12, 9},  {24, 2},   {64, 255}, {72, 3},
                                                 {130, 1}, {4096, 1}, {4116, 1}, {g.section_offset + 16, 1}};
  for (const auto& [place, value] : places) {
    rig::Guarded memory(kSize);
    memory.base()[place] = value;
    REQUIRE(format_together<A>(memory.base(), kSize, 2, kUuid) == Header::magic);
  }
  rig::Guarded memory(kSize);
  CHECK(format_together<A>(memory.base(), kSize, 64, kUuid) == Header::size);
  CHECK(format_together<A>(memory.base(), kSize, 2, kUuid) == Header::ok);
  CHECK(format_together<A>(memory.base(), kSize, 3, kUuid) == Header::ok);
  REQUIRE(read_geometry<A>(memory.base(), kSize, g) == Header::ok);
  CHECK(g.sections == 2 && memcmp(g.uuid, kUuid, 16) == 0);
}
