// Scenarios about data rings and wake-ups. Role A is peer 0, role B peer 1.
#pragma once

#include "explorer/fixture.hpp"

namespace explorer {

inline constexpr size_t kRing = 1024;
inline constexpr size_t kSecondRing = 4096;
inline constexpr uint32_t kGroup = 3;
inline constexpr uint32_t kOtherGroup = 5;

// The two halves of every conversation over a ring.
inline void send_and_wake(Peer& self, Ring& ring, uint32_t length, uint32_t group) {
  while (ring.send(length) != vmring::Send::ok) {
    engine().expect(ring.tx.fault() == nullptr, "the sender sees a fault");
    if (!ring.tx.want_space(length)) self.wait();
  }
  if (ring.tx.wake_needed()) self.ring(group);
}
inline void receive_or_sleep(Peer& self, Ring& ring, uint32_t group, bool give_room) {
  vmring::Record record;
  while (!ring.take(record)) {
    if (ring.rx.park()) self.wait_for(group);
  }
  ring.give_back(record);
  if (!give_room) return;
  ring.rx.publish_released();
  if (ring.rx.space_wake_needed()) self.ring(group);
}

// a. A sends, in bursts that share one wake check; B drains, parks, sleeps. Nobody sleeps beside a published record.
template <int kRecords, int kBurst, uint32_t kPosition = 0>
struct DataWake : Scenario {
  Peer a{0}, b{1};
  Ring ring{kRing, 128, kPosition, "ring"};
  void role(int index) override {
    if (index == 0) {
      for (int i = 0; i < kRecords; i += kBurst) {
        for (int j = 0; j < kBurst && i + j < kRecords; ++j) {
          engine().expect(ring.send(8) == vmring::Send::ok, "no room in an empty ring");
        }
        if (ring.tx.wake_needed()) a.ring(kGroup);
      }
    } else {
      for (int i = 0; i < kRecords; ++i) receive_or_sleep(b, ring, kGroup, false);
    }
  }
};

// a. The same with two rings that share the bell line of the peer.
struct TwoEnds : Scenario {
  Peer a{0}, b{1};
  Ring first{kRing, 128, 0, "first ring"}, second{kSecondRing, 128, 0, "second ring"};
  void role(int index) override {
    if (index == 0) {
      send_and_wake(a, first, 8, kGroup);
      send_and_wake(a, second, 8, kOtherGroup);
      return;
    }
    bool got_first = false, got_second = false;
    uint32_t groups = 1u << kGroup | 1u << kOtherGroup;
    for (;;) {
      if (groups >> kGroup & 1 && !got_first) got_first = drain(first);
      if (groups >> kOtherGroup & 1 && !got_second) got_second = drain(second);
      if (got_first && got_second) return;
      groups = b.wait();
    }
  }
  static bool drain(Ring& ring) {
    vmring::Record record;
    do {
      if (ring.take(record)) return true;
    } while (!ring.rx.park());
    return false;
  }
};

// b. A full ring: A asks for space and sleeps; B reads, gives back, rings. What is lent is not overwritten.
template <int kMore, bool kOutOfOrder, uint32_t kPosition = 0, bool kCounts = true>
struct SpaceWait : Scenario {
  Peer a{0}, b{1};
  Ring ring{kRing, 64, kPosition, "ring"};
  SpaceWait() {
    for (int i = 0; i < 3; ++i) ring.send(8);
    ring.tx.wake_needed();
    ring.count_from(kPosition);
  }
  void role(int index) override {
    if (index == 0) {
      for (int i = 0; i < kMore; ++i) {
        while (ring.send(8) != vmring::Send::ok) {
          engine().expect(ring.tx.fault() == nullptr, "the sender sees a fault");
          if (ring.tx.want_space(8)) continue;
          a.wait();
        }
        if (kCounts) ring.check_counts(16);
      }
      return;
    }
    vmring::Record record[3];
    if (kOutOfOrder) {
      for (auto& r : record) engine().expect(ring.take(r), "a record that was published is not there");
      ring.give_back(record[1]);
      publish();
      ring.give_back(record[0]);
      publish();
      ring.give_back(record[2]);
      publish();
    } else {
      for (auto& r : record) {
        engine().expect(ring.take(r), "a record that was published is not there");
        ring.give_back(r);
        publish();
      }
    }
  }
  void publish() {
    ring.rx.publish_released();
    if (ring.rx.space_wake_needed()) b.ring(kGroup);
  }
};

// c. Both directions: each peer sends and receives, both sleep when there is nothing.
template <int kRounds>
struct PingPong : Scenario {
  Peer a{0}, b{1};
  Ring there{kRing, 128, 0, "ring there"}, back{kSecondRing, 128, 0, "ring back"};
  void role(int index) override {
    for (int i = 0; i < kRounds; ++i) {
      if (index == 0) {
        send_and_wake(a, there, 8, kGroup);
        receive_or_sleep(a, back, kOtherGroup, true);
      } else {
        receive_or_sleep(b, there, kGroup, true);
        send_and_wake(b, back, 8, kOtherGroup);
      }
    }
  }
};
struct Crossing : Scenario {
  Peer a{0}, b{1};
  Ring there{kRing, 128, 0, "ring there"}, back{kSecondRing, 128, 0, "ring back"};
  void role(int index) override {
    if (index == 0) {
      send_and_wake(a, there, 8, kGroup);
      receive_or_sleep(a, back, kOtherGroup, false);
    } else {
      send_and_wake(b, back, 8, kOtherGroup);
      receive_or_sleep(b, there, kGroup, false);
    }
  }
};

// d. Padding and wrap over memory full of old records: B looks whenever it likes and sees whole records or nothing.
template <uint32_t kPosition>
struct Wrap : Scenario {
  Peer a{0}, b{1};
  Ring ring{kRing, 64, kPosition, "ring"};
  Wrap() {
    for (int i = 0; i < 3; ++i) {
      ring.send(8);
      vmring::Record record;
      ring.take(record);
      ring.give_back(record);
    }
    ring.rx.publish_released();
    ring.tx.reload();
  }
  void role(int index) override {
    if (index == 0) {
      ring.send(16); // 16 bytes are left before the end: padding, then offset 0
      ring.send(8);
      return;
    }
    for (int looks = 0; looks < 5; ++looks) {
      vmring::Record record;
      if (ring.take(record)) ring.give_back(record);
    }
  }
};

// a to d at once: a ring that is too small, padding, the wrap, both sides sleeping.
template <uint32_t kPosition>
struct SmallRing : Scenario {
  Peer a{0}, b{1};
  Ring ring{kRing, 64, kPosition, "ring"};
  SmallRing() {
    for (int i = 0; i < 3; ++i) {
      ring.send(8);
      vmring::Record record;
      ring.take(record);
      ring.give_back(record);
    }
    ring.rx.publish_released();
    ring.rx.space_wake_needed();
    ring.tx.wake_needed();
  }
  void role(int index) override {
    for (int i = 0; i < 2; ++i) {
      if (index == 0) {
        send_and_wake(a, ring, 16, kGroup);
      } else {
        receive_or_sleep(b, ring, kGroup, true);
      }
    }
  }
};

} // namespace explorer
