// The receiving side of a ring. Records are lent out and may come back in any order; the contiguous floor of what came
// back is published to the producer as `released`.
#pragma once

#include <vector>

#include "record.hpp"

namespace vmring {

template <class A>
class Consumer {
 public:
  // `own` lies in the own section. Joined to the other side's ring by attach.
  Consumer(ReaderBlock* own, uint32_t first_sequence)
      : own_(own), cursor_(nullptr, kMinCapacity, 0, first_sequence), oldest_(first_sequence) {}

  // `head` and `data` lie in the producer's section and were checked to lie inside it; `tag` is the ring's nonce.
  void attach(const RingHead* head, const uint8_t* data, uint32_t capacity, uint32_t tag, uint32_t first_position = 0) {
    head_ = head;
    data_ = data;
    capacity_ = capacity;
    tag_ = tag;
    cursor_ = RecordCursor<A>(data, capacity, first_position, cursor_.sequence());
    floor_ = published_ = space_checked_ = first_position;
    // Says where reading begins. Words with another tag are ignored by the producer.
    A::store_relaxed(&own_->next_count, tagged(tag_, oldest_));
    A::store_relaxed(&own_->released_count, tagged(tag_, oldest_));
    A::store_relaxed(&own_->wake_at, tagged(tag_ ^ 1u, 0));
    A::template store_release<Site::publish_released>(&own_->released, tagged(tag_, first_position));
  }
  bool attached() const { return head_ != nullptr; }

  uint32_t capacity() const { return capacity_; }
  uint32_t next() const { return cursor_.sequence(); }
  uint32_t released() const { return oldest_; }
  uint32_t lent_bytes() const { return cursor_.position() - floor_; }
  uint32_t lent_records() const { return cursor_.sequence() - oldest_; }
  const char* fault() const { return cursor_.fault(); }

  bool readable() const { return attached() && !fault() && cursor_.published(); }

  // The next record, lent until release(sequence).
  Poll poll(Record& out) {
    if (fault()) return Poll::fault;
    if (!attached()) return Poll::none;
    const Poll result = cursor_.next(out, capacity_ - lent_bytes());
    if (result == Poll::record) push(cursor_.position());
    return result;
  }

  // Gives a record back. False: not lent, or given back before.
  bool release(uint32_t sequence) {
    const uint32_t index = sequence - oldest_;
    if (index >= lent_records()) return false;
    Lent& lent = at(index);
    if (lent.back) return false;
    lent.back = true;
    while (oldest_ != cursor_.sequence() && at(0).back) {
      floor_ = at(0).end;
      ++oldest_;
      first_ = (first_ + 1) & (static_cast<uint32_t>(lent_.size()) - 1);
    }
    return true;
  }

  // Bytes given back since the last publication: publish at a share of the ring, when the ring is empty, before waiting.
  uint32_t unpublished() const { return floor_ - published_; }

  // Lets the producer have the memory again. After it, ask space_wake_needed().
  void publish_released() {
    if (!attached() || floor_ == published_) return;
    A::store_relaxed(&own_->next_count, tagged(tag_, cursor_.sequence()));
    A::store_relaxed(&own_->released_count, tagged(tag_, oldest_));
    // SYNC: reads of the released payload are over; pairs with the acquire in Producer::reload.
    A::template store_release<Site::publish_released>(&own_->released, tagged(tag_, floor_));
    published_ = floor_;
  }

  // After publish_released: does the producer wait for a position that has now been reached?
  bool space_wake_needed() {
    if (!attached() || space_checked_ == published_) return false;
    // SYNC: publish, full fence, look; pairs with fence_want_space in Producer::want_space.
    A::template full_fence<Site::fence_released>();
    const uint64_t wanted = A::load_relaxed(&head_->space_at);
    const uint32_t old = space_checked_;
    space_checked_ = published_;
    if (tag_of(wanted) != tag_) return false;
    // Reached now and not at the last check: wanted in (old, published].
    return published_ - value_of(wanted) < published_ - old;
  }

  // Announces the position at which to be rung, then looks again. False: something is there, do not sleep.
  bool park() {
    if (!attached() || fault()) return true;
    A::store_relaxed(&own_->wake_at, tagged(tag_, cursor_.position()));
    // SYNC: announce, full fence, look at the ring; pairs with fence_published in Producer::wake_needed.
    A::template full_fence<Site::fence_park>();
    return !cursor_.published();
  }

  // Starts again at the oldest record not given back (a pump that retransmits).
  void rewind() {
    cursor_ = RecordCursor<A>(data_, capacity_, floor_, oldest_);
  }

 private:
  struct Lent {
    uint32_t end;
    bool back;
  };

  Lent& at(uint32_t index) { return lent_[(first_ + index) & (lent_.size() - 1)]; }

  void push(uint32_t end) {
    const uint32_t count = lent_records() - 1; // the cursor has already counted this one
    if (count == lent_.size()) grow();
    at(count) = {end, false};
  }
  // Bounded by the ring: at most capacity / 8 records can be lent.
  void grow() {
    std::vector<Lent> larger(lent_.size() * 2);
    for (size_t i = 0; i < lent_.size(); ++i) larger[i] = at(static_cast<uint32_t>(i));
    lent_.swap(larger);
    first_ = 0;
  }

  ReaderBlock* own_;
  const RingHead* head_ = nullptr;
  const uint8_t* data_ = nullptr;
  uint32_t capacity_ = kMinCapacity;
  uint32_t tag_ = 0;
  RecordCursor<A> cursor_;
  uint32_t floor_ = 0;         // bytes: everything before has been given back
  uint32_t oldest_;            // sequence number of the oldest record not given back
  uint32_t published_ = 0;     // floor as the producer knows it
  uint32_t space_checked_ = 0; // published_ at the last space_wake_needed()
  std::vector<Lent> lent_ = std::vector<Lent>(64);
  uint32_t first_ = 0;
};

} // namespace vmring
