// Control messages from one peer to one other: fixed 64-byte slots, a message is a chain of them. Every slot names both
// incarnations, so a reader that starts anew skips what was meant for its predecessor, and a writer that starts anew is
// not taken for the old one. That alone is not enough, because a slot is not read in one piece: the writer also says
// from which slot on a life of the reader may read (nothing from there on is overwritten before it is acknowledged), and
// the reader looks after each slot whether the ring still is the same writer's.
#pragma once

#include <cstddef>

#include "atomics.hpp"
#include "layout.hpp"
#include "record.hpp"

namespace vmring {

// Slots are counted from here on; see kFirstPosition.
inline constexpr uint32_t kFirstSlot = kFirstPosition == 0 ? 0 : 0u - 2 * kControlSlots;

// Tag of acknowledgements: for this writer, from this reader, in these lives.
constexpr uint32_t pair_tag(uint32_t writer, uint32_t reader) {
  uint64_t x = tagged(writer, reader) * 0x9E3779B97F4A7C15ull;
  x ^= x >> 29;
  x *= 0xBF58476D1CE4E5B9ull;
  return static_cast<uint32_t>(x >> 32) | 1u;
}

template <class A>
class ControlWriter {
 public:
  // `head` is the ring's first line in the own section; `ack` lies in the reader's section.
  ControlWriter(uint8_t* head, const uint64_t* ack, uint32_t incarnation)
      : head_(reinterpret_cast<uint64_t*>(head)), slots_(reinterpret_cast<ControlSlot*>(head + kLine)), ack_(ack),
        incarnation_(incarnation) {
    A::store_relaxed(&head_[1], uint64_t{0});
    A::template store_release<Site::publish_control>(head_, tagged(incarnation_, tail_));
    // SYNC: the new head is visible before any slot is overwritten; pairs with the fence in ControlReader::poll.
    A::template release_fence<Site::control_begin>();
  }

  // A new life of the reader: what stands in the ring is void, it reads from here on. Visible with the next tail.
  void set_reader(uint32_t incarnation) {
    reader_ = incarnation;
    tag_ = pair_tag(incarnation_, incarnation);
    floor_ = tail_;
    A::store_relaxed(&head_[1], tagged(reader_, floor_));
  }

  // False: no room (or too long); nothing was written.
  bool send(const uint8_t* bytes, uint32_t length) {
    if (reader_ == 0 || length == 0 || length > kMaxControl) return false;
    const uint32_t count = (length + kSlotPayload - 1) / kSlotPayload;
    // SYNC: the reader has copied those slots; pairs with publish_ack.
    const uint64_t ack = A::template load_acquire<Site::read_ack>(ack_);
    // An acknowledgement outside (floor, tail] is old or forged; both mean no news.
    if (tag_of(ack) == tag_ && value_of(ack) - floor_ <= tail_ - floor_) floor_ = value_of(ack);
    if (tail_ - floor_ + count > kControlSlots) return false;
    for (uint32_t i = 0; i < count; ++i) {
      const uint32_t at = i * kSlotPayload;
      const uint32_t part = length - at < kSlotPayload ? length - at : kSlotPayload;
      ControlSlot slot{};
      slot.sequence = tail_ + i;
      slot.length = static_cast<uint8_t>(part);
      slot.flags = static_cast<uint8_t>((i == 0 ? kSlotFirst : 0) | (i + 1 == count ? kSlotLast : 0));
      slot.writer_incarnation = incarnation_;
      slot.reader_incarnation = reader_;
      __builtin_memcpy(slot.payload, bytes + at, part);
      A::write_bytes(&slots_[(tail_ + i) % kControlSlots], &slot, sizeof slot);
    }
    tail_ += count;
    // SYNC: all slots of the message are visible with the tail; pairs with ControlReader::poll.
    A::template store_release<Site::publish_control>(head_, tagged(incarnation_, tail_));
    return true;
  }

 private:
  uint64_t* head_;
  ControlSlot* slots_;
  const uint64_t* ack_;
  uint32_t incarnation_;
  uint32_t reader_ = 0;
  uint32_t tag_ = 0;
  uint32_t tail_ = kFirstSlot;
  uint32_t floor_ = kFirstSlot;
};

template <class A>
class ControlReader {
 public:
  ControlReader(const uint8_t* head, uint64_t* ack, uint32_t incarnation)
      : head_(reinterpret_cast<const uint64_t*>(head)), slots_(reinterpret_cast<const ControlSlot*>(head + kLine)),
        ack_(ack), incarnation_(incarnation) {}

  // A new life of the writer: reading begins where it says. A life of the reader has one ControlReader per writer.
  void set_writer(uint32_t incarnation) {
    writer_ = incarnation;
    started_ = false;
    length_ = 0;
    collecting_ = false;
  }

  // The next whole message, copied into `message` (kMaxControl bytes); its length, or 0 for none. Looks at no more than
  // kControlSlots slots. A slot that does not fit what went before is skipped: the session above repeats itself.
  uint32_t poll(uint8_t* message) {
    if (writer_ == 0) return 0;
    const uint64_t head = A::template load_acquire<Site::read_control>(head_);
    if (tag_of(head) != writer_) return 0;
    const uint32_t tail = value_of(head);
    if (!started_) {
      const uint64_t first = A::load_relaxed(&head_[1]);
      // Of another life: the writer has not heard of this one. Ahead of the tail: it has just heard.
      if (tag_of(first) != incarnation_ || tail - value_of(first) > kControlSlots) return 0;
      position_ = value_of(first);
      started_ = true;
    }
    if (tail - position_ > kControlSlots) { // no honest writer does that
      position_ = tail - kControlSlots;
      collecting_ = false;
    }
    uint32_t result = 0;
    const uint32_t before = position_;
    while (position_ != tail && result == 0) {
      ControlSlot slot;
      A::read_bytes(&slot, &slots_[position_ % kControlSlots], sizeof slot);
      // SYNC: a new writer changes the head before any slot; pairs with control_begin.
      A::template acquire_fence<Site::read_control>();
      if (tag_of(A::load_relaxed(head_)) != writer_) return 0;
      const bool mine = slot.sequence == position_ && slot.writer_incarnation == writer_ &&
                        slot.reader_incarnation == incarnation_ && slot.length <= kSlotPayload;
      ++position_;
      if (!mine) {
        collecting_ = false;
        continue;
      }
      if (slot.flags & kSlotFirst) {
        collecting_ = true;
        length_ = 0;
      }
      if (!collecting_ || length_ + slot.length > kMaxControl) {
        collecting_ = false;
        continue;
      }
      __builtin_memcpy(buffer_ + length_, slot.payload, slot.length);
      length_ += slot.length;
      if (slot.flags & kSlotLast) {
        __builtin_memcpy(message, buffer_, length_);
        result = length_;
        collecting_ = false;
      }
    }
    if (position_ != before) {
      // SYNC: the slots have been copied; pairs with the acquire in ControlWriter::send.
      A::template store_release<Site::publish_ack>(ack_, tagged(pair_tag(writer_, incarnation_), position_));
    }
    return result;
  }

 private:
  const uint64_t* head_;
  const ControlSlot* slots_;
  uint64_t* ack_;
  uint32_t incarnation_;
  uint32_t writer_ = 0;
  uint32_t position_ = 0;
  bool started_ = false;
  bool collecting_ = false;
  uint32_t length_ = 0;
  uint8_t buffer_[kMaxControl];
};

} // namespace vmring
