// A peer that is stopped (SIGSTOP, a paused guest) at any labelled point of the protocol never blocks another.
//
// One process per peer over one shared mapping. B runs core with a policy that stops its own process at one Site, before or
// behind the access; A then goes on with C, and with what it can do towards B, in bounded work; after SIGCONT everything that
// was sent either way arrives, in order. Every Site that B reaches is tried, at its first and at a later visit.
#include <sys/prctl.h>
#include <sys/wait.h>

#include "check.hpp"
#include "rig.hpp"

using namespace vmring;

namespace {

constexpr uint32_t kSites = static_cast<uint32_t>(Site::claim_entry) + 1;
constexpr uint32_t kCapacity = 4096;
constexpr uint32_t kRecords = 400;   // each way between A and B
constexpr uint32_t kControls = 60;   // likewise
constexpr uint32_t kRoundsAlone = 3000; // that A makes while B is stopped
constexpr uint64_t kRegion = 1 << 21;

// What both processes know without asking: it is not part of what is tested.
struct Shared {
  uint32_t visits[kSites];
  RingOffer offers[3][3]; // [of][towards]
  uint32_t done;
};

Shared* shared = nullptr;

// Real atomics that stop the process at one visit of one Site.
struct StopAtomics : StdAtomics {
  static inline Site site{};
  static inline uint32_t visit = 0; // 0: never
  static inline bool behind = false;

  template <Site S>
  static void at(bool after) {
    uint32_t& count = shared->visits[static_cast<uint32_t>(S)];
    if (!after) ++count;
    if (S == site && count == visit && after == behind) kill(getpid(), SIGSTOP);
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

uint32_t incarnation(uint32_t peer) { return 1000 + peer; }

// One side of one conversation: does a little of everything in each turn, and never waits.
template <class P>
class Side {
 public:
  Side(const Region& region, uint32_t me, uint32_t them, SectionAllocator& memory)
      : region_(region), me_(me), them_(them), memory_(memory),
        remote_(region.section(me), region.section(them), me, them, incarnation(me)),
        end_(region.section(me), shared->offers[me][them], 0, 0) {
    Identity identity;
    identity.incarnation = incarnation(them);
    remote_.arrive(identity);
    REQUIRE(end_.attach(region.section(them), shared->offers[them][me]));
  }

  void turn() {
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
      if (large_ == 0) large_ = end_.large_out().allocate(memory_, 1000);
      LargeDescriptor descriptor;
      if (large_ == 0) return;
      if (!end_.large_out().describe(large_, 1000, descriptor)) return;
      const auto* raw = reinterpret_cast<const uint8_t*>(&descriptor);
      if (end_.tx().send(raw, sizeof descriptor, Kind::large, false) != Send::ok) return;
      end_.large_out().sent(large_);
      large_ = 0;
    } else {
      uint8_t bytes[300];
      memset(bytes, static_cast<int>(sent_ & 255), sizeof bytes);
      if (end_.tx().send(bytes, sent_ % sizeof bytes, Kind::data, false) != Send::ok) {
        end_.tx().want_space(sizeof bytes);
        return;
      }
    }
    ++sent_;
    if (end_.tx().wake_needed()) remote_.ring_end(end_.remote_offer().bell);
  }

  void receive() {
    Record record{};
    const Poll poll = end_.rx().poll(record);
    CHECK(poll != Poll::fault);
    if (poll != Poll::record) {
      end_.rx().publish_released();
      if (end_.rx().space_wake_needed()) remote_.ring_end(end_.remote_offer().bell);
      end_.rx().park();
      return;
    }
    CHECK(record.sequence == received_);
    LargeDescriptor descriptor;
    if (record.kind == Kind::large) {
      CHECK(end_.large_in().accept(record, descriptor));
    } else {
      CHECK(record.length == received_ % 300);
      if (record.length != 0) CHECK(record.payload[0] == (received_ & 255));
    }
    ++received_;
    end_.release(record.sequence);
  }

  const Region& region_;
  uint32_t me_;
  uint32_t them_;
  SectionAllocator& memory_;
  Remote<P> remote_;
  End<P> end_;
  uint64_t large_ = 0;
  uint32_t sent_ = 0;
  uint32_t received_ = 0;
  uint32_t controls_sent_ = 0;
  uint32_t controls_received_ = 0;
};

struct World {
  World() {
    void* all = mmap(nullptr, kRegion + kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(all != MAP_FAILED);
    region.base = static_cast<uint8_t*>(all);
    shared = reinterpret_cast<Shared*>(region.base + kRegion);
    static_assert(sizeof(Shared) <= kPage);
    const uint8_t uuid[16] = {1};
    REQUIRE(format_region<StdAtomics>(region.base, kRegion, 3, uuid, true, 0) == Header::ok);
    REQUIRE(read_geometry<StdAtomics>(region.base, kRegion, region.geometry) == Header::ok);
    for (uint32_t of = 0; of < 3; ++of) {
      memory.emplace_back(region.geometry.heap_begin(), region.geometry.section_size);
      for (uint32_t towards = 0; towards < 3; ++towards) {
        if (of == towards) continue;
        const auto offer = End<StdAtomics>::allocate(region.section(of), memory[of], kCapacity, 7 + of * 3 + towards, towards);
        REQUIRE(offer.has_value());
        shared->offers[of][towards] = *offer;
      }
    }
  }
  ~World() { munmap(region.base, kRegion + kPage); }

  Region region;
  std::vector<SectionAllocator> memory;
};

// The whole life of B: arrives, talks, sleeps and wakes between, and goes when everything has come and gone.
int life_of_b(World& world) {
  using P = StopAtomics;
  auto* entry = reinterpret_cast<EntryBlock*>(world.region.base + world.region.geometry.entry_at(1));
  if (!claim_entry<P>(entry, incarnation(1), false)) return 2;
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

// One run: B stops at that place. True when B came there at all.
bool run(Site site, uint32_t visit, bool behind, uint32_t* visits) {
  World world;
  StopAtomics::site = site;
  StopAtomics::visit = visit;
  StopAtomics::behind = behind;
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); // a stopped process would outlive a test that failed
    try {
      _exit(life_of_b(world));
    } catch (...) {
      _exit(4);
    }
  }

  Side<StdAtomics> with_b(world.region, 0, 1, world.memory[0]);
  bool stopped = false;
  bool ended = false;
  int status = 0;
  const auto look = [&] {
    int now = 0;
    if (ended || waitpid(child, &now, WNOHANG | WUNTRACED) != child) return;
    if (WIFSTOPPED(now)) {
      stopped = true;
    } else {
      ended = true;
      status = now;
    }
  };
  while (!stopped && !ended) {
    with_b.turn();
    look();
  }
  if (stopped) {
    // B stands still. A whole conversation with C, and every turn towards B returns.
    Side<StdAtomics> with_c(world.region, 0, 2, world.memory[0]);
    Side<StdAtomics> c(world.region, 2, 0, world.memory[2]);
    for (uint32_t i = 0; i < kRoundsAlone; ++i) {
      with_b.turn();
      with_c.turn();
      c.turn();
    }
    CHECK(with_c.all_sent() && with_c.all_received() && c.all_sent() && c.all_received());
    kill(child, SIGCONT);
    while (!ended) {
      with_b.turn();
      look();
    }
  }
  // What B sent last may still be here.
  for (uint32_t i = 0; i < kRoundsAlone && !(with_b.all_sent() && with_b.all_received()); ++i) with_b.turn();
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK(shared->done == 1 && with_b.all_sent() && with_b.all_received());
  if (visits) memcpy(visits, shared->visits, sizeof shared->visits);
  return stopped;
}

} // namespace

TEST(a_peer_stopped_at_any_labelled_point_blocks_nobody) {
  uint32_t visits[kSites] = {};
  REQUIRE(!run(Site::publish_record, 0, false, visits)); // counts only
  uint32_t places = 0;
  uint32_t sites = 0;
  for (uint32_t s = 0; s < kSites; ++s) {
    if (visits[s] == 0) continue;
    ++sites;
    for (const bool behind : {false, true}) {
      for (const uint32_t visit : {1u, visits[s] < 30 ? visits[s] : 30u}) {
        if (check::failures != 0) {
          printf("  at site %u\n", s);
          return;
        }
        // How often B comes by depends on the timing; the first visit always happens.
        const bool stopped = run(static_cast<Site>(s), visit, behind, nullptr);
        places += stopped ? 1 : 0;
        if (visit == 1) CHECK(stopped);
      }
    }
  }
  printf("  stopped at %u places of %u sites\n", places, sites);
  CHECK(sites >= 20); // publish_magic and read_magic belong to the one who formats
}
