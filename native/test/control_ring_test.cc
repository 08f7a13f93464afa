// core/control_ring.hpp: chains of slots, new lives on either side, and slots and positions that lie.
#include <deque>

#include "check.hpp"
#include "rig.hpp"

using namespace vmring;
using rig::A;
using rig::fill;
using rig::filled;
using rig::Random;

namespace {

struct Line {
  rig::Guarded ring{kControlStride};
  rig::Guarded ack_line{kLine};
  uint64_t* ack = reinterpret_cast<uint64_t*>(ack_line.base());
  uint64_t* head = reinterpret_cast<uint64_t*>(ring.base());
  ControlSlot* slots = reinterpret_cast<ControlSlot*>(ring.base() + kLine);
  uint8_t message[kMaxControl] = {};

  ControlWriter<A> writer(uint32_t life, uint32_t reader_life) {
    ControlWriter<A> w(ring.base(), ack, life);
    w.set_reader(reader_life);
    return w;
  }
  ControlReader<A> reader(uint32_t life, uint32_t writer_life) {
    ControlReader<A> r(ring.base(), ack, life);
    r.set_writer(writer_life);
    return r;
  }
};

bool send(ControlWriter<A>& writer, uint32_t length, uint64_t seed) {
  std::vector<uint8_t> bytes(length);
  fill(bytes.data(), length, seed);
  return writer.send(bytes.data(), length);
}

} // namespace

TEST(every_length_arrives) {
  Line line;
  auto writer = line.writer(1, 2);
  auto reader = line.reader(2, 1);
  CHECK_EQ(reader.poll(line.message), 0);
  for (uint32_t length = 1; length <= kMaxControl; ++length) {
    REQUIRE(send(writer, length, length));
    REQUIRE(reader.poll(line.message) == length);
    REQUIRE(filled(line.message, length, length));
    REQUIRE(reader.poll(line.message) == 0);
  }
  CHECK(!send(writer, 0, 0));
  CHECK(!send(writer, kMaxControl + 1, 0));
}

TEST(nothing_is_sent_to_nobody) {
  Line line;
  ControlWriter<A> writer(line.ring.base(), line.ack, 1);
  CHECK(!send(writer, 10, 0));
  ControlReader<A> reader(line.ring.base(), line.ack, 2);
  CHECK_EQ(reader.poll(line.message), 0);
}

TEST(a_full_ring_takes_nothing_and_loses_nothing) {
  Line line;
  auto writer = line.writer(1, 2);
  auto reader = line.reader(2, 1);
  Random random{1};
  std::deque<std::pair<uint32_t, uint64_t>> sent;
  uint64_t seed = 0;
  uint64_t full = 0;
  uint64_t received = 0;
  while (received < 20000) {
    const uint32_t length = 1 + random.below(random.one_in(3) ? kMaxControl : 60);
    if (send(writer, length, seed)) sent.push_back({length, seed++});
    else ++full;
    while (random.one_in(2)) {
      const uint32_t got = reader.poll(line.message);
      REQUIRE((got == 0) == sent.empty());
      if (got == 0) break;
      REQUIRE(got == sent.front().first && filled(line.message, got, sent.front().second));
      sent.pop_front();
      ++received;
    }
  }
  CHECK(full > 1000);
}

TEST(a_new_reader_skips_what_was_meant_for_the_old_one) {
  Line line;
  auto writer = line.writer(1, 2);
  auto old_reader = line.reader(2, 1);
  for (int i = 0; i < 50; ++i) { // old acknowledgements, and old messages that nobody read
    REQUIRE(send(writer, 100, 1));
    if (i < 45) REQUIRE(old_reader.poll(line.message) == 100);
  }
  auto reader = line.reader(3, 1);
  CHECK_EQ(reader.poll(line.message), 0);
  writer.set_reader(3);
  CHECK_EQ(reader.poll(line.message), 0);
  for (uint64_t i = 0; i < 200; ++i) { // the whole ring is there for the new one
    REQUIRE(send(writer, kMaxControl, i));
    REQUIRE(reader.poll(line.message) == kMaxControl && filled(line.message, kMaxControl, i));
  }
  // the dead one's acknowledgements move nothing
  line.ack[0] = tagged(pair_tag(1, 2), value_of(line.ack[0]) + 1);
  for (uint64_t i = 0; i < 10; ++i) {
    REQUIRE(send(writer, 300, i));
    REQUIRE(reader.poll(line.message) == 300);
  }
}

TEST(a_new_writer_is_not_taken_for_the_old_one) {
  Line line;
  auto old_writer = line.writer(1, 2);
  auto reader = line.reader(2, 1);
  for (int i = 0; i < 40; ++i) {
    REQUIRE(send(old_writer, 90, 1));
    REQUIRE(reader.poll(line.message) == 90);
  }
  REQUIRE(send(old_writer, 1000, 1)); // unread, and void now
  auto writer = line.writer(5, 2);
  REQUIRE(send(writer, 70, 9));
  CHECK_EQ(reader.poll(line.message), 0); // not heard of it yet
  reader.set_writer(5);
  CHECK_EQ(reader.poll(line.message), 70);
  CHECK(filled(line.message, 70, 9));
  for (uint64_t i = 0; i < 100; ++i) {
    REQUIRE(send(writer, 700, i));
    REQUIRE(reader.poll(line.message) == 700 && filled(line.message, 700, i));
  }
}

TEST(a_reader_that_comes_late_finds_what_is_meant_for_it) {
  Line line;
  auto writer = line.writer(1, 2);
  for (uint64_t i = 0; i < 10; ++i) REQUIRE(send(writer, 40, i));
  auto reader = line.reader(2, 1);
  for (uint64_t i = 0; i < 10; ++i) {
    REQUIRE(reader.poll(line.message) == 40 && filled(line.message, 40, i));
  }
  CHECK_EQ(reader.poll(line.message), 0);
}

TEST(forged_acknowledgements_open_no_room_that_is_not_there) {
  Line line;
  auto writer = line.writer(1, 2);
  const uint32_t tag = pair_tag(1, 2);
  for (uint32_t i = 0; i < kControlSlots; ++i) REQUIRE(send(writer, 1, i));
  for (const uint32_t lie : {33u, 64u, 0x80000000u, 0xffffffffu}) {
    line.ack[0] = tagged(tag, lie);
    CHECK(!send(writer, 1, 0));
  }
  line.ack[0] = tagged(tag + 2, 32);
  CHECK(!send(writer, 1, 0));
  line.ack[0] = tagged(tag, 10);
  CHECK(send(writer, 1, 0));
  line.ack[0] = tagged(tag, 9); // back
  CHECK(!send(writer, 500, 0));
  line.ack[0] = tagged(tag, 33);
  CHECK(send(writer, kMaxControl, 0));
}

TEST(tags_of_pairs_differ) {
  CHECK(pair_tag(1, 2) != pair_tag(2, 1));
  CHECK(pair_tag(1, 2) != pair_tag(1, 3));
  CHECK(pair_tag(1, 2) != pair_tag(3, 2));
  CHECK(pair_tag(0, 0) != 0); // 0 is what stands in fresh memory
}

TEST(slots_that_do_not_fit_are_skipped) {
  const auto spoil = [](auto change) {
    Line line;
    auto writer = line.writer(1, 2);
    auto reader = line.reader(2, 1);
    CHECK(send(writer, 130, 1)); // slots 0, 1, 2
    CHECK(send(writer, 60, 2));  // slots 3, 4
    change(line.slots);
    const uint32_t got = reader.poll(line.message);
    CHECK(got == 60 && filled(line.message, got, 2)); // the first one is lost whole, the next is intact
    CHECK_EQ(reader.poll(line.message), 0);
  };
  spoil([](ControlSlot* s) { s[0].flags = 0; });
  spoil([](ControlSlot* s) { s[0].sequence = 7; });
  spoil([](ControlSlot* s) { s[1].sequence = 0; });
  spoil([](ControlSlot* s) { s[1].writer_incarnation = 9; });
  spoil([](ControlSlot* s) { s[1].reader_incarnation = 9; });
  spoil([](ControlSlot* s) { s[1].length = kSlotPayload + 1; });
  spoil([](ControlSlot* s) { s[2].length = 255; });
  spoil([](ControlSlot* s) { s[2].flags = 0; }); // never ends; the next first slot begins anew
}

TEST(a_first_slot_that_cannot_be_is_not_believed) {
  for (const uint32_t lie : {2u, 100u, 0x80000000u, 0xffffffe0u}) { // ahead of the tail, or further back than the ring is long
    Line line;
    auto writer = line.writer(1, 2);
    auto reader = line.reader(2, 1);
    REQUIRE(send(writer, 30, 1));
    line.head[1] = tagged(2, lie);
    CHECK_EQ(reader.poll(line.message), 0);
    line.head[1] = tagged(2, 0);
    CHECK_EQ(reader.poll(line.message), 30);
  }
}

TEST(a_chain_without_end_stays_within_its_buffer) {
  Line line;
  auto reader = line.reader(2, 1);
  for (uint32_t i = 0; i < kControlSlots; ++i) {
    line.slots[i] = {i, kSlotPayload, static_cast<uint8_t>(i == 0 ? kSlotFirst : 0), 0, 1, 2, {}};
  }
  line.head[0] = tagged(1, kControlSlots);
  line.head[1] = tagged(2, 0);
  line.slots[kControlSlots - 1].flags = kSlotLast; // it ends after all, but it is longer than a message may be
  CHECK_EQ(reader.poll(line.message), 0);
  CHECK_EQ(reader.poll(line.message), 0);
}

TEST(garbage_is_bounded_and_leads_nowhere) {
  Random random{2};
  Line line;
  auto reader = line.reader(2, 1);
  rig::Guarded message(kMaxControl);
  uint64_t messages = 0;
  for (int i = 0; i < 30000; ++i) {
    const uint32_t tail = random.one_in(3) ? static_cast<uint32_t>(random.next()) : value_of(line.head[0]) + random.below(40);
    line.head[0] = tagged(random.one_in(10) ? 7 : 1, tail);
    line.head[1] = tagged(random.one_in(10) ? 9 : 2, random.one_in(3) ? static_cast<uint32_t>(random.next()) : tail - random.below(40));
    for (uint32_t s = 0; s < kControlSlots; ++s) {
      ControlSlot& slot = line.slots[(tail - s) % kControlSlots];
      for (uint32_t k = 0; k < sizeof slot; k += 8) {
        const uint64_t value = random.next();
        memcpy(reinterpret_cast<uint8_t*>(&slot) + k, &value, 8);
      }
      if (random.one_in(10)) continue;
      slot.sequence = tail - s - (s == 0 ? kControlSlots : 0);
      slot.length = static_cast<uint8_t>(random.below(50));
      slot.writer_incarnation = 1;
      slot.reader_incarnation = 2;
    }
    uint32_t polls = 0;
    for (uint32_t got = 1; got != 0; ++polls) {
      got = reader.poll(message.base()); // a guard page is behind it
      REQUIRE(got <= kMaxControl);
      messages += got != 0;
    }
    REQUIRE(polls <= kControlSlots + 1);
    if (random.one_in(50)) reader.set_writer(1);
  }
  printf("  %llu messages\n", static_cast<unsigned long long>(messages));
  CHECK(messages > 1000);
}
