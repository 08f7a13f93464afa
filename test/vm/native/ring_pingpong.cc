// Round trips of 64-byte messages in event mode between two guests over native/core and native/linux, without JavaScript:
// ring, park, bells, asleep, doorbell. What doorbell_floor.c does, plus what vmring does.
//
//   ring_pingpong ADDRESS format                 formats the region in plain mode
//   ring_pingpong ADDRESS pong ROUNDS            joins as section 1, says "ready", answers
//   ring_pingpong ADDRESS ping ROUNDS            joins as section 0; prints JSON with times in nanoseconds
//
// Exit code 0: all rounds done and every message right.
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/end.hpp"
#include "core/remote.hpp"
#include "linux/vfio.hpp"

namespace {

using namespace vmring;
using A = StdAtomics;

constexpr uint32_t kMessage = 64;
constexpr uint32_t kCapacity = 64 * 1024;
constexpr uint32_t kVector = 0;

[[noreturn]] void die(const std::string& why) {
  std::fprintf(stderr, "ring_pingpong: %s\n", why.c_str());
  std::exit(1);
}

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// One peer with one end: what the addon's engine does for many.
class Peer {
 public:
  Peer(const std::string& address, uint32_t me) : device_(VfioDevice::open(address)), memory_(device_->map_memory()) {
    if (read_geometry<A>(memory_.data(), memory_.size(), geometry_) != Header::ok) die("the region is not formatted");
    const uint32_t them = 1 - me;
    own_ = SectionView(memory_.data(), geometry_, me);
    const SectionView theirs(memory_.data(), geometry_, them);
    incarnation_ = static_cast<uint32_t>(now()) | 1u;
    heap_ = std::make_unique<SectionAllocator>(own_.heap_begin(), own_.size() - own_.heap_begin());
    sleeper_ = std::make_unique<Sleeper<A>>(own_.sleep_word(), incarnation_);
    remote_ = std::make_unique<Remote<A>>(own_, theirs, me, them, incarnation_);
    device_->arm(); // before anybody can know that we are here
    Identity identity;
    identity.uuid[0] = static_cast<uint8_t>(me + 1);
    identity.incarnation = incarnation_;
    identity.state = EntryState::joined;
    identity.peer_id = device_->position();
    identity.vector = kVector;
    identity.pid = static_cast<uint32_t>(getpid());
    write_identity<A>(own_.identity(), identity);
    const auto offer = End<A>::allocate(own_, *heap_, kCapacity, incarnation_, 1);
    if (!offer) die("no room for a ring");
    offer_ = *offer;
    end_ = std::make_unique<End<A>>(own_, offer_, 0, 0);
  }
  ~Peer() { write_identity_state<A>(own_.identity(), EntryState::leaving); }

  // Waits for the other side, exchanges ring offers over the control ring.
  void join() {
    Identity other;
    for (int i = 0; !read_identity<A>(remote_->view().identity(), other) || other.state != EntryState::joined; ++i) {
      if (i == 6000) die("the other side did not come");
      usleep(10'000);
    }
    remote_->arrive(other);
    if (!remote_->send_control(reinterpret_cast<const uint8_t*>(&offer_), sizeof offer_)) die("no room for control");
    if (remote_->ring_control()) doorbell();
    uint8_t message[kMaxControl];
    while (remote_->poll_control(message) == 0) wait(false);
    RingOffer theirs;
    std::memcpy(&theirs, message, sizeof theirs);
    if (!end_->attach(remote_->view(), theirs)) die("a bad ring offer");
    bell_ = theirs.bell;
    attached_ = true;
  }

  void send(const uint8_t* bytes) {
    if (end_->tx().send(bytes, kMessage, Kind::data, false) != Send::ok) die("the ring is full");
    if (!end_->tx().wake_needed()) return;
    if (remote_->ring_end(bell_)) doorbell();
    else ++suppressed_;
  }

  void receive(uint8_t* bytes) {
    Record record;
    for (;;) {
      const Poll result = end_->rx().poll(record);
      if (result == Poll::fault) die(end_->rx().fault());
      if (result == Poll::record) break;
      wait(true);
    }
    if (record.length != kMessage) die("a message of another length");
    A::read_bytes(bytes, record.payload, kMessage);
    end_->release(record.sequence);
    if (end_->rx().unpublished() < kCapacity / 8) return;
    end_->rx().publish_released();
    if (end_->rx().space_wake_needed() && remote_->ring_end(bell_)) doorbell();
  }

  uint64_t doorbells() const { return doorbells_; }
  uint64_t suppressed() const { return suppressed_; }
  uint64_t sleeps() const { return sleeps_; }
  uint64_t rescued() const { return rescued_; }

 private:
  void doorbell() {
    ++doorbells_;
    device_->ring(remote_->identity().peer_id, remote_->identity().vector);
  }

  // Announce at both levels, look again, sleep. A wake without news is harmless: the caller looks and comes back.
  void wait(bool ring) {
    if (ring && attached_ && !end_->rx().park()) return;
    sleeper_->announce();
    if (!remote_->news()) {
      ++sleeps_;
      pollfd one{device_->vector_fd(kVector), POLLIN, 0};
      const int woken = poll(&one, 1, 1000);
      uint64_t count = 0;
      if (woken == 1 && read(one.fd, &count, sizeof count) != sizeof count) die("eventfd");
      if (woken == 0 && ++rescued_ > 20) die("nothing heard for 20 s");
    }
    sleeper_->awake();
    remote_->take_news();
  }

  std::unique_ptr<VfioDevice> device_;
  Bar memory_;
  Geometry geometry_;
  SectionView own_;
  uint32_t incarnation_ = 0;
  std::unique_ptr<SectionAllocator> heap_;
  std::unique_ptr<Sleeper<A>> sleeper_;
  std::unique_ptr<Remote<A>> remote_;
  RingOffer offer_;
  std::unique_ptr<End<A>> end_;
  uint32_t bell_ = 0;
  bool attached_ = false;
  uint64_t doorbells_ = 0;
  uint64_t suppressed_ = 0;
  uint64_t sleeps_ = 0;
  uint64_t rescued_ = 0;
};

void pong(const std::string& address, int rounds) {
  Peer peer(address, 1);
  std::printf("ready\n");
  std::fflush(stdout);
  peer.join();
  uint8_t message[kMessage];
  for (int i = 0; i < rounds; ++i) {
    peer.receive(message);
    peer.send(message);
  }
}

void ping(const std::string& address, int rounds) {
  Peer peer(address, 0);
  peer.join();
  std::vector<int64_t> times;
  uint8_t out[kMessage], in[kMessage];
  for (int i = 0; i < rounds; ++i) {
    for (uint32_t k = 0; k < kMessage; ++k) out[k] = static_cast<uint8_t>(static_cast<uint32_t>(i) * 31 + k);
    const int64_t start = now();
    peer.send(out);
    peer.receive(in);
    times.push_back(now() - start);
    if (std::memcmp(out, in, kMessage) != 0) die("a message came back changed");
  }
  std::sort(times.begin(), times.end());
  const size_t n = times.size();
  std::printf("{\"rounds\":%d,\"p10\":%lld,\"p50\":%lld,\"p90\":%lld,\"doorbells\":%llu,\"suppressed\":%llu,\"sleeps\":%llu,"
              "\"rescued\":%llu}\n",
              rounds, static_cast<long long>(times[n / 10]), static_cast<long long>(times[n / 2]),
              static_cast<long long>(times[n * 9 / 10]), static_cast<unsigned long long>(peer.doorbells()),
              static_cast<unsigned long long>(peer.suppressed()), static_cast<unsigned long long>(peer.sleeps()),
              static_cast<unsigned long long>(peer.rescued()));
}

void format(const std::string& address) {
  const SysfsDevice device = SysfsDevice::open(address);
  const uint8_t uuid[16] = {1, 2, 3, 4};
  if (format_region<A>(device.memory.data(), device.memory.size(), 4, uuid, true, 0) != Header::ok) die("format");
}

} // namespace

int main(int argc, char** argv) {
  const std::string role = argc > 2 ? argv[2] : "";
  const int rounds = argc > 3 ? std::atoi(argv[3]) : 0;
  try {
    if (role == "format") format(argv[1]);
    else if (role == "ping" && rounds > 0) ping(argv[1], rounds);
    else if (role == "pong" && rounds > 0) pong(argv[1], rounds);
    else die("usage: ring_pingpong ADDRESS format|ping ROUNDS|pong ROUNDS");
  } catch (const DeviceError& error) {
    die(error.what());
  }
  return 0;
}
