// core/record.hpp: the header word, and the cursor that trusts none of it.
#include "check.hpp"
#include "rig.hpp"

using namespace vmring;
using rig::A;
using rig::Random;

namespace {

constexpr uint32_t kCapacity = 4096;
constexpr uint32_t kWhole = kCapacity;

// A ring as the producer of another machine could leave it: any words at any place.
struct Forged {
  rig::Guarded memory{kCapacity};
  uint64_t& at(uint32_t position) { return reinterpret_cast<uint64_t*>(memory.base())[(position & (kCapacity - 1)) / 8]; }
  RecordCursor<A> cursor(uint32_t position = 0, uint32_t sequence = 0) {
    return {memory.base(), kCapacity, position, sequence};
  }
  // What does a cursor that stands at `position` say? A fault must have words and must not move it.
  Poll look(uint32_t position = 0, uint32_t sequence = 0, uint32_t window = kWhole) {
    RecordCursor<A> c = cursor(position, sequence);
    Record out{};
    const Poll result = c.next(out, window);
    CHECK_EQ(result == Poll::fault, c.fault() != nullptr);
    if (result != Poll::record) CHECK(c.position() == position && c.sequence() == sequence);
    return result;
  }
};

uint64_t header(uint32_t length, Kind kind = Kind::data, uint32_t sequence = 0, bool extended = false) {
  return encode({length, extended, kind, sequence});
}

} // namespace

TEST(header_word_keeps_every_field) {
  Random random{1};
  for (int i = 0; i < 100000; ++i) {
    const RecordHeader in{static_cast<uint32_t>(random.next()) & kMaxRecord, random.one_in(2),
                          static_cast<Kind>(random.below(16)), static_cast<uint32_t>(random.next())};
    const RecordHeader out = decode(encode(in));
    REQUIRE(out.length == in.length && out.extended == in.extended && out.kind == in.kind && out.sequence == in.sequence);
    const uint64_t word = random.next();
    REQUIRE(encode(decode(word)) == word);
  }
}

TEST(header_word_has_the_documented_bits) {
  CHECK_EQ(header(5), uint64_t{5 | 1u << 28});
  CHECK_EQ(header(0, Kind::fin, 0xffffffff), 0xffffffff60000000u);
  CHECK_EQ(header(kMaxRecord, Kind::frag, 0, true), uint64_t{0x4fffffff});
  CHECK(header(0) != 0); // an empty record is not "nothing published"
}

TEST(sizes_are_padded_to_eight_bytes) {
  CHECK_EQ(record_size(0), 8);
  CHECK_EQ(record_size(1), 16);
  CHECK_EQ(record_size(8), 16);
  CHECK_EQ(record_size(9), 24);
  CHECK_EQ(record_size(kMaxRecord), (1u << 27) + 8);
  for (uint32_t capacity = kMinCapacity; capacity <= kMaxCapacity && capacity != 0; capacity *= 2) {
    const uint32_t most = max_payload(capacity);
    // padding (shorter than the record), record and the zero word behind it fit an empty ring
    CHECK((record_size(most) - 8) + record_size(most) + 8 <= capacity);
    CHECK(inline_limit(capacity) <= most);
    CHECK(most <= kMaxRecord);
  }
}

TEST(reads_records_one_after_the_other) {
  Forged ring;
  ring.at(0) = header(0, Kind::fin, 7);
  ring.at(8) = header(9, Kind::frag, 8, true);
  ring.at(32) = header(kCapacity / 2 - 16, Kind::data, 9);
  RecordCursor<A> cursor = ring.cursor(0, 7);
  Record out{};
  CHECK(cursor.published());
  REQUIRE(cursor.next(out, kWhole) == Poll::record);
  CHECK(out.kind == Kind::fin && out.length == 0 && out.sequence == 7 && !out.extended);
  REQUIRE(cursor.next(out, kWhole) == Poll::record);
  CHECK(out.kind == Kind::frag && out.length == 9 && out.sequence == 8 && out.extended);
  CHECK(out.payload == ring.memory.base() + 16);
  REQUIRE(cursor.next(out, kWhole) == Poll::record);
  CHECK_EQ(out.length, kCapacity / 2 - 16);
  CHECK_EQ(cursor.position(), 32 + 8 + kCapacity / 2 - 16);
  CHECK_EQ(cursor.sequence(), 10);
  CHECK(!cursor.published());
  CHECK(cursor.next(out, kWhole) == Poll::none);
}

TEST(nothing_published_is_no_fault) {
  Forged ring;
  CHECK(ring.look() == Poll::none);
  CHECK(ring.look(kCapacity - 8) == Poll::none);
}

TEST(unknown_kinds_are_faults) {
  Forged ring;
  for (uint32_t kind = 0; kind < 16; ++kind) {
    ring.at(0) = header(8, static_cast<Kind>(kind));
    const bool known = kind == 1 || (kind >= 3 && kind <= 6);
    CHECK_EQ(ring.look() == Poll::record, known);
    if (!known) CHECK(ring.look() == Poll::fault); // none (with other bits set) and pad in the middle, too
  }
}

TEST(wrong_sequence_is_a_fault) {
  Forged ring;
  for (const uint32_t wrong : {1u, 0xffffffffu, 0x80000000u}) {
    ring.at(0) = header(8, Kind::data, 100 + wrong);
    CHECK(ring.look(0, 100) == Poll::fault);
  }
  ring.at(0) = header(8, Kind::data, 100);
  CHECK(ring.look(0, 100) == Poll::record);
}

TEST(too_long_is_a_fault) {
  Forged ring;
  ring.at(0) = header(max_payload(kCapacity));
  CHECK(ring.look() == Poll::record);
  for (const uint32_t length : {max_payload(kCapacity) + 1, kCapacity, kMaxRecord - 7, kMaxRecord}) {
    ring.at(0) = header(length);
    CHECK(ring.look() == Poll::fault);
  }
}

TEST(crossing_the_end_is_a_fault) {
  Forged ring;
  const uint32_t at = kCapacity - 64;
  ring.at(at) = header(56);
  CHECK(ring.look(at) == Poll::record); // ends exactly there
  ring.at(at) = header(57);
  CHECK(ring.look(at) == Poll::fault);
  ring.at(kCapacity - 8) = header(0);
  CHECK(ring.look(kCapacity - 8) == Poll::record);
  ring.at(kCapacity - 8) = header(1);
  CHECK(ring.look(kCapacity - 8) == Poll::fault);
}

TEST(a_record_outside_the_window_is_a_fault) {
  Forged ring;
  ring.at(0) = header(56);
  CHECK(ring.look(0, 0, 64) == Poll::record);
  CHECK(ring.look(0, 0, 63) == Poll::fault);
  CHECK(ring.look(0, 0, 0) == Poll::fault);
}

TEST(padding_leads_to_offset_zero) {
  Forged ring;
  const uint32_t at = 3 * kCapacity - 24; // positions go on, offsets start again
  ring.at(at) = header(16, Kind::pad, 5);
  ring.at(0) = header(40, Kind::data, 5);
  RecordCursor<A> cursor = ring.cursor(at, 5);
  Record out{};
  REQUIRE(cursor.next(out, 24 + 48) == Poll::record);
  CHECK(out.payload == ring.memory.base() + 8 && out.sequence == 5 && out.length == 40);
  CHECK_EQ(cursor.position(), 3 * kCapacity + 48);
  // padding of a header alone
  ring.at(kCapacity - 8) = header(0, Kind::pad, 6);
  ring.at(0) = header(40, Kind::data, 6);
  CHECK(ring.look(kCapacity - 8, 6) == Poll::record);
}

TEST(padding_that_lies_is_a_fault) {
  Forged ring;
  const uint32_t at = kCapacity - 24;
  ring.at(0) = header(40, Kind::data, 5);
  for (const uint32_t length : {0u, 8u, 15u, 17u, 24u, kMaxRecord}) { // does not reach the end, or passes it
    ring.at(at) = header(length, Kind::pad, 5);
    CHECK(ring.look(at, 5) == Poll::fault);
  }
  ring.at(at) = header(16, Kind::pad, 6); // of another record
  CHECK(ring.look(at, 5) == Poll::fault);
  ring.at(at) = header(16, Kind::pad, 5);
  CHECK(ring.look(at, 5, 23) == Poll::fault);      // into lent memory
  CHECK(ring.look(at, 5, 24) == Poll::fault);      // the record behind it, too
  CHECK(ring.look(at, 5, 24 + 47) == Poll::fault);
  CHECK(ring.look(at, 5, 24 + 48) == Poll::record);
  ring.at(0) = 0; // nothing behind it
  CHECK(ring.look(at, 5) == Poll::fault);
  ring.at(0) = header(kCapacity - 8, Kind::pad, 5); // padding behind padding would never end
  CHECK(ring.look(at, 5) == Poll::fault);
  ring.at(0) = header(8, Kind::pad, 5);
  CHECK(ring.look(at, 5) == Poll::fault);
  ring.at(0) = header(kCapacity - 8, Kind::pad, 0); // a whole ring of it
  CHECK(ring.look(0, 0) == Poll::fault);
  ring.at(0) = header(40, Kind::data, 6); // the record behind it is not the one that it announced
  CHECK(ring.look(at, 5) == Poll::fault);
}

TEST(any_word_at_any_place_is_bounded) {
  Forged ring;
  Random random{2};
  uint64_t seen[3] = {};
  for (int i = 0; i < 300000; ++i) {
    const uint32_t position = static_cast<uint32_t>(random.next()) & ~7u;
    const uint32_t sequence = random.below(4);
    const uint32_t offset = position & (kCapacity - 1);
    uint64_t word = random.next();
    // most words would fail at the first test: make some of each field right
    RecordHeader h = decode(word);
    if (random.below(8) != 0) h.sequence = sequence;
    if (random.below(4) != 0) h.length = random.below(kCapacity);
    if (random.below(4) != 0) h.kind = static_cast<Kind>(1 + random.below(6));
    if (h.kind == Kind::pad && random.one_in(2)) h.length = kCapacity - offset - 8;
    word = random.one_in(20) ? 0 : encode(h);
    ring.at(position) = word;
    ring.at(0) = random.one_in(2) ? header(random.below(kCapacity), Kind::data, sequence) : random.next();
    const uint32_t window = random.below(kCapacity + 1);
    RecordCursor<A> cursor = ring.cursor(position, sequence);
    Record out{};
    const Poll result = cursor.next(out, window);
    ++seen[static_cast<int>(result)];
    if (result == Poll::record) {
      const uint64_t from = static_cast<uint64_t>(out.payload - ring.memory.base());
      REQUIRE(from >= kHeaderSize && from + out.length <= kCapacity && out.length <= max_payload(kCapacity));
      REQUIRE(cursor.position() - position <= window && out.sequence == sequence);
      REQUIRE(out.kind == Kind::data || (out.kind > Kind::pad && out.kind <= Kind::fin));
    } else {
      REQUIRE(cursor.position() == position);
    }
  }
  CHECK(seen[0] > 1000 && seen[1] > 1000 && seen[2] > 1000); // each outcome was reached
}
