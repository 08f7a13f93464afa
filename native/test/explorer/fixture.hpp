// What the scenarios are made of: peers that ring, sleep and wake as the event-loop engine does, and rings between them.
#pragma once

#include "core/consumer.hpp"
#include "core/producer.hpp"
#include "core/wake.hpp"
#include "explorer/engine.hpp"
#include "explorer/policy.hpp"

namespace explorer {

using A = ExplorerAtomics;

template <class T>
T* at(size_t offset) {
  return reinterpret_cast<T*>(engine().memory() + offset);
}

inline uint32_t incarnation_of(int peer) { return 0x51u + static_cast<uint32_t>(peer); }

// Two peers, 0 and 1; `bell` words and `asleep` words as in a section.
class Peer {
 public:
  explicit Peer(int self)
      : self_(self), out_(bells(self)), in_(bells(1 - self)), sleeper_(sleep_word(self), incarnation_of(self)) {
    in_.take(); // the look at everything that follows a start is over
    engine().name(bells(self), 128, self == 0 ? "bells of A" : "bells of B");
    engine().name(sleep_word(self), 8, self == 0 ? "asleep of A" : "asleep of B");
  }

  // As Remote::ring_end: bell, and doorbell if the other sleeps.
  void ring(uint32_t group) {
    out_.ring(group);
    if (out_.doorbell_needed(sleep_word(1 - self_), incarnation_of(1 - self_))) engine().ring_doorbell(1 - self_);
  }

  // Sleeps until somebody rings, then says which groups were rung.
  uint32_t wait() {
    sleeper_.announce();
    if (!in_.changed()) engine().sleep(self_);
    sleeper_.awake();
    return in_.take();
  }
  void wait_for(uint32_t group) {
    while ((wait() >> group & 1) == 0) {
    }
  }

 private:
  static uint32_t* bells(int peer) { return at<uint32_t>(static_cast<size_t>(peer) * 128); }
  static uint64_t* sleep_word(int peer) { return at<uint64_t>(256 + static_cast<size_t>(peer) * 128); }

  int self_;
  vmring::BellWriter<A> out_;
  vmring::BellReader<A> in_;
  vmring::Sleeper<A> sleeper_;
};

inline constexpr uint32_t kTag = 0x77;
inline constexpr uint32_t kFirst = 0xfffffffe; // sequence numbers wrap on the way

// Bytes 8 i … 8 i + 7 of the payload of a record.
inline uint64_t pattern(uint32_t sequence, uint32_t i) { return 0x1000 * (sequence - kFirst + 1) + i + 1; }

// One ring; head, data and reader block at `place`.
class Ring {
 public:
  Ring(size_t place, uint32_t capacity, uint32_t first_position, const char* name)
      : tx(at<vmring::RingHead>(place), at<uint8_t>(place + 128), capacity, kTag, kFirst, first_position),
        rx(at<vmring::ReaderBlock>(place + 128 + align(capacity)), kFirst), place_(place) {
    tx.attach(at<vmring::ReaderBlock>(place + 128 + align(capacity)));
    rx.attach(at<vmring::RingHead>(place), at<uint8_t>(place + 128), capacity, kTag, first_position);
    engine().name(at<uint8_t>(place), 128, name);
    engine().name(at<uint8_t>(place + 128), capacity, "ring data");
    engine().name(at<uint8_t>(place + 128 + align(capacity)), 128, "reader: released");
    engine().name(at<uint8_t>(place + 256 + align(capacity)), 128, "reader: wake_at");
    engine().name(at<uint8_t>(place + 384 + align(capacity)), 512, "reader: large");
  }

  // One record of `length` bytes, a multiple of 8.
  vmring::Send send(uint32_t length) {
    uint64_t bytes[8];
    for (uint32_t i = 0; i < length / 8; ++i) bytes[i] = pattern(tx.sequence(), i);
    return tx.send(reinterpret_cast<uint8_t*>(bytes), length, vmring::Kind::data, false);
  }

  // Takes a record if there is one, reads it, checks it. It stays lent.
  bool take(vmring::Record& record) {
    const uint32_t expected = rx.next();
    const vmring::Poll result = rx.poll(record);
    if (result == vmring::Poll::fault) engine().fail("the reader sees ", rx.fault());
    if (result != vmring::Poll::record) return false;
    engine().expect(record.sequence == expected, "a record out of order");
    engine().expect(record.kind == vmring::Kind::data, "a record of another kind");
    check(record);
    return true;
  }
  void check(const vmring::Record& record) {
    for (uint32_t i = 0; i < record.length / 8; ++i) {
      uint64_t value;
      A::read_bytes(&value, record.payload + i * 8, 8);
      engine().expect(value == pattern(record.sequence, i), "a payload that was not sent, or not yet");
    }
  }
  void give_back(const vmring::Record& record) { engine().expect(rx.release(record.sequence), "a release refused"); }

  // What the sender may say about the receiver: as many records as bytes released, all of one size here.
  void check_counts(uint32_t each) {
    const uint32_t bytes = tx.position() - tx.in_use() - first_;
    engine().expect(tx.remote_released() - kFirst >= bytes / each, "bytes released before the count of records says so");
  }
  void count_from(uint32_t position) { first_ = position; }

  vmring::Producer<A> tx;
  vmring::Consumer<A> rx;

 private:
  static size_t align(uint32_t capacity) { return vmring::align_up(capacity, 128); }
  size_t place_;
  uint32_t first_ = 0;
};

template <class S>
std::unique_ptr<Scenario> make() {
  return std::make_unique<S>();
}

} // namespace explorer
