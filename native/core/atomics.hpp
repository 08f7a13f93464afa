// The memory policy: every access that core makes to shared memory goes through a class with this interface, so that the
// same lines run over real atomics (here) and inside the interleaving explorer (native/test/explorer).
//
// Each synchronising access names its Site. The comment at the Site says what it pairs with; the explorer can weaken
// one Site at a time and must then find a failure.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace vmring {

enum class Site : uint8_t {
  // Rings. A record's payload and the zeroed header after it are visible before its header word.
  publish_record,   // release store, Producer::publish         ↔ read_record
  read_record,      // acquire load, Consumer::poll
  publish_released, // release store, Consumer::publish_released ↔ read_released (reads of the payload precede its reuse)
  read_released,    // acquire load, Producer::reload
  // Wake-ups for data: announce, fence, look again ↔ publish, fence, look at the announcement.
  fence_park,      // full fence, Consumer::park                ↔ fence_published
  fence_published, // full fence, Producer::wake_needed
  // Wake-ups for space: the same with the roles swapped.
  fence_want_space, // full fence, Producer::want_space         ↔ fence_released
  fence_released,   // full fence, Consumer::space_wake_needed
  // Bells and sleep of a whole peer.
  ring_bell,   // release store, BellWriter::ring               ↔ read_bell
  read_bell,   // acquire load, BellReader::changed
  fence_sleep, // full fence, Sleeper::announce                 ↔ fence_bell
  fence_bell,  // full fence, BellWriter::doorbell_needed
  // Control rings.
  publish_control, // release store of the tail                 ↔ read_control
  read_control,
  control_begin, // release fence between a new writer's head and its first slot ↔ the acquire fence of read_control
  publish_ack, // release store of the reader's position        ↔ read_ack
  read_ack,
  // Large messages: one word per descriptor slot in the receiver's section.
  release_large, // release store                               ↔ reclaim_large
  reclaim_large,
  // Tables.
  table_begin,  // fence between making the sequence odd and the fields ↔ table_end of the reader
  table_end,    // release store of the even sequence           ↔ table_read
  table_read,   // acquire load of the sequence, then an acquire fence before it is read again
  publish_identity, // release store of the incarnation         ↔ read_identity
  read_identity,
  publish_magic, // release store of the header's magic         ↔ read_magic
  read_magic,
  claim_entry, // compare-and-swap, plain mode only; acquire and release
  agree_format, // compare-and-swap, plain mode only: what formatters at the same time have in common; then a release
                // fence, so that nobody sees the rest of a header without it
};

struct StdAtomics {
  template <Site, class T>
  static T load_acquire(const T* p) {
    return std::atomic_ref<T>(*const_cast<T*>(p)).load(std::memory_order_acquire);
  }
  template <class T>
  static T load_relaxed(const T* p) {
    return std::atomic_ref<T>(*const_cast<T*>(p)).load(std::memory_order_relaxed);
  }
  template <Site, class T>
  static void store_release(T* p, T value) {
    std::atomic_ref<T>(*p).store(value, std::memory_order_release);
  }
  template <class T>
  static void store_relaxed(T* p, T value) {
    std::atomic_ref<T>(*p).store(value, std::memory_order_relaxed);
  }
  template <Site>
  static void full_fence() {
    std::atomic_thread_fence(std::memory_order_seq_cst);
  }
  template <Site>
  static void acquire_fence() {
    std::atomic_thread_fence(std::memory_order_acquire);
  }
  template <Site>
  static void release_fence() {
    std::atomic_thread_fence(std::memory_order_release);
  }
  template <Site>
  static bool compare_swap(uint32_t* p, uint32_t expected, uint32_t desired) {
    return std::atomic_ref<uint32_t>(*p).compare_exchange_strong(expected, desired, std::memory_order_acq_rel);
  }
  // The line at `p` will be written soon: it is fetched meanwhile. A hint, nothing that anybody can see depends on it.
  static void will_write([[maybe_unused]] const void* p) {
#if defined(__x86_64__)
    asm volatile("prefetchw %0" : : "m"(*static_cast<const char*>(p))); // does nothing where the processor does not know it
#else
    __builtin_prefetch(p, 1);
#endif
  }
  // Likewise, will be read.
  static void will_read(const void* p) { __builtin_prefetch(p); }
  // Payload. A peer that breaks the protocol can race with these: bytes may be torn, nothing else follows from it.
  static void write_bytes(void* shared, const void* from, size_t length) {
#if defined(__GNUC__)
    // Where the compiler knows a bound of the length it copies by `rep movs`, which takes longer to begin than memcpy for 64 bytes.
    if (!__builtin_constant_p(length)) asm("" : "+r"(length));
#endif
    std::memcpy(shared, from, length);
  }
  static void read_bytes(void* to, const void* shared, size_t length) { std::memcpy(to, shared, length); }
  // Tables that several write at once, the same bytes. Lengths are multiples of 4.
  static void write_words(void* shared, const void* from, size_t length) {
    for (size_t at = 0; at < length; at += sizeof(uint32_t)) {
      uint32_t word;
      std::memcpy(&word, static_cast<const uint8_t*>(from) + at, sizeof word);
      store_relaxed(reinterpret_cast<uint32_t*>(static_cast<uint8_t*>(shared) + at), word);
    }
  }
  static void read_words(void* to, const void* shared, size_t length) {
    for (size_t at = 0; at < length; at += sizeof(uint32_t)) {
      const uint32_t word = load_relaxed(reinterpret_cast<const uint32_t*>(static_cast<const uint8_t*>(shared) + at));
      std::memcpy(static_cast<uint8_t*>(to) + at, &word, sizeof word);
    }
  }
};

} // namespace vmring
