// One life of a peer, for the tests that stop and kill it: two processes over one shared mapping, A who lives and B to whom
// something happens at a labelled access (Site). Everything is checked as it comes: whole records, in order, no gap.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.hpp"
#include "rig.hpp"

namespace life {

using namespace vmring;

inline constexpr uint32_t kSites = static_cast<uint32_t>(Site::agree_format) + 1; // agree_format is the last one
inline constexpr uint32_t kCapacity = 4096;
inline constexpr uint32_t kRecords = 400;   // each way between A and B
inline constexpr uint32_t kControls = 60;   // likewise
inline constexpr uint32_t kRoundsAlone = 3000; // that A makes while B is stopped
inline constexpr uint64_t kRegion = 1 << 21;
inline constexpr uint64_t kPlain = kMinRegion; // a second region, which B formats

// What both processes know without asking: it is not part of what is tested.
struct Shared {
  uint32_t visits[kSites];
  RingOffer offers[3][3]; // [of][towards]
  uint32_t incarnations[3];
  uint32_t prepared[3][3]; // incarnation of the one who is
  uint32_t done;
};

inline Shared* shared = nullptr;

// Real atomics that send the own process a signal at one visit of one Site, before or behind the access.
struct FatalAtomics : StdAtomics {
  static inline Site site{};
  static inline uint32_t visit = 0; // 0: never
  static inline bool behind = false;
  static inline int signal = SIGSTOP;

  template <Site S>
  static void at(bool after) {
    uint32_t& count = shared->visits[static_cast<uint32_t>(S)];
    if (!after) ++count;
    if (S == site && count == visit && after == behind) kill(getpid(), signal);
  }
  template <Site S, class T>
  static T load_acquire(const T* p) {
    at<S>(false);
    const T value = StdAtomics::load_acquire<S>(p);
    at<S>(true);
    return value;
  }
  template <Site S, class T>
  static void store_release(T* p, T value) {
    at<S>(false);
    StdAtomics::store_release<S>(p, value);
    at<S>(true);
  }
  template <Site S>
  static void full_fence() {
    at<S>(false);
    StdAtomics::full_fence<S>();
    at<S>(true);
  }
  template <Site S>
  static void acquire_fence() {
    at<S>(false);
    StdAtomics::acquire_fence<S>();
    at<S>(true);
  }
  template <Site S>
  static void release_fence() {
    at<S>(false);
    StdAtomics::release_fence<S>();
    at<S>(true);
  }
  template <Site S>
  static bool compare_swap(uint32_t* p, uint32_t expected, uint32_t desired) {
    at<S>(false);
    const bool swapped = StdAtomics::compare_swap<S>(p, expected, desired);
    at<S>(true);
    return swapped;
  }
};

struct Region {
  uint8_t* base;
  Geometry geometry;
  SectionView section(uint32_t i) const { return {base, geometry, i}; }
};

inline uint32_t incarnation(uint32_t peer) { return shared->incarnations[peer]; }

// One side of one conversation: does a little of everything in each turn, and never waits.
template <class P>
class Side {
 public:
  Side(const Region& region, uint32_t me, uint32_t them, SectionAllocator& memory)
      : region_(region), me_(me), them_(them), memory_(memory),
        remote_(region.section(me), region.section(them), me, them, incarnation(me)) {
    meet();
  }

  // Whoever is there now: prepares the own half of the channel. The other half is joined once it is prepared too, which OPEN
  // and ACCEPT would say.
  void meet() {
    Identity identity;
    identity.incarnation = incarnation(them_);
    remote_.arrive(identity);
    end_.emplace(region_.section(me_), shared->offers[me_][them_], 0, 0);
    attached_ = false;
    large_ = 0;
    sent_ = received_ = controls_sent_ = controls_received_ = 0;
    std::atomic_ref<uint32_t>(shared->prepared[me_][them_]).store(incarnation(me_));
  }

  void turn() {
    if (!attached_) {
      if (std::atomic_ref<uint32_t>(shared->prepared[them_][me_]).load() != incarnation(them_)) return;
      REQUIRE(end_->attach(region_.section(them_), shared->offers[them_][me_]));
      attached_ = true;
    }
    Entry entry;
    Identity identity;
    read_entry<P>(reinterpret_cast<EntryBlock*>(region_.base + region_.geometry.entry_at(them_)), entry);
    read_identity<P>(region_.section(them_).identity(), identity);
    control();
    send();
    receive();
  }
  bool all_sent() const { return sent_ == kRecords && controls_sent_ == kControls; }
  bool all_received() const { return received_ == kRecords && controls_received_ == kControls; }
  uint32_t received() const { return received_; }
  // The other process is gone: what it will never read is free again.
  void free() {
    remote_.leave();
    end_->free(memory_);
    large_ = 0;
  }

 private:
  void control() {
    uint8_t bytes[kMaxControl] = {};
    if (controls_sent_ < kControls) {
      memcpy(bytes, &controls_sent_, 4);
      if (remote_.send_control(bytes, 4 + controls_sent_ % 200)) {
        ++controls_sent_;
        remote_.ring_control();
      }
    }
    if (remote_.news()) remote_.take_news();
    const uint32_t length = remote_.poll_control(bytes);
    if (length == 0) return;
    CHECK(memcmp(bytes, &controls_received_, 4) == 0 && length == 4 + controls_received_ % 200);
    ++controls_received_;
  }

  void send() {
    if (sent_ == kRecords) return;
    if (sent_ % 50 == 49) {
      if (large_ == 0) large_ = end_->large_out().allocate(memory_, 1000);
      LargeDescriptor descriptor;
      if (large_ == 0) return;
      if (!end_->large_out().describe(large_, 1000, descriptor)) return;
      const auto* raw = reinterpret_cast<const uint8_t*>(&descriptor);
      if (end_->tx().send(raw, sizeof descriptor, Kind::large, false) != Send::ok) return;
      end_->large_out().sent(large_);
      large_ = 0;
    } else {
      uint8_t bytes[300];
      memset(bytes, static_cast<int>(sent_ & 255), sizeof bytes);
      if (end_->tx().send(bytes, sent_ % sizeof bytes, Kind::data, false) != Send::ok) {
        end_->tx().want_space(sizeof bytes);
        return;
      }
    }
    ++sent_;
    if (end_->tx().wake_needed()) remote_.ring_end(end_->remote_offer().bell);
  }

  void receive() {
    Record record{};
    const Poll poll = end_->rx().poll(record);
    CHECK(poll != Poll::fault);
    if (poll != Poll::record) {
      end_->rx().publish_released();
      if (end_->rx().space_wake_needed()) remote_.ring_end(end_->remote_offer().bell);
      end_->rx().park();
      return;
    }
    CHECK(record.sequence == received_);
    LargeDescriptor descriptor;
    if (record.kind == Kind::large) {
      CHECK(end_->large_in().accept(record, descriptor));
    } else {
      CHECK(record.length == received_ % 300);
      if (record.length != 0) CHECK(record.payload[0] == (received_ & 255));
    }
    ++received_;
    end_->release(record.sequence);
  }

  const Region& region_;
  uint32_t me_;
  uint32_t them_;
  SectionAllocator& memory_;
  Remote<P> remote_;
  std::optional<End<P>> end_;
  bool attached_ = false;
  uint64_t large_ = 0;
  uint32_t sent_ = 0;
  uint32_t received_ = 0;
  uint32_t controls_sent_ = 0;
  uint32_t controls_received_ = 0;
};

struct World {
  World() {
    void* all = mmap(nullptr, kRegion + kPlain + kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(all != MAP_FAILED);
    region.base = static_cast<uint8_t*>(all);
    shared = reinterpret_cast<Shared*>(region.base + kRegion + kPlain);
    static_assert(sizeof(Shared) <= kPage);
    const uint8_t uuid[16] = {1};
    REQUIRE(format_region<StdAtomics>(region.base, kRegion, 3, uuid, true, 0) == Header::ok);
    REQUIRE(read_geometry<StdAtomics>(region.base, kRegion, region.geometry) == Header::ok);
    for (uint32_t of = 0; of < 3; ++of) {
      memory.emplace_back(region.geometry.heap_begin(), region.geometry.section_size);
      shared->incarnations[of] = 1000 + of;
      for (uint32_t towards = 0; towards < 3; ++towards) {
        if (of != towards) offer(of, towards, 7 + of * 3 + towards);
      }
    }
  }
  void offer(uint32_t of, uint32_t towards, uint32_t tag) {
    const auto made = End<StdAtomics>::allocate(region.section(of), memory[of], kCapacity, tag, towards);
    REQUIRE(made.has_value());
    shared->offers[of][towards] = *made;
  }
  // Another process takes B's section: nothing in it is erased, nothing of it is believed.
  void next_b() {
    memory[1] = SectionAllocator(region.geometry.heap_begin(), region.geometry.section_size);
    shared->incarnations[1] += 1000;
    offer(1, 0, shared->offers[1][0].tag + 100);
    offer(0, 1, shared->offers[0][1].tag + 100);
  }
  uint8_t* plain() const { return region.base + kRegion; }
  ~World() { munmap(region.base, kRegion + kPlain + kPage); }

  Region region;
  std::vector<SectionAllocator> memory;
};

// The whole life of B: formats a region beside the one that matters, arrives, talks, sleeps and wakes between, and goes when everything has come and gone.
inline int life_of_b(World& world) {
  using P = FatalAtomics;
  const uint8_t uuid[16] = {2};
  Geometry plain;
  if (format_together<P>(world.plain(), kPlain, 2, uuid) != Header::ok) return 5;
  if (read_geometry<P>(world.plain(), kPlain, plain) != Header::ok) return 6;
  auto* entry = reinterpret_cast<EntryBlock*>(world.region.base + world.region.geometry.entry_at(1));
  if (!claim_entry<P>(entry, incarnation(1), true)) return 2;
  write_entry<P>(entry, {EntryState::joined, 1, 1, 1});
  Identity identity;
  identity.incarnation = incarnation(1);
  identity.state = EntryState::joined;
  write_identity<P>(world.region.section(1).identity(), identity);
  Sleeper<P> sleeper(world.region.section(1).sleep_word(), incarnation(1));
  Side<P> side(world.region, 1, 0, world.memory[1]);
  while (!side.all_sent() || !side.all_received()) {
    if (check::failures != 0) return 3;
    sleeper.announce();
    sleeper.awake();
    side.turn();
  }
  std::atomic_ref<uint32_t>(shared->done).store(1);
  return 0;
}

// B as a process of its own. A stopped process would outlive a test that failed, hence the parent's death signal.
inline pid_t start_b(World& world) {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    try {
      _exit(life_of_b(world));
    } catch (...) {
      _exit(4);
    }
  }
  return child;
}

} // namespace life
