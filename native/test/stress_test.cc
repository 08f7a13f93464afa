// Two peers as two threads over one mapping, several channels, the whole wake protocol for real: ends park, bells are rung,
// a peer with nothing to do announces sleep and sleeps in poll(2) on an eventfd. Nobody looks at anything that was not
// announced by a bell, and nobody wakes without a doorbell: one lost wake-up and a peer sleeps for good, which fails.
// All bytes carry checksums by (direction, channel, sequence), so that lost, doubled, reordered or changed ones show.
#include <poll.h>
#include <sys/eventfd.h>

#include <chrono>
#include <thread>

#include "check.hpp"
#include "rig.hpp"

using namespace vmring;
using rig::A;
using rig::fill;
using rig::filled;
using rig::Random;
using Clock = std::chrono::steady_clock;

namespace {

constexpr auto kTime = std::chrono::milliseconds(rig::kThreadSanitizer ? 4000 : 2500);
constexpr int kAsleepForGood = 10000; // ms; the other side never is silent for so long

enum class Traffic {
  flood,     // as much as the ring takes
  ping_pong, // one for one received: both sides sleep between
  receive,   // only listens
};

struct Plan {
  uint32_t capacity;
  uint32_t most; // longest message; above the inline limit it goes the large way
  Traffic traffic[2];
};

struct Channel {
  Channel(End<A> e, const Plan& p, int side, uint64_t stream)
      : end(std::move(e)), plan(p), traffic(p.traffic[side]), credit(side == 0 ? 1 : 0), random{stream * 2 + side},
        seed_out((stream * 2 + side) << 32), seed_in((stream * 2 + 1 - side) << 32) {}
  bool done() const { return fin_out && fin_in; }

  End<A> end;
  Plan plan;
  Traffic traffic;
  uint32_t credit; // ping_pong: how many may be sent
  Random random;
  uint64_t seed_out;
  uint64_t seed_in;
  bool active = true;
  bool fin_out = false;
  bool fin_in = false;
  uint32_t next_length = 0;
  bool has_next = false;
  std::vector<uint32_t> lent;
  uint64_t sent = 0;
  uint64_t received = 0;
};

struct Peer {
  Peer(rig::Region& region, int side, std::atomic<bool>& failed)
      : me(side), own(region.section(side)), theirs(region.section(1 - side)), memory(region.allocator()),
        remote(own, theirs, side, 1 - side, 100 + side), sleeper(own.sleep_word(), 100 + side),
        eventfd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)), stop(failed) {}
  ~Peer() { close(eventfd_); }

  int me;
  SectionView own;
  SectionView theirs;
  SectionAllocator memory;
  Remote<A> remote;
  Sleeper<A> sleeper;
  int eventfd_;
  int other_eventfd = -1;
  std::atomic<bool>& stop;
  std::vector<Channel> channels;
  Clock::time_point until;
  uint64_t sleeps = 0;
  uint64_t doorbells = 0;
  uint64_t bells = 0;
  uint32_t control_out = 0;
  uint32_t control_in = 0;

  void fail(const char* words) {
    check::fail(__FILE__, __LINE__, words);
    stop = true;
  }

  void doorbell(bool needed) {
    ++bells;
    if (!needed) return;
    ++doorbells;
    const uint64_t one = 1;
    if (write(other_eventfd, &one, sizeof one) != sizeof one) fail("write to an eventfd");
  }
  void ring(Channel& c) { doorbell(remote.ring_end(c.end.remote_offer().bell)); }

  // True when the record went out. The first refusal fixes the length, so that what is waited for is what is sent.
  bool send_one(Channel& c) {
    Producer<A>& tx = c.end.tx();
    if (!c.has_next) {
      c.next_length = c.random.one_in(3) ? c.random.below(c.plan.most + 1) : c.random.below(200);
      c.has_next = true;
    }
    const uint64_t seed = c.seed_out + tx.sequence();
    if (c.next_length > inline_limit(c.plan.capacity)) {
      uint8_t* payload = nullptr;
      if (tx.reserve(sizeof(LargeDescriptor), payload) != Send::ok) return false;
      const uint64_t offset = c.end.large_out().allocate(memory, c.next_length);
      if (offset == 0) { // no memory: something that fits the ring instead, as the addon sends fragments
        tx.abort();
        c.next_length = c.random.below(inline_limit(c.plan.capacity));
        return send_one(c);
      }
      fill(own.base() + offset, c.next_length, seed);
      LargeDescriptor d{};
      c.end.large_out().describe(offset, c.next_length, d);
      A::write_bytes(payload, &d, sizeof d);
      c.end.large_out().sent(offset);
      tx.commit(sizeof d, Kind::large, false);
    } else {
      uint8_t* payload = nullptr;
      // sometimes more is reserved than used
      const uint32_t reserved = std::min(c.next_length + (c.random.one_in(4) ? 100 : 0), max_payload(c.plan.capacity));
      if (tx.reserve(reserved, payload) != Send::ok) return false;
      fill(payload, c.next_length, seed);
      tx.commit(c.next_length, Kind::data, false);
    }
    c.has_next = false;
    ++c.sent;
    return true;
  }

  bool wants_to_send(const Channel& c) const {
    if (c.fin_out) return false;
    if (c.fin_in || c.has_next) return true; // FIN at least
    return c.traffic == Traffic::flood || (c.traffic == Traffic::ping_pong && c.credit > 0);
  }

  bool send_some(Channel& c) {
    bool any = false;
    for (int i = 0; i < 8 && wants_to_send(c); ++i) {
      if ((c.fin_in || Clock::now() > until) && !c.has_next) {
        if (c.end.tx().send(nullptr, 0, Kind::fin, false) != Send::ok) break;
        c.fin_out = true;
      } else {
        if (!send_one(c)) break;
        if (c.credit > 0) --c.credit;
      }
      any = true;
    }
    if (c.end.tx().wake_needed()) ring(c);
    return any;
  }

  void give_back(Channel& c, size_t keep) {
    while (c.lent.size() > keep) {
      const size_t k = c.random.below(static_cast<uint32_t>(c.lent.size()));
      if (!c.end.release(c.lent[k])) fail("a record could not be given back");
      c.lent.erase(c.lent.begin() + static_cast<long>(k));
    }
    if (keep == 0 || c.end.rx().unpublished() >= c.plan.capacity / 4) {
      c.end.rx().publish_released();
      if (c.end.rx().space_wake_needed()) ring(c);
    }
  }

  bool receive_some(Channel& c) {
    bool any = false;
    Record record{};
    for (int i = 0; i < 16; ++i) {
      const Poll result = c.end.rx().poll(record);
      if (result == Poll::none) break;
      if (result == Poll::fault) {
        fail(c.end.rx().fault());
        break;
      }
      any = true;
      c.lent.push_back(record.sequence);
      const uint64_t seed = c.seed_in + record.sequence;
      if (record.kind == Kind::fin) {
        c.fin_in = true;
        continue;
      }
      ++c.received;
      ++c.credit;
      bool good = false;
      if (record.kind == Kind::large) {
        LargeDescriptor d{};
        good = c.end.large_in().accept(record, d) && filled(theirs.base() + d.offset, d.length, seed);
      } else {
        good = filled(record.payload, record.length, seed);
      }
      if (!good) fail("changed bytes");
    }
    give_back(c, 6);
    return any;
  }

  void step(Channel& c) {
    const bool sent = send_some(c);
    if (receive_some(c) || sent) return; // stays active
    give_back(c, 0);
    if (!c.end.rx().park()) return;
    if (wants_to_send(c)) {
      const bool large = c.has_next && c.next_length > inline_limit(c.plan.capacity);
      const uint32_t most = std::min(c.next_length + 100, max_payload(c.plan.capacity));
      if (c.end.tx().want_space(!c.has_next ? 0 : large ? sizeof(LargeDescriptor) : most)) return;
      if (c.end.tx().fault()) fail(c.end.tx().fault());
    }
    c.active = false;
  }

  void control() {
    uint8_t message[kMaxControl];
    Random random{control_out};
    const uint32_t length = 1 + random.below(200);
    fill(message, length, control_out + me);
    if (remote.send_control(message, length)) {
      ++control_out;
      doorbell(remote.ring_control());
    }
  }
  void read_control() {
    uint8_t message[kMaxControl];
    while (const uint32_t got = remote.poll_control(message)) {
      Random random{control_in};
      if (got != 1 + random.below(200) || !filled(message, got, control_in + 1 - me)) return fail("a control message");
      ++control_in;
    }
  }

  void run() {
    until = Clock::now() + kTime;
    Random random{static_cast<uint64_t>(me)};
    while (!stop) {
      bool busy = false;
      bool done = true;
      for (Channel& c : channels) {
        if (c.active && !c.done()) step(c);
        busy = busy || (c.active && !c.done());
        done = done && c.done();
      }
      if (done) return;
      if (random.one_in(50)) control();
      if (!busy) {
        sleeper.announce();
        if (!remote.news()) {
          ++sleeps;
          pollfd p{eventfd_, POLLIN, 0};
          if (::poll(&p, 1, kAsleepForGood) != 1) fail("a peer sleeps for good: a wake-up was lost");
          uint64_t count = 0;
          if (read(eventfd_, &count, sizeof count) < 0 && !stop) fail("read of an eventfd");
        }
        sleeper.awake();
      }
      if (!remote.news()) continue;
      const uint32_t groups = remote.take_news();
      read_control();
      for (Channel& c : channels) {
        if (groups >> bell_group(c.end.offer().bell) & 1) c.active = true;
      }
    }
  }
};

Identity identity_of(uint32_t incarnation) {
  Identity identity;
  identity.incarnation = incarnation;
  identity.state = EntryState::joined;
  return identity;
}

void stress(const std::vector<Plan>& plans) {
  std::atomic<bool> stop{false};
  rig::Region region(uint64_t{4} << 20);
  Peer left(region, 0, stop);
  Peer right(region, 1, stop);
  Peer* peers[2] = {&left, &right};
  left.other_eventfd = right.eventfd_;
  right.other_eventfd = left.eventfd_;
  left.remote.arrive(identity_of(101));
  right.remote.arrive(identity_of(100));
  uint64_t stream = 1;
  for (const Plan& plan : plans) {
    const auto bell = static_cast<uint32_t>(stream * 7); // another group for each channel
    const auto tag = static_cast<uint32_t>(stream);
    for (int side = 0; side < 2; ++side) {
      const auto offer = End<A>::allocate(peers[side]->own, peers[side]->memory, plan.capacity, tag * 2 + side, bell + side);
      REQUIRE(offer.has_value());
      peers[side]->channels.emplace_back(End<A>(peers[side]->own, *offer, 0, 0), plan, side, stream);
    }
    ++stream;
    CHECK(left.channels.back().end.attach(right.own, right.channels.back().end.offer()));
    CHECK(right.channels.back().end.attach(left.own, left.channels.back().end.offer()));
  }
  std::thread thread([&] { right.run(); });
  left.run();
  thread.join();
  uint64_t messages = 0;
  for (size_t i = 0; i < plans.size(); ++i) {
    CHECK_EQ(left.channels[i].received, right.channels[i].sent);
    CHECK_EQ(right.channels[i].received, left.channels[i].sent);
    CHECK(left.channels[i].end.tx().fault() == nullptr && right.channels[i].end.tx().fault() == nullptr);
    messages += left.channels[i].received + right.channels[i].received;
  }
  for (Peer* peer : peers) { // all memory has come back
    for (Channel& c : peer->channels) c.end.free(peer->memory);
    CHECK_EQ(peer->memory.largest(), peer->memory.size());
  }
  printf("  %llu messages, %u + %u control messages, sleeps %llu + %llu, bells %llu + %llu, doorbells %llu + %llu\n",
         static_cast<unsigned long long>(messages), left.control_in, right.control_in,
         static_cast<unsigned long long>(left.sleeps), static_cast<unsigned long long>(right.sleeps),
         static_cast<unsigned long long>(left.bells), static_cast<unsigned long long>(right.bells),
         static_cast<unsigned long long>(left.doorbells), static_cast<unsigned long long>(right.doorbells));
  CHECK(messages > 1000);
}

constexpr Traffic kFlood = Traffic::flood;
constexpr Traffic kPingPong = Traffic::ping_pong;
constexpr Traffic kReceive = Traffic::receive;

} // namespace

TEST(ping_pong_sleeps_and_wakes) { stress({{16384, 300, {kPingPong, kPingPong}}}); }

TEST(a_small_ring_is_full_all_the_time) { stress({{4096, max_payload(4096) / 2, {kFlood, kReceive}}}); }

TEST(both_directions_at_once) { stress({{16384, inline_limit(16384), {kFlood, kFlood}}}); }

TEST(many_channels_of_every_kind) {
  stress({{4096, 1000, {kFlood, kPingPong}},
          {65536, 16384, {kFlood, kFlood}},
          {16384, 400000, {kFlood, kFlood}}, // mostly large: memory runs out
          {16384, 200, {kPingPong, kPingPong}},
          {4096, 60000, {kReceive, kFlood}}});
}
