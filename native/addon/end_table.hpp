// The ends of one environment. An id is an index with a few bits of generation above it, so that an id that outlived its
// end is recognised at every call.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/end.hpp"
#include "linux/mapping.hpp"

namespace vmring::addon {

using A = StdAtomics;

namespace status {
inline constexpr int32_t ok = 1, none = 0, would_block = -1, too_large = -2, closed = -3, lease = -4, fault = -5,
                         lost = -6;
}
namespace ready {
inline constexpr uint32_t readable = 1, writable = 2, fault = 4;
}

class EndOwner;
inline constexpr uint32_t kNoLength = 0xffffffff;

struct EndEntry {
  EndEntry(std::shared_ptr<Mapping> memory, const SectionView& own, const RingOffer& offer, uint32_t send_from,
           uint32_t receive_from)
      : mapping(std::move(memory)), core(own, offer, send_from, receive_from), own_base(own.base() - mapping->data()) {}

  uint32_t id = 0;
  std::shared_ptr<Mapping> mapping;
  vmring::End<A> core;
  uint64_t own_base; // of the own section in the buffer

  EndOwner* owner = nullptr;    // null: its peer was closed; what was lent stays readable
  uint32_t section = 0;         // of the other side
  uint32_t incarnation = 0;     // of the other side when the end was made
  EndEntry* partner = nullptr;  // private ends: the other one, while it lives
  bool is_private = false;

  bool fin_sent = false;
  bool stopped = false;
  bool want_readable = true;
  uint32_t want_space = kNoLength;
  bool active = false; // on the owner's list of ends to poll
  bool parked = false; // not on it, and the sender knows the position behind which it must ring
  bool dirty = false;  // on the owner's list of ends with releases to publish
  bool fault_reported = false;
  uint32_t quiet = 0; // polls in a row that found nothing
  uint32_t reserved = 0;
  uint64_t reserved_at = 0; // in the buffer
  const char* broken = nullptr; // what this layer found wrong

  std::unordered_map<uint64_t, uint64_t> filling; // large payloads being filled: offset in the section → length
  uint64_t sent_bytes = 0;
  uint64_t received_bytes = 0;
  uint64_t doorbells = 0;
  uint64_t suppressed = 0;

  bool lost() const { return mapping->lost(); }
  const char* fault() {
    if (broken != nullptr) return broken;
    if (core.rx().fault() != nullptr) return core.rx().fault();
    return core.tx().fault();
  }
};

class EndTable {
 public:
  static constexpr uint32_t kIndexBits = 16;
  static constexpr uint32_t kGenerationMask = 0x3fff; // ids stay small integers of the engine

  EndEntry* find(uint32_t id) const {
    const uint32_t index = id & ((1u << kIndexBits) - 1);
    if (index >= slots_.size()) return nullptr;
    EndEntry* entry = slots_[index].entry.get();
    return entry != nullptr && entry->id == id ? entry : nullptr;
  }

  // Null: every index is in use.
  EndEntry* add(std::unique_ptr<EndEntry> entry) {
    uint32_t index = 0;
    if (!free_.empty()) {
      index = free_.back();
      free_.pop_back();
    } else {
      if (slots_.size() >> kIndexBits != 0) return nullptr;
      index = static_cast<uint32_t>(slots_.size());
      slots_.emplace_back();
    }
    Slot& slot = slots_[index];
    entry->id = (slot.generation & kGenerationMask) << kIndexBits | index;
    slot.entry = std::move(entry);
    return slot.entry.get();
  }

  void remove(uint32_t id) {
    if (find(id) == nullptr) return;
    const uint32_t index = id & ((1u << kIndexBits) - 1);
    slots_[index].entry.reset();
    ++slots_[index].generation;
    free_.push_back(index);
  }

 private:
  struct Slot {
    std::unique_ptr<EndEntry> entry;
    uint32_t generation = 0;
  };
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
};

} // namespace vmring::addon
