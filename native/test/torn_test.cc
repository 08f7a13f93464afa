// Bytes that somebody else changes while they are copied: each word of the copy is one that was in memory at some moment of
// the copying, and what is checked in the copy holds for the copy. The same for texts, JSON and clones: test/hostile/torn.mjs.
//   VMRING_TORN_ATTEMPTS=100000000 torn_test      as many copies and as many descriptors
#include "check.hpp"
#include "rig.hpp"

using namespace vmring;
using rig::A;

#if defined(__SANITIZE_THREAD__)
// The copies race on purpose.
static const int not_run = printf("not run under TSan: copies that somebody changes\n");
TEST(nothing_to_do_here) { CHECK(true); }
#else

namespace {

struct Attempts {
  uint64_t left = [] {
    const char* text = getenv("VMRING_TORN_ATTEMPTS");
    return text ? strtoull(text, nullptr, 10) : 0;
  }();
  std::chrono::steady_clock::time_point until = std::chrono::steady_clock::now() + std::chrono::milliseconds(1000);
  uint64_t made = 0;
  uint64_t torn = 0;
  // `met`: what the test is about has happened. Where others want the processor the writer may not run at all for a second.
  bool more(bool met) {
    ++made;
    const bool enough = left != 0 ? made > left : made % 1024 == 0 && std::chrono::steady_clock::now() >= until;
    return !enough || (!met && made < left + (1u << 30));
  }
};

// Runs `write(version)` for 1, 2, 3 … on another thread, and says which versions can be in memory.
class Writer {
 public:
  template <class Write>
  explicit Writer(Write write) : thread_([this, write] {
    for (uint64_t version = 1; !stop_; ++version) {
      begun_.store(version, std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_release);
      write(version);
      done_.store(version, std::memory_order_release);
    }
  }) {
    while (done() == 0) std::this_thread::yield();
  }
  ~Writer() {
    stop_ = true;
    thread_.join();
  }
  uint64_t done() const { return done_.load(std::memory_order_acquire); }
  uint64_t begun() const {
    std::atomic_thread_fence(std::memory_order_acquire);
    return begun_.load(std::memory_order_relaxed);
  }

 private:
  alignas(kLine) std::atomic<uint64_t> begun_{0};
  alignas(kLine) std::atomic<uint64_t> done_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

} // namespace

TEST(copies_hold_what_was_there_at_some_moment) {
  constexpr size_t kWords = 64;
  const rig::Guarded memory(kWords * 8);
  auto* const words = reinterpret_cast<uint64_t*>(memory.base());
  Writer writer([&](uint64_t version) {
    for (size_t i = 0; i < kWords; ++i) A::store_relaxed(&words[i], version);
  });
  rig::Random random{5};
  Attempts attempts;
  while (attempts.more(attempts.torn > 0) && check::failures == 0) {
    const size_t count = 1 + random.below(kWords);
    uint64_t copy[kWords];
    const uint64_t first = writer.done();
    A::read_bytes(copy, words, count * 8);
    const uint64_t last = writer.begun();
    bool mixed = false;
    for (size_t i = 0; i < count; ++i) {
      if (copy[i] < first || copy[i] > last) check::fail(__FILE__, __LINE__, "a word that was not there");
      mixed = mixed || copy[i] != copy[0];
    }
    attempts.torn += mixed;
  }
  printf("  {\"kind\":\"copy\",\"attempts\":%llu,\"changed\":%llu}\n", static_cast<unsigned long long>(attempts.made),
         static_cast<unsigned long long>(attempts.torn));
  CHECK(attempts.torn > 0);
}

TEST(a_descriptor_that_was_accepted_stays_inside_whatever_stands_there_now) {
  rig::Region region;
  const SectionView own = region.section(0);
  const SectionView theirs = region.section(1);
  SectionAllocator memory = region.allocator();
  auto* const block = own.reader_block(memory.allocate(sizeof(ReaderBlock)));
  auto* const words = reinterpret_cast<uint64_t*>(theirs.base() + theirs.heap_begin());
  LargeInbox<A> inbox;
  inbox.attach(block, 7, theirs.heap_begin(), theirs.size());
  // good and bad ones in turns; a mixture of both may be either
  Writer writer([&](uint64_t version) {
    const bool good = version % 2 == 0;
    A::store_relaxed(&words[0], good ? theirs.heap_begin() : theirs.size() - 8);
    A::store_relaxed(&words[1], good ? theirs.size() - theirs.heap_begin() : uint64_t{16});
    A::store_relaxed(&words[2], good ? uint64_t{3} : uint64_t{kLargeSlots} + version);
  });
  Attempts attempts;
  const Record record{Kind::large, false, sizeof(LargeDescriptor), 1, reinterpret_cast<const uint8_t*>(words)};
  uint64_t accepted = 0;
  while (attempts.more(accepted > 0 && attempts.torn > 0) && check::failures == 0) {
    LargeDescriptor d{};
    if (!inbox.accept(record, d)) {
      ++attempts.torn;
      continue;
    }
    ++accepted;
    const bool inside = d.offset >= theirs.heap_begin() && d.length <= theirs.size() && d.offset <= theirs.size() - d.length;
    if (!inside || d.slot >= kLargeSlots) check::fail(__FILE__, __LINE__, "accepted, and outside the section");
    inbox.release(1);
  }
  printf("  {\"kind\":\"descriptor\",\"attempts\":%llu,\"accepted\":%llu}\n", static_cast<unsigned long long>(attempts.made),
         static_cast<unsigned long long>(accepted));
  CHECK(accepted > 0 && attempts.torn > 0);
}
#endif
