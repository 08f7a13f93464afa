// Large messages: the payload lies once in the sender's section, a descriptor travels through the ring. Each is given back
// by itself, through a word in the receiver's section, so a slow reader of one does not hold the ring.
#pragma once

#include <unordered_map>

#include "allocator.hpp"
#include "record.hpp"

namespace vmring {

template <class A>
class LargeOutbox {
 public:
  void attach(const ReaderBlock* reader, uint32_t tag) {
    reader_ = reader;
    tag_ = tag;
  }

  // Memory for one payload: its offset in the section, or 0 (no slot, or no stretch of that length).
  uint64_t allocate(SectionAllocator& memory, uint64_t length) {
    reclaim(memory);
    for (Slot& slot : slots_) {
      if (slot.state != State::free) continue;
      const uint64_t offset = memory.allocate(length);
      if (offset == 0) return 0;
      slot = {State::filling, offset, slot.generation + 1};
      return offset;
    }
    return 0;
  }

  // The descriptor to send for a payload that has been filled. False: no such payload.
  bool describe(uint64_t offset, uint64_t length, LargeDescriptor& out) {
    Slot* slot = find(offset, State::filling);
    if (!slot) return false;
    out = {offset, length, static_cast<uint32_t>(slot - slots_), slot->generation};
    return true;
  }
  void sent(uint64_t offset) {
    if (Slot* slot = find(offset, State::filling)) slot->state = State::sent;
  }
  bool cancel(SectionAllocator& memory, uint64_t offset) {
    Slot* slot = find(offset, State::filling);
    if (!slot) return false;
    slot->state = State::free;
    return memory.release(offset);
  }

  // Takes back what the receiver has given back.
  void reclaim(SectionAllocator& memory) {
    if (!reader_) return;
    for (uint32_t i = 0; i < kLargeSlots; ++i) {
      if (slots_[i].state != State::sent) continue;
      // SYNC: the receiver's reads are over; pairs with LargeInbox::release.
      const uint64_t word = A::template load_acquire<Site::reclaim_large>(&reader_->large[i]);
      if (word != tagged(tag_, slots_[i].generation)) continue;
      slots_[i].state = State::free;
      memory.release(slots_[i].offset);
    }
  }

  void release_all(SectionAllocator& memory) {
    for (Slot& slot : slots_) {
      if (slot.state != State::free) memory.release(slot.offset);
      slot.state = State::free;
    }
  }

 private:
  enum class State : uint8_t { free, filling, sent };
  struct Slot {
    State state = State::free;
    uint64_t offset = 0;
    uint32_t generation = 0;
  };
  Slot* find(uint64_t offset, State state) {
    for (Slot& slot : slots_) {
      if (slot.state == state && slot.offset == offset) return &slot;
    }
    return nullptr;
  }

  const ReaderBlock* reader_ = nullptr;
  uint32_t tag_ = 0;
  Slot slots_[kLargeSlots];
};

template <class A>
class LargeInbox {
 public:
  // Large payloads may lie anywhere in the heap of the sender's section.
  void attach(ReaderBlock* own, uint32_t tag, uint64_t heap_begin, uint64_t heap_end) {
    own_ = own;
    tag_ = tag;
    heap_begin_ = heap_begin;
    heap_end_ = heap_end;
  }

  // Copies the descriptor out of the record once, checks the copy. False: it points outside the sender's heap.
  bool accept(const Record& record, LargeDescriptor& out) {
    if (record.length != sizeof out) return false;
    A::read_bytes(&out, record.payload, sizeof out);
    if (out.slot >= kLargeSlots || out.length > heap_end_ - heap_begin_) return false;
    if (out.offset < heap_begin_ || out.offset > heap_end_ - out.length) return false;
    lent_[record.sequence] = {out.slot, out.generation};
    return true;
  }

  // True: this record was a large one, and its memory is the sender's again.
  bool release(uint32_t sequence) {
    if (lent_.empty()) return false;
    const auto it = lent_.find(sequence);
    if (it == lent_.end()) return false;
    // SYNC: reads of the payload are over; pairs with LargeOutbox::reclaim.
    A::template store_release<Site::release_large>(&own_->large[it->second.slot], tagged(tag_, it->second.generation));
    lent_.erase(it);
    return true;
  }
  bool empty() const { return lent_.empty(); }

 private:
  struct Lent {
    uint32_t slot;
    uint32_t generation;
  };
  ReaderBlock* own_ = nullptr;
  uint32_t tag_ = 0;
  uint64_t heap_begin_ = 0;
  uint64_t heap_end_ = 0;
  std::unordered_map<uint32_t, Lent> lent_; // by sequence number; bounded by what the ring can lend
};

} // namespace vmring
