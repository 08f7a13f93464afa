// core/producer.hpp and core/consumer.hpp, one thread, both roles in turn.
#include <algorithm>
#include <deque>

#include "check.hpp"
#include "rig.hpp"

using namespace vmring;
using rig::A;
using rig::fill;
using rig::filled;
using rig::Pipe;
using rig::Random;

namespace {

constexpr uint32_t kCapacity = 4096;

// Sends one record that any reader can check.
Send put(Pipe& pipe, uint32_t length, Kind kind = Kind::data) {
  std::vector<uint8_t> bytes(length);
  fill(bytes.data(), length, pipe.tx.sequence());
  return pipe.tx.send(bytes.data(), length, kind, false);
}
bool intact(const Record& record) { return filled(record.payload, record.length, record.sequence); }

// Takes one record, checks it, gives it back and says so.
void take(Pipe& pipe, uint32_t length) {
  Record record{};
  REQUIRE(pipe.rx.poll(record) == Poll::record);
  REQUIRE(record.length == length);
  REQUIRE(intact(record));
  REQUIRE(pipe.rx.release(record.sequence));
  pipe.rx.publish_released();
}

// Moves both positions to `offset` of the ring. The payload is not touched, so this is quick for any distance.
void advance_to(Pipe& pipe, uint32_t offset) {
  Record record{};
  const uint32_t mask = pipe.tx.capacity() - 1;
  while ((pipe.tx.position() & mask) != offset) {
    const uint32_t distance = (offset - pipe.tx.position()) & mask;
    uint8_t* payload = nullptr;
    const uint32_t length = std::min(distance - 8, max_payload(pipe.tx.capacity()) & ~7u);
    REQUIRE(pipe.tx.reserve(length, payload) == Send::ok);
    REQUIRE(pipe.tx.commit(length, Kind::data, false) == Send::ok);
    REQUIRE(pipe.rx.poll(record) == Poll::record);
    REQUIRE(pipe.rx.release(record.sequence));
    pipe.rx.publish_released();
  }
  REQUIRE(pipe.tx.reload() && pipe.tx.in_use() == 0);
}

} // namespace

TEST(every_size_arrives_whole) {
  Pipe pipe(kCapacity);
  for (uint32_t length = 0; length <= max_payload(kCapacity); ++length) {
    REQUIRE(put(pipe, length) == Send::ok);
    take(pipe, length);
  }
  Record record{};
  CHECK(pipe.rx.poll(record) == Poll::none);
  CHECK(put(pipe, max_payload(kCapacity) + 1) == Send::too_large);
}

TEST(every_size_at_every_offset_near_the_end) {
  for (uint32_t back = 8; back <= 256; back += 8) {
    Pipe pipe(kCapacity);
    for (uint32_t length = 0; length <= 264; ++length) {
      advance_to(pipe, kCapacity - back);
      REQUIRE(put(pipe, length) == Send::ok);
      take(pipe, length);
      REQUIRE(put(pipe, 8) == Send::ok); // the place behind it was left "not published", then filled
      take(pipe, 8);
    }
  }
}

TEST(kinds_and_extension_travel) {
  Pipe pipe(kCapacity, 41);
  uint8_t* payload = nullptr;
  const struct {
    Kind kind;
    bool extended;
  } sent[] = {{Kind::data, false}, {Kind::frag, true}, {Kind::frag, false}, {Kind::frag_last, false}, {Kind::fin, false}};
  for (const auto& s : sent) {
    REQUIRE(pipe.tx.reserve(0, payload) == Send::ok);
    REQUIRE(pipe.tx.commit(0, s.kind, s.extended) == Send::ok);
  }
  uint32_t sequence = 41;
  for (const auto& s : sent) {
    Record record{};
    REQUIRE(pipe.rx.poll(record) == Poll::record);
    CHECK(record.kind == s.kind && record.extended == s.extended && record.sequence == sequence++);
  }
}

TEST(a_lease_is_one_and_is_used_once) {
  Pipe pipe(kCapacity);
  uint8_t* payload = nullptr;
  uint8_t* other = nullptr;
  CHECK(pipe.tx.commit(0, Kind::data, false) == Send::lease);
  CHECK(pipe.tx.abort() == Send::lease);
  REQUIRE(pipe.tx.reserve(100, payload) == Send::ok);
  CHECK(pipe.tx.leased());
  CHECK(pipe.tx.reserve(1, other) == Send::lease);
  CHECK(put(pipe, 1) == Send::lease);
  CHECK(pipe.tx.commit(101, Kind::data, false) == Send::lease); // more than reserved
  CHECK(pipe.tx.leased());                                      // … and the lease is still there
  CHECK(pipe.tx.commit(100, Kind::data, false) == Send::ok);
  CHECK(pipe.tx.commit(100, Kind::data, false) == Send::lease);
}

TEST(nothing_is_visible_before_commit_or_after_abort) {
  Pipe pipe(kCapacity);
  Record record{};
  for (int i = 0; i < 600; ++i) { // several times around
    uint8_t* payload = nullptr;
    REQUIRE(pipe.tx.reserve(500, payload) == Send::ok);
    memset(payload, 0xff, 500);
    REQUIRE(!pipe.rx.readable());
    REQUIRE(pipe.rx.poll(record) == Poll::none);
    REQUIRE(pipe.tx.abort() == Send::ok);
    REQUIRE(!pipe.tx.leased());
    REQUIRE(pipe.rx.poll(record) == Poll::none);
    const uint32_t length = static_cast<uint32_t>(i) % 64;
    REQUIRE(put(pipe, length) == Send::ok); // in the place where 0xff… was written
    take(pipe, length);
    REQUIRE(pipe.rx.poll(record) == Poll::none); // and what lies behind is not taken for a record
  }
}

TEST(a_commit_shorter_than_the_lease_leaves_nothing_behind) {
  for (uint32_t back = 8; back <= 512; back += 8) {
    for (const uint32_t reserved : {0u, 8u, 64u, 500u, 1000u}) {
      for (const uint32_t used : {0u, 1u, 8u, 56u, 499u}) {
        if (used > reserved) continue;
        Pipe pipe(kCapacity);
        advance_to(pipe, kCapacity - back);
        uint8_t* payload = nullptr;
        REQUIRE(pipe.tx.reserve(reserved, payload) == Send::ok);
        memset(payload, 0xff, reserved); // the unused part looks like a header
        fill(payload, used, pipe.tx.sequence());
        // across padding too: the payload stays where it was reserved, though the shorter record would fit before the end
        REQUIRE(pipe.tx.commit(used, Kind::data, false) == Send::ok);
        Record record{};
        REQUIRE(pipe.rx.poll(record) == Poll::record);
        CHECK(record.payload == payload && record.length == used && intact(record));
        REQUIRE(pipe.rx.poll(record) == Poll::none);
        REQUIRE(put(pipe, 24) == Send::ok);
        REQUIRE(pipe.rx.poll(record) == Poll::record);
        CHECK(record.length == 24 && intact(record));
      }
    }
  }
}

TEST(a_full_ring_takes_nothing_until_memory_comes_back) {
  for (const uint32_t length : {0u, 1u, 8u, 100u, 1000u, max_payload(kCapacity)}) {
    Pipe pipe(kCapacity);
    uint32_t sent = 0;
    while (put(pipe, length) == Send::ok) ++sent;
    CHECK(put(pipe, length) == Send::full);
    CHECK_EQ(sent, (kCapacity - 8) / record_size(length)); // a header word stays free behind the last record
    CHECK(!pipe.tx.leased() && pipe.tx.fault() == nullptr);
    Record record{};
    for (uint32_t i = 0; i < sent; ++i) {
      REQUIRE(pipe.rx.poll(record) == Poll::record);
      REQUIRE(intact(record));
    }
    CHECK(pipe.rx.poll(record) == Poll::none);
    CHECK(put(pipe, length) == Send::full); // read is not released
    REQUIRE(pipe.rx.release(0));
    CHECK(put(pipe, length) == Send::full); // released is not published
    pipe.rx.publish_released();
    // with padding at the end of the ring more than one may have to come back
    for (uint32_t i = 1; i < sent; ++i) REQUIRE(pipe.rx.release(i));
    pipe.rx.publish_released();
    REQUIRE(put(pipe, length) == Send::ok);
    take(pipe, length);
  }
}

TEST(random_traffic_in_random_order_of_release) {
  for (const uint32_t capacity : {4096u, 16384u, 65536u}) {
    Random random{capacity};
    Pipe pipe(capacity, 0xfffffe00); // the sequence number wraps on the way
    std::deque<Record> lent;
    uint64_t records = 0;
    uint64_t full = 0;
    while (records < 30000) {
      const uint32_t most = random.one_in(10) ? max_payload(capacity) : 200;
      const uint32_t length = random.below(most + 1);
      if (random.below(3) != 0) {
        uint8_t* payload = nullptr;
        const uint32_t reserved = random.one_in(3) ? length + random.below(most - length + 1) : length;
        const Send result = pipe.tx.reserve(reserved, payload);
        if (result == Send::ok) {
          if (random.one_in(8)) {
            memset(payload, 0xff, reserved);
            REQUIRE(pipe.tx.abort() == Send::ok);
          } else {
            fill(payload, length, pipe.tx.sequence());
            REQUIRE(pipe.tx.commit(length, Kind::data, false) == Send::ok);
          }
        } else {
          REQUIRE(result == Send::full);
          ++full;
        }
      }
      Record record{};
      if (random.one_in(2)) {
        const Poll result = pipe.rx.poll(record);
        REQUIRE(result != Poll::fault);
        if (result == Poll::record) lent.push_back(record);
      }
      while (!lent.empty() && (lent.size() > 40 || random.one_in(2))) {
        const uint32_t i = random.below(static_cast<uint32_t>(lent.size()));
        REQUIRE(intact(lent[i])); // nobody wrote over it while it was lent
        REQUIRE(pipe.rx.release(lent[i].sequence));
        REQUIRE(!pipe.rx.release(lent[i].sequence)); // given back once
        lent.erase(lent.begin() + i);
        ++records;
      }
      if (random.one_in(4)) pipe.rx.publish_released();
      REQUIRE(pipe.tx.in_use() <= capacity - 8);
    }
    CHECK(full > 100);
    CHECK(pipe.tx.sequence() < 0x10000000); // it did wrap
  }
}

TEST(release_of_what_is_not_lent_is_refused) {
  Pipe pipe(kCapacity, 100);
  Record record{};
  CHECK(!pipe.rx.release(100));
  REQUIRE(put(pipe, 8) == Send::ok);
  CHECK(!pipe.rx.release(100)); // sent, not read
  REQUIRE(pipe.rx.poll(record) == Poll::record);
  CHECK(!pipe.rx.release(99));
  CHECK(!pipe.rx.release(101));
  CHECK(!pipe.rx.release(100 + 0x80000000u));
  CHECK(pipe.rx.release(100));
  CHECK(!pipe.rx.release(100));
  CHECK_EQ(pipe.rx.lent_records(), 0);
}

TEST(only_the_contiguous_floor_is_given_back) {
  Pipe pipe(kCapacity);
  Record record{};
  for (int i = 0; i < 4; ++i) REQUIRE(put(pipe, 8) == Send::ok);
  for (int i = 0; i < 4; ++i) REQUIRE(pipe.rx.poll(record) == Poll::record);
  CHECK(pipe.rx.release(1) && pipe.rx.release(3));
  CHECK_EQ(pipe.rx.unpublished(), 0);
  CHECK(pipe.rx.release(0));
  CHECK_EQ(pipe.rx.unpublished(), 32);
  CHECK_EQ(pipe.rx.released(), 2);
  CHECK_EQ(pipe.rx.lent_records(), 2);
  pipe.rx.publish_released();
  CHECK_EQ(pipe.rx.unpublished(), 0);
  REQUIRE(pipe.tx.reload());
  CHECK_EQ(pipe.tx.in_use(), 32);
  CHECK_EQ(pipe.tx.remote_next(), 4);
  CHECK_EQ(pipe.tx.remote_released(), 2);
}

TEST(as_many_small_records_as_the_ring_holds_can_be_lent) {
  Pipe pipe(1 << 16);
  uint32_t sent = 0;
  while (put(pipe, 0) == Send::ok) ++sent;
  CHECK_EQ(sent, (1 << 16) / 8 - 1);
  Record record{};
  for (uint32_t i = 0; i < sent; ++i) REQUIRE(pipe.rx.poll(record) == Poll::record);
  CHECK(pipe.rx.poll(record) == Poll::none);
  for (uint32_t i = sent; i-- > 0;) REQUIRE(pipe.rx.release(i));
  pipe.rx.publish_released();
  REQUIRE(pipe.tx.reload());
  CHECK_EQ(pipe.tx.in_use(), 0);
}

TEST(positions_wrap_at_two_to_the_32) {
  constexpr uint32_t kLarge = 1 << 20;
  Pipe pipe(kLarge);
  Record record{};
  uint64_t total = 0;
  uint64_t wakes = 0;
  // up to three records before the wrap, payload untouched
  while (total < (uint64_t{1} << 32) - 3 * kLarge) {
    uint8_t* payload = nullptr;
    const uint32_t before = pipe.tx.position();
    REQUIRE(pipe.tx.reserve(kLarge / 2 - 16, payload) == Send::ok);
    REQUIRE(pipe.rx.park());
    REQUIRE(pipe.tx.commit(kLarge / 2 - 16, Kind::data, false) == Send::ok);
    if (pipe.tx.wake_needed()) ++wakes;
    total += pipe.tx.position() - before;
    REQUIRE(pipe.rx.poll(record) == Poll::record);
    REQUIRE(pipe.rx.release(record.sequence));
    pipe.rx.publish_released();
  }
  CHECK_EQ(wakes, pipe.tx.sequence());
  // across it in small steps, every promise checked
  Random random{3};
  std::deque<Record> lent;
  while (total < (uint64_t{1} << 32) + 3 * kLarge) {
    const uint32_t length = random.below(5000);
    const uint32_t before = pipe.tx.position();
    const bool parked = pipe.rx.park();
    const Send result = put(pipe, length);
    if (result == Send::full) {
      const bool fits = pipe.tx.want_space(length);
      for (const Record& r : lent) REQUIRE(intact(r) && pipe.rx.release(r.sequence));
      lent.clear();
      pipe.rx.publish_released();
      REQUIRE(fits || pipe.rx.space_wake_needed());
      continue;
    }
    REQUIRE(result == Send::ok);
    REQUIRE(pipe.tx.wake_needed() == parked);
    total += pipe.tx.position() - before;
    REQUIRE(pipe.rx.poll(record) == Poll::record);
    REQUIRE(record.length == length);
    lent.push_back(record);
  }
  CHECK(pipe.tx.position() < 4 * kLarge); // it did wrap
  CHECK(pipe.tx.fault() == nullptr && pipe.rx.fault() == nullptr);
}

TEST(hostile_released_words_are_faults_or_ignored) {
  // every word that says more than was sent, or less than before, or between two headers
  const uint32_t lies[] = {1000, 4096, 0x7fffffff, 0x80000000, 0xffffffff, 0xfffffff8, 1, 12, 8 * 3 + 4};
  for (const uint32_t lie : lies) {
    Pipe pipe(kCapacity);
    while (put(pipe, 40) == Send::ok && pipe.tx.position() < 480) {
    }
    REQUIRE(pipe.tx.position() < 1000);
    pipe.reader->released = tagged(Pipe::kTag, lie);
    CHECK(!pipe.tx.reload());
    CHECK(pipe.tx.fault() != nullptr);
    pipe.reader->released = tagged(Pipe::kTag, 0);
    CHECK(!pipe.tx.reload()); // and it stays broken
    while (put(pipe, 40) == Send::ok) {
    }
    CHECK(put(pipe, 40) == Send::fault);
    CHECK(!pipe.tx.want_space(1000));
    CHECK(!pipe.tx.pending([](const Record&) {}));
  }
  // back behind what it said before
  Pipe pipe(kCapacity);
  for (int i = 0; i < 10; ++i) REQUIRE(put(pipe, 40) == Send::ok);
  pipe.reader->released = tagged(Pipe::kTag, 96);
  CHECK(pipe.tx.reload());
  pipe.reader->released = tagged(Pipe::kTag, 48);
  CHECK(!pipe.tx.reload());
  // another tag says nothing
  Pipe other(kCapacity);
  REQUIRE(put(other, 40) == Send::ok);
  other.reader->released = tagged(Pipe::kTag + 1, 48);
  CHECK(other.tx.reload() && other.tx.in_use() == 48 && other.tx.fault() == nullptr);
}

TEST(counts_of_the_other_side_are_clamped) {
  Pipe pipe(kCapacity, 10);
  for (int i = 0; i < 5; ++i) REQUIRE(put(pipe, 8) == Send::ok);
  CHECK_EQ(pipe.tx.remote_next(), 10);
  pipe.reader->next_count = tagged(Pipe::kTag, 13);
  pipe.reader->released_count = tagged(Pipe::kTag, 12);
  CHECK_EQ(pipe.tx.remote_next(), 13);
  CHECK_EQ(pipe.tx.remote_released(), 12);
  for (const uint32_t lie : {16u, 12u, 9u, 0u, 0x80000000u, 0xffffffffu}) {
    pipe.reader->next_count = tagged(Pipe::kTag, lie);
    CHECK_EQ(pipe.tx.remote_next(), 13);
  }
  pipe.reader->next_count = tagged(Pipe::kTag + 1, 15);
  CHECK_EQ(pipe.tx.remote_next(), 13);
  CHECK_EQ(pipe.tx.remote_released(), 12);
}

TEST(sends_before_the_reader_is_known_are_kept) {
  Pipe pipe(kCapacity, 0, false);
  CHECK(!pipe.tx.attached() && !pipe.rx.attached());
  uint32_t sent = 0;
  while (put(pipe, 100) == Send::ok) ++sent;
  CHECK(put(pipe, 100) == Send::full);
  CHECK(!pipe.tx.wake_needed());
  Record record{};
  CHECK(pipe.rx.poll(record) == Poll::none);
  CHECK(!pipe.rx.readable() && pipe.rx.park() && !pipe.rx.space_wake_needed());
  pipe.join(kCapacity);
  CHECK(!pipe.rx.park());
  CHECK(pipe.tx.wake_needed());
  for (uint32_t i = 0; i < sent; ++i) take(pipe, 100);
  CHECK(pipe.rx.poll(record) == Poll::none);
}

TEST(the_outbox_can_be_read_back) {
  Random random{4};
  for (int round = 0; round < 300; ++round) {
    Pipe pipe(kCapacity, 0xfffffffe);
    std::deque<uint32_t> lengths; // unreleased
    const uint32_t steps = random.below(60);
    for (uint32_t i = 0; i < steps; ++i) {
      const uint32_t length = random.below(900);
      if (put(pipe, length) == Send::ok) lengths.push_back(length);
      while (!lengths.empty() && random.one_in(2)) {
        take(pipe, lengths.front());
        lengths.pop_front();
      }
    }
    uint32_t sequence = pipe.tx.sequence() - static_cast<uint32_t>(lengths.size());
    size_t i = 0;
    REQUIRE(pipe.tx.pending([&](const Record& record) {
      REQUIRE(i < lengths.size() && record.length == lengths[i++] && record.sequence == sequence++ && intact(record));
    }));
    REQUIRE(i == lengths.size());
    // an outbox that somebody wrote over is noticed, and the walk ends
    if (lengths.empty()) continue;
    for (int k = 0; k < 20; ++k) {
      uint64_t& word = *pipe.word(random.below(kCapacity) & ~7u);
      const uint64_t was = word;
      word = random.next();
      uint32_t visited = 0;
      pipe.tx.pending([&](const Record& record) {
        ++visited;
        REQUIRE(record.payload >= pipe.data && record.payload + record.length <= pipe.data + kCapacity);
      });
      REQUIRE(visited <= kCapacity / 8);
      word = was;
    }
    pipe.reader->released = tagged(Pipe::kTag, pipe.tx.position() - 8); // a boundary of no record, perhaps
    pipe.tx.pending([&](const Record& record) { REQUIRE(record.payload + record.length <= pipe.data + kCapacity); });
  }
}

TEST(rewind_delivers_what_was_not_given_back_again) {
  Pipe pipe(kCapacity);
  Record record{};
  for (int i = 0; i < 5; ++i) REQUIRE(put(pipe, 16) == Send::ok);
  for (int i = 0; i < 4; ++i) REQUIRE(pipe.rx.poll(record) == Poll::record);
  REQUIRE(pipe.rx.release(0) && pipe.rx.release(2));
  pipe.rx.rewind();
  CHECK_EQ(pipe.rx.next(), 1);
  for (uint32_t i = 1; i < 5; ++i) {
    REQUIRE(pipe.rx.poll(record) == Poll::record);
    CHECK(record.sequence == i && intact(record));
    CHECK(pipe.rx.release(i)); // 2 as well: it was lent anew
  }
  pipe.rx.publish_released();
  CHECK(pipe.tx.reload() && pipe.tx.in_use() == 0);
}

TEST(a_fault_is_kept_and_said) {
  Pipe pipe(kCapacity);
  REQUIRE(put(pipe, 16) == Send::ok);
  *pipe.word(0) = encode({16, false, Kind::data, 9});
  Record record{};
  CHECK(pipe.rx.poll(record) == Poll::fault);
  CHECK(pipe.rx.fault() != nullptr);
  *pipe.word(0) = encode({16, false, Kind::data, 0});
  CHECK(pipe.rx.poll(record) == Poll::fault); // nothing read after it can be trusted
  CHECK(!pipe.rx.readable());
  CHECK(pipe.rx.park()); // and nothing is waited for
}
