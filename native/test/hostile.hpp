// Shared memory that cannot be trusted, for tests and fuzz targets: an access policy that checks the place of every access and
// counts it, both roles of a peer behind it, and lies for any word of a region. What happens next is decided by a source:
// random numbers (tests, the scribbler) or the bytes of an input (fuzz targets).
#pragma once

#include <cstdio>
#include <cstdlib>

#include "rig.hpp"

namespace hostile {

using namespace vmring;

// A formatted region, wherever it is mapped.
struct Memory {
  uint8_t* base;
  Geometry geometry;
  SectionView section(uint32_t index) const { return {base, geometry, index}; }
  SectionAllocator allocator() const { return {geometry.heap_begin(), geometry.section_size}; }
};

// An access outside the region, or too many of them. A test fails and gives up the round; a fuzz target and a process abort.
inline void (*violated)(const char* file, int line, const char* what) = [](const char* file, int line, const char* what) {
  fprintf(stderr, "%s:%d: %s\n", file, line, what);
  abort();
};

// The bounds of the region of this thread, and its accesses since the last reset.
inline thread_local const uint8_t* region_begin = nullptr;
inline thread_local uint64_t region_size = 0;
inline thread_local uint64_t accesses = 0;

struct Checked {
  static void check(const void* p, size_t length) {
    ++accesses;
    const auto at = reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(region_begin);
    if (at > region_size || length > region_size - at) {
      violated(__FILE__, __LINE__, "an access outside the region");
    }
  }
  template <Site S, class T>
  static T load_acquire(const T* p) {
    check(p, sizeof(T));
    return StdAtomics::load_acquire<S>(p);
  }
  template <class T>
  static T load_relaxed(const T* p) {
    check(p, sizeof(T));
    return StdAtomics::load_relaxed(p);
  }
  template <Site S, class T>
  static void store_release(T* p, T value) {
    check(p, sizeof(T));
    StdAtomics::store_release<S>(p, value);
  }
  template <class T>
  static void store_relaxed(T* p, T value) {
    check(p, sizeof(T));
    StdAtomics::store_relaxed(p, value);
  }
  template <Site S>
  static void full_fence() {
    StdAtomics::full_fence<S>();
  }
  template <Site S>
  static void acquire_fence() {
    StdAtomics::acquire_fence<S>();
  }
  template <Site S>
  static void release_fence() {
    StdAtomics::release_fence<S>();
  }
  template <Site S>
  static bool compare_swap(uint32_t* p, uint32_t expected, uint32_t desired) {
    check(p, sizeof *p);
    return StdAtomics::compare_swap<S>(p, expected, desired);
  }
  static void write_bytes(void* to, const void* from, size_t length) {
    check(to, length);
    StdAtomics::write_bytes(to, from, length);
  }
  static void read_bytes(void* to, const void* from, size_t length) {
    check(from, length);
    StdAtomics::read_bytes(to, from, length);
  }
  static void will_write(const void* p) {
    check(p, 1);
    --accesses; // nothing is read or written
  }
  static void will_read(const void* p) { will_write(p); }
  static void write_words(void* to, const void* from, size_t length) {
    check(to, length);
    StdAtomics::write_words(to, from, length);
  }
  static void read_words(void* to, const void* from, size_t length) {
    check(from, length);
    StdAtomics::read_words(to, from, length);
  }
};

inline constexpr uint32_t kCapacity = 4096;

// Runs one call of core and holds it to a number of accesses.
template <class Call>
auto bounded(uint64_t most, Call call) {
  accesses = 0;
  auto result = call();
  if (accesses > most) violated(__FILE__, __LINE__, "a call that looked at shared memory too often");
  return result;
}

// From here on accesses of this thread belong into that region.
inline const Memory& enter(const Memory& region) {
  region_begin = region.base;
  region_size = region.geometry.size;
  return region;
}

template <class Source>
uint32_t any_length(Source& source) {
  return source.below(source.one_in(4) ? max_payload(kCapacity) : 100);
}

// One of two peers with a channel between them.
struct Side {
  Side(const Memory& region, uint32_t index, uint32_t tag)
      : where(enter(region)), own(region.section(index)), memory(region.allocator()),
        offer(*End<Checked>::allocate(own, memory, kCapacity, tag, index)), end(own, offer, 0, 0),
        remote(own, region.section(1 - index), index, 1 - index, 100 + index), sleeper(own.sleep_word(), 100 + index) {
    Identity identity;
    identity.incarnation = 101 - index;
    identity.state = EntryState::joined;
    remote.arrive(identity);
  }
  Memory where;
  SectionView own;
  SectionAllocator memory;
  RingOffer offer;
  End<Checked> end;
  Remote<Checked> remote;
  Sleeper<Checked> sleeper;
  std::vector<Record> lent;
  uint64_t pushed = 0;
  uint64_t popped = 0;
  uint64_t told = 0; // control messages received
};

// One step of everything a peer does. False: a fault was reported, the channel is over.
template <class Source>
bool step(Side& side, Source& source) {
  enter(side.where);
  uint8_t* const begin = side.where.base;
  const Geometry& geometry = side.where.geometry;
  Producer<Checked>& tx = side.end.tx();
  Consumer<Checked>& rx = side.end.rx();
  switch (source.below(12)) {
    case 0:
    case 1: {
      const uint32_t length = any_length(source);
      if (source.below(2) == 0) { // copied: lines of the next records are asked for as well
        static const std::vector<uint8_t> bytes(kCapacity, 0x5a);
        if (bounded(5, [&] { return tx.send(bytes.data(), length, Kind::data, false); }) == Send::ok) ++side.pushed;
        break;
      }
      uint8_t* payload = nullptr;
      if (bounded(1, [&] { return tx.reserve(length, payload); }) != Send::ok) break;
      Checked::check(payload, length);
      memset(payload, static_cast<int>(source.below(256)), length);
      bounded(3, [&] { return tx.commit(source.below(length + 1), Kind::data, false); });
      ++side.pushed;
      break;
    }
    case 2: {
      const uint32_t length = 1 + any_length(source);
      const uint64_t offset = bounded(kLargeSlots, [&] { return side.end.large_out().allocate(side.memory, length); });
      LargeDescriptor d{};
      if (offset == 0) break;
      if (!side.end.large_out().describe(offset, length, d) ||
          tx.send(reinterpret_cast<uint8_t*>(&d), sizeof d, Kind::large, false) != Send::ok) {
        side.end.large_out().cancel(side.memory, offset);
      } else {
        side.end.large_out().sent(offset);
        ++side.pushed;
      }
      break;
    }
    case 3:
    case 4:
    case 5: {
      Record record{};
      if (bounded(2, [&] { return rx.poll(record); }) != Poll::record) break;
      ++side.popped;
      // what is lent stays as it is until it is given back, so nothing new may lie there
      for (const Record& old : side.lent) {
        if (record.payload < old.payload + old.length && old.payload < record.payload + record.length) {
          violated(__FILE__, __LINE__, "a record over one that is lent");
        }
      }
      side.lent.push_back(record);
      const uint8_t* data = side.end.remote().ring_data(side.end.remote_offer().ring_offset);
      if (record.payload < data || record.length > kCapacity - static_cast<uint64_t>(record.payload - data)) {
        violated(__FILE__, __LINE__, "a payload outside its ring");
      }
      uint32_t sum = 0;
      if (record.kind == Kind::large) {
        LargeDescriptor d{};
        if (!side.end.large_in().accept(record, d)) return false;
        Checked::check(side.end.remote().base() + d.offset, d.length);
        for (uint64_t i = 0; i < d.length; i += 64) sum += side.end.remote().base()[d.offset + i];
      } else {
        for (uint32_t i = 0; i < record.length; ++i) sum += record.payload[i];
      }
      asm volatile("" ::"r"(sum)); // the bytes may be anything; reading them is what must work
      break;
    }
    case 6:
      while (!side.lent.empty() && source.below(16) != 0) {
        const size_t k = source.below(static_cast<uint32_t>(side.lent.size()));
        if (!bounded(1, [&] { return side.end.release(side.lent[k].sequence); })) {
          violated(__FILE__, __LINE__, "a record that was lent cannot be given back");
        }
        side.lent.erase(side.lent.begin() + static_cast<long>(k));
      }
      rx.publish_released();
      break;
    case 7:
      bounded(2, [&] { return tx.wake_needed(); });
      bounded(2, [&] { return rx.space_wake_needed(); });
      break;
    case 8:
      bounded(4, [&] { return tx.want_space(any_length(source)); });
      bounded(2, [&] { return rx.park(); });
      break;
    case 9:
      bounded(2 + 2 * kCapacity / 8, [&] {
        return tx.pending([](const Record& record) { Checked::check(record.payload, record.length); });
      });
      bounded(2, [&] { return tx.remote_next() + tx.remote_released(); });
      break;
    case 10: {
      uint8_t bytes[kMaxControl] = {};
      bounded(2 + kControlSlots, [&] { return side.remote.send_control(bytes, 1 + source.below(kMaxControl)); });
      side.told += bounded(3 + 2 * kControlSlots, [&] { return side.remote.poll_control(bytes); }) > 0;
      break;
    }
    default:
      bounded(4, [&] { return side.remote.ring_end(source.below(100)); });
      side.sleeper.announce();
      bounded(1, [&] { return side.remote.news(); });
      bounded(kBellWords, [&] { return side.remote.take_news(); });
      side.sleeper.awake();
      Identity identity;
      bounded(8, [&] { return read_identity<Checked>(side.remote.view().identity(), identity); });
      Entry entry;
      const uint64_t at = geometry.entry_at(source.below(geometry.sections));
      bounded(64 * 6, [&] { return read_entry<Checked>(reinterpret_cast<const EntryBlock*>(begin + at), entry); });
      Geometry g;
      bounded(2, [&] { return read_geometry<Checked>(begin, geometry.size, g); });
  }
  return tx.fault() == nullptr && rx.fault() == nullptr;
}

// Traffic: one side sends a few messages, the other takes what is there and gives it back, until nothing moves. As step.
template <class Source>
bool burst(Side& from, Side& to, Source& source) {
  enter(from.where);
  Producer<Checked>& tx = from.end.tx();
  Consumer<Checked>& rx = to.end.rx();
  const uint32_t length = any_length(source);
  const uint32_t each = 1 + source.below(16);
  for (uint32_t turns = 1 + source.below(16); turns > 0; --turns) {
    const uint64_t before = from.pushed + to.popped;
    uint8_t* payload = nullptr;
    for (uint32_t i = 0; i < each && bounded(1, [&] { return tx.reserve(length, payload); }) == Send::ok; ++i) {
      Checked::check(payload, length);
      bounded(3, [&] { return tx.commit(length, Kind::data, false); });
      ++from.pushed;
    }
    Record record{};
    while (bounded(2, [&] { return rx.poll(record); }) == Poll::record) {
      ++to.popped;
      LargeDescriptor d{};
      if (record.kind == Kind::large && !to.end.large_in().accept(record, d)) return false;
      if (record.kind == Kind::large) Checked::check(to.end.remote().base() + d.offset, d.length);
      Checked::check(record.payload, record.length);
      if (!bounded(1, [&] { return to.end.release(record.sequence); })) {
        violated(__FILE__, __LINE__, "a record that was lent cannot be given back");
      }
    }
    rx.publish_released();
    if (tx.fault() != nullptr || rx.fault() != nullptr) return false;
    if (from.pushed + to.popped == before) break;
  }
  return true;
}

} // namespace hostile
