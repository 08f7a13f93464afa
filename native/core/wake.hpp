// Waking a whole peer: bells say which group of channel ends has news, `asleep` says whether a doorbell is needed.
//
// Two levels, both "announce, full fence, look again" against "publish, full fence, look at the announcement":
//   ring level   Consumer::park / Producer::wake_needed and Producer::want_space / Consumer::space_wake_needed
//   peer level   Sleeper::announce + BellReader::changed / BellWriter::ring + doorbell_needed
// Release and acquire alone are wrong at both, on x86 too: a store may become visible after a later load of the same
// processor, so that both sides look before either has been seen.
#pragma once

#include "layout.hpp"
#include "atomics.hpp"

namespace vmring {

inline constexpr uint32_t kBellWords = 1 + kBellGroups;

// The line in my section with which I ring one other peer.
template <class A>
class BellWriter {
 public:
  explicit BellWriter(uint32_t* line) : line_(line) {
    // Goes on from what stands there: readers compare with their last look, so a restart must not repeat a value.
    for (uint32_t i = 0; i < kBellWords; ++i) count_[i] = A::load_relaxed(line_ + i);
  }

  // `word` = bell_group(bell), or 0 for news that concern no end (control messages).
  void ring(uint32_t word) {
    if (word != 0) A::store_relaxed(line_ + word, ++count_[word]);
    // SYNC: the group's count, and the record that the bell is about, are visible with the total; pairs with
    // BellReader::changed.
    A::template store_release<Site::ring_bell>(line_, ++count_[0]);
  }

  // After ring(): is the other side asleep, so that it needs a doorbell? `sleep_word` lies in its section. Once for each
  // of its naps: whoever has been rung looks at every bell before the next one.
  bool doorbell_needed(const uint64_t* sleep_word, uint32_t incarnation) {
    // SYNC: ring, full fence, look at the announcement; pairs with fence_sleep in Sleeper::announce.
    A::template full_fence<Site::fence_bell>();
    const uint64_t nap = A::load_relaxed(sleep_word);
    if (tag_of(nap) != incarnation || value_of(nap) == 0 || nap == rung_) return false;
    rung_ = nap;
    return true;
  }

 private:
  uint32_t* line_;
  uint64_t rung_ = 0; // the nap that was ended last, with the incarnation that took it
  uint32_t count_[kBellWords];
};

// My view of the line with which one other peer rings me.
template <class A>
class BellReader {
 public:
  explicit BellReader(const uint32_t* line) : line_(line) {
    for (uint32_t i = 0; i < kBellWords; ++i) seen_[i] = A::load_relaxed(line_ + i);
    seen_[0] -= 1; // looks once at everything
  }
  // The same line under a new owner.
  void restart() { *this = BellReader(line_); }

  // One load: has anything been rung since take()?
  bool changed() const { return A::template load_acquire<Site::read_bell>(line_) != seen_[0]; }

  // Bit g set: group word g has been rung since the last take(). Bit 0: look at the control ring. Never loops.
  uint32_t take() {
    seen_[0] = A::template load_acquire<Site::read_bell>(line_);
    uint32_t groups = 1;
    for (uint32_t i = 1; i < kBellWords; ++i) {
      const uint32_t now = A::load_relaxed(line_ + i);
      if (now != seen_[i]) groups |= 1u << i;
      seen_[i] = now;
    }
    return groups;
  }

 private:
  const uint32_t* line_;
  uint32_t seen_[kBellWords];
};

// My own `asleep` word: 0 while awake, else the number of the nap.
template <class A>
class Sleeper {
 public:
  Sleeper(uint64_t* word, uint32_t incarnation) : word_(word), incarnation_(incarnation) { awake(); }

  // Before sleeping. The caller then looks at every BellReader::changed() once, and sleeps only if none says yes.
  void announce() {
    if (++nap_ == 0) nap_ = 1;
    A::store_relaxed(word_, tagged(incarnation_, nap_));
    // SYNC: announce, full fence, look at every bell; pairs with fence_bell in BellWriter::doorbell_needed.
    A::template full_fence<Site::fence_sleep>();
  }
  void awake() { A::store_relaxed(word_, tagged(incarnation_, 0)); }

 private:
  uint64_t* word_;
  uint32_t incarnation_;
  uint32_t nap_ = 0;
};

} // namespace vmring
