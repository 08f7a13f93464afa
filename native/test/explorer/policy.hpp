// The memory policy that runs core inside the explorer: the interface of StdAtomics (core/atomics.hpp).
//
// One Site may be weakened: a full fence or a release fence becomes nothing, a release store becomes relaxed. Acquire
// loads and acquire fences are already as strong as the model knows (see engine.hpp).
#pragma once

#include "core/atomics.hpp"
#include "explorer/engine.hpp"

namespace explorer {

struct ExplorerAtomics {
  template <Site, class T>
  static T load_acquire(const T* p) {
    return load_relaxed(p);
  }
  template <class T>
  static T load_relaxed(const T* p) {
    T value;
    engine().load(p, &value, sizeof value);
    return value;
  }
  template <Site site, class T>
  static void store_release(T* p, T value) {
    engine().store(p, &value, sizeof value, !engine().weakened(site));
  }
  template <class T>
  static void store_relaxed(T* p, T value) {
    engine().store(p, &value, sizeof value, false);
  }
  template <Site site>
  static void full_fence() {
    if (!engine().weakened(site)) engine().full_fence();
  }
  template <Site>
  static void acquire_fence() {}
  template <Site site>
  static void release_fence() {
    if (!engine().weakened(site)) engine().release_fence();
  }
  template <Site>
  static bool compare_swap(uint32_t* p, uint32_t expected, uint32_t desired) {
    return engine().compare_swap(p, expected, desired);
  }
  static void will_write(const void*) {}
  static void will_read(const void*) {}
  // In pieces that end at multiples of the grain, each an access of its own.
  static void write_bytes(void* shared, const void* from, size_t length) {
    auto* to = static_cast<uint8_t*>(shared);
    auto* bytes = static_cast<const uint8_t*>(from);
    pieces(to, length, [&](size_t at, size_t part) { engine().store(to + at, bytes + at, part, false); });
  }
  static void read_bytes(void* to, const void* shared, size_t length) {
    auto* from = static_cast<const uint8_t*>(shared);
    auto* bytes = static_cast<uint8_t*>(to);
    pieces(from, length, [&](size_t at, size_t part) { engine().load(from + at, bytes + at, part, true); });
  }
  static void write_words(void* shared, const void* from, size_t length) { write_bytes(shared, from, length); }
  static void read_words(void* to, const void* shared, size_t length) { read_bytes(to, shared, length); }

 private:
  template <class Each>
  static void pieces(const uint8_t* shared, size_t length, Each each) {
    const size_t grain = engine().grain();
    for (size_t at = 0; at < length;) {
      const size_t part = std::min(length - at, grain - reinterpret_cast<uintptr_t>(shared + at) % grain);
      each(at, part);
      at += part;
    }
  }
};

inline const char* site_name(Site site) {
  switch (site) {
    case Site::publish_record: return "publish_record";
    case Site::publish_released: return "publish_released";
    case Site::fence_park: return "fence_park";
    case Site::fence_published: return "fence_published";
    case Site::fence_want_space: return "fence_want_space";
    case Site::fence_released: return "fence_released";
    case Site::ring_bell: return "ring_bell";
    case Site::fence_sleep: return "fence_sleep";
    case Site::fence_bell: return "fence_bell";
    case Site::publish_control: return "publish_control";
    case Site::control_begin: return "control_begin";
    case Site::publish_ack: return "publish_ack";
    case Site::release_large: return "release_large";
    case Site::table_begin: return "table_begin";
    case Site::table_end: return "table_end";
    case Site::publish_identity: return "publish_identity";
    case Site::publish_magic: return "publish_magic";
    case Site::claim_entry: return "claim_entry";
    case Site::agree_format: return "agree_format";
    default: return "an acquire";
  }
}

} // namespace explorer
