// core/wake.hpp and the wake-ups of the ring: the arithmetic of "has it been passed", stale words, bells.
// That the fences are needed is shown by wake_litmus_test.cc and by the explorer.
#include "check.hpp"
#include "rig.hpp"

using namespace vmring;
using rig::A;
using rig::Pipe;
using rig::Random;

namespace {

constexpr uint32_t kCapacity = 4096;

void put(Pipe& pipe, uint32_t length = 40) {
  const std::vector<uint8_t> bytes(length);
  REQUIRE(pipe.tx.send(bytes.data(), length, Kind::data, false) == Send::ok);
}
void take(Pipe& pipe) {
  Record record{};
  REQUIRE(pipe.rx.poll(record) == Poll::record);
  REQUIRE(pipe.rx.release(record.sequence));
}
void drain(Pipe& pipe) {
  Record record{};
  while (pipe.rx.poll(record) == Poll::record) REQUIRE(pipe.rx.release(record.sequence));
  pipe.rx.publish_released();
}

} // namespace

TEST(a_consumer_that_never_parked_is_not_rung) {
  Pipe pipe(kCapacity);
  put(pipe);
  CHECK(!pipe.tx.wake_needed());
  put(pipe);
  CHECK(!pipe.tx.wake_needed());
}

TEST(a_parked_consumer_is_rung_once) {
  Pipe pipe(kCapacity);
  CHECK(pipe.rx.park());
  CHECK(!pipe.tx.wake_needed()); // nothing sent
  put(pipe);
  CHECK(pipe.tx.wake_needed());
  CHECK(!pipe.tx.wake_needed()); // nothing new since
  put(pipe);
  CHECK(!pipe.tx.wake_needed()); // it is awake: the position has been passed
  drain(pipe);
  CHECK(pipe.rx.park());
  put(pipe);
  put(pipe);
  put(pipe);
  CHECK(pipe.tx.wake_needed()); // one check for three commits
}

TEST(parking_fails_when_something_is_there) {
  Pipe pipe(kCapacity);
  put(pipe);
  CHECK(!pipe.rx.park());
  CHECK(pipe.tx.wake_needed()); // announced before it looked: a needless bell, never a lost one
  take(pipe);
  CHECK(pipe.rx.park());
}

TEST(a_bell_is_due_when_the_position_is_in_what_was_published) {
  // against arithmetic in 64 bits, all around the ring: parked at p, published from a to b, rung when a <= p < b
  Pipe pipe(kCapacity);
  Random random{5};
  uint64_t checked = 0;
  uint64_t tail = 0;
  for (int i = 0; i < 20000; ++i) {
    for (uint32_t k = random.below(4); k > 0; --k) {
      const uint32_t before = pipe.tx.position();
      put(pipe, random.below(200));
      tail += pipe.tx.position() - before;
    }
    const uint64_t at = tail + 8 * random.below(40) - 8 * random.below(40);
    pipe.reader->wake_at = tagged(Pipe::kTag, static_cast<uint32_t>(at));
    const bool due = at >= checked && at < tail;
    REQUIRE(pipe.tx.wake_needed() == due);
    checked = tail;
    drain(pipe);
  }
}

TEST(wake_words_with_another_tag_are_ignored) {
  Pipe pipe(kCapacity);
  CHECK(pipe.rx.park());
  pipe.reader->wake_at = tagged(Pipe::kTag + 1, 0); // what an earlier ring in the same place left behind
  put(pipe);
  CHECK(!pipe.tx.wake_needed());
  // a new consumer's block never says "wake me" before it parks
  Pipe fresh(kCapacity);
  put(fresh);
  CHECK(!fresh.tx.wake_needed());
}

TEST(space_is_asked_for_only_when_it_is_missing) {
  Pipe pipe(kCapacity);
  CHECK(pipe.tx.want_space(100));
  CHECK_EQ(pipe.head->space_at, 0);
  CHECK(!pipe.tx.want_space(max_payload(kCapacity) + 1)); // it never will
  CHECK_EQ(pipe.head->space_at, 0);
  while (pipe.tx.in_use() + 64 < kCapacity) put(pipe);
  CHECK(!pipe.tx.want_space(1000));
  CHECK_EQ(tag_of(pipe.head->space_at), Pipe::kTag);
}

TEST(the_bell_for_space_comes_when_it_fits_and_not_before) {
  Random random{6};
  for (int round = 0; round < 2000; ++round) {
    Pipe pipe(kCapacity);
    for (uint32_t i = random.below(100); i > 0; --i) { // begin anywhere
      put(pipe, random.below(300));
      drain(pipe);
    }
    std::vector<uint8_t> bytes(kCapacity);
    uint32_t length = random.below(600);
    while (pipe.tx.send(bytes.data(), length, Kind::data, false) == Send::ok) length = random.below(600);
    REQUIRE(!pipe.tx.want_space(length));
    Record record{};
    bool rung = false;
    while (pipe.rx.poll(record) == Poll::record) {
      REQUIRE(pipe.rx.release(record.sequence));
      if (random.one_in(2)) continue; // several releases may share one publication
      pipe.rx.publish_released();
      const bool due = pipe.rx.space_wake_needed();
      uint8_t* payload = nullptr;
      const bool fits = pipe.tx.reserve(length, payload) == Send::ok;
      if (fits) REQUIRE(pipe.tx.abort() == Send::ok);
      REQUIRE(due == (fits && !rung)); // exactly with the publication that made it fit
      rung = rung || due;
    }
    pipe.rx.publish_released();
    REQUIRE(pipe.rx.space_wake_needed() == !rung);
  }
}

TEST(space_words_with_another_tag_are_ignored) {
  Pipe pipe(kCapacity);
  put(pipe);
  pipe.head->space_at = tagged(Pipe::kTag + 1, 48);
  drain(pipe);
  CHECK(!pipe.rx.space_wake_needed());
}

namespace {
struct Line {
  alignas(kLine) uint32_t words[kBellWords] = {};
};
} // namespace

TEST(a_bell_is_seen_once_and_by_group) {
  Line line;
  BellWriter<A> writer(line.words);
  BellReader<A> reader(line.words);
  CHECK(reader.changed()); // looks once without being asked
  CHECK_EQ(reader.take(), 1);
  CHECK(!reader.changed());
  for (uint32_t bell = 0; bell < 100; ++bell) {
    const uint32_t group = bell_group(bell);
    REQUIRE(group >= 1 && group <= kBellGroups);
    writer.ring(group);
    REQUIRE(reader.changed());
    REQUIRE(reader.take() == (1u | 1u << group));
    REQUIRE(!reader.changed());
  }
  writer.ring(3);
  writer.ring(31);
  writer.ring(3);
  writer.ring(0);
  CHECK_EQ(reader.take(), 1u | 1u << 3 | 1u << 31);
  writer.ring(0);
  CHECK(reader.changed());
  CHECK_EQ(reader.take(), 1);
  CHECK_EQ(line.words[0], 105); // the total counts every ring
}

TEST(a_writer_that_starts_again_repeats_no_count) {
  Line line;
  BellReader<A> reader(line.words);
  for (int life = 0; life < 3; ++life) {
    BellWriter<A> writer(line.words);
    reader.take();
    writer.ring(5);
    REQUIRE(reader.changed());
    REQUIRE(reader.take() == (1u | 1u << 5));
  }
  line.words[0] = line.words[5] = 0xffffffff; // counts wrap
  BellWriter<A> writer(line.words);
  reader.take();
  writer.ring(5);
  CHECK(reader.changed());
  CHECK_EQ(reader.take(), 1u | 1u << 5);
  CHECK_EQ(line.words[5], 0);
  reader.restart();
  CHECK(reader.changed());
  CHECK_EQ(reader.take(), 1);
}

TEST(doorbells_are_for_sleepers_of_the_right_life) {
  Line line;
  uint64_t word = tagged(41, 1); // an earlier life fell asleep for good
  BellWriter<A> writer(line.words);
  CHECK(!writer.doorbell_needed(&word, 42));
  Sleeper<A> sleeper(&word, 42);
  CHECK(!writer.doorbell_needed(&word, 42));
  sleeper.announce();
  CHECK(!writer.doorbell_needed(&word, 41));
  CHECK(!writer.doorbell_needed(&word, 43));
  CHECK(writer.doorbell_needed(&word, 42));
  CHECK(!writer.doorbell_needed(&word, 42)); // one is under way to this nap
  sleeper.awake();
  CHECK(!writer.doorbell_needed(&word, 42));
  sleeper.announce(); // another nap
  CHECK(writer.doorbell_needed(&word, 42));
  Sleeper<A> next(&word, 43); // another life, whose first nap has the number that was rung once
  next.announce();
  CHECK(writer.doorbell_needed(&word, 43));
  for (const uint64_t lie : {uint64_t{0}, ~uint64_t{0}, tagged(42, 0)}) {
    word = lie;
    CHECK(!writer.doorbell_needed(&word, 42));
  }
}
