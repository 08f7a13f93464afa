// The sending side of a ring. Private state (positions, sequence) lives here and is never read back from shared memory;
// of the other side's words only `released`, `wake_at` and the counts are read, each once, each checked.
#pragma once

#include "record.hpp"

namespace vmring {

enum class Send { ok, full, too_large, lease, fault };

template <class A>
class Producer {
 public:
  // `head` and `data` lie in the own section and are zeroed here as far as a reader may look; `reader` lies in the
  // consumer's section and may be null until the other side has answered (attach). `first_position`, a multiple of 8, is
  // kFirstPosition, and near 2^32 in tests.
  Producer(RingHead* head, uint8_t* data, uint32_t capacity, uint32_t tag, uint32_t first_sequence,
           uint32_t first_position = 0)
      : head_(head), data_(data), capacity_(capacity), tag_(tag), tail_(first_position), released_(first_position),
        checked_(first_position), asked_(first_position), sequence_(first_sequence), remote_next_(first_sequence),
        remote_released_(first_sequence) {
    A::store_relaxed(&head_->space_at, uint64_t{0});
    A::store_relaxed(word(tail_), uint64_t{0}); // made visible by the control message that offers the ring
  }

  void attach(const ReaderBlock* reader) { reader_ = reader; }
  bool attached() const { return reader_ != nullptr; }

  uint32_t capacity() const { return capacity_; }
  uint32_t sequence() const { return sequence_; }
  uint32_t position() const { return tail_; }
  uint32_t in_use() const { return tail_ - released_; }
  bool leased() const { return lease_ != kNoLease; }
  const char* fault() const { return fault_; }

  // Room for `length` payload bytes, contiguous; nothing is visible to anybody before commit.
  Send reserve(uint32_t length, uint8_t*& payload) {
    if (leased()) return Send::lease;
    if (length > max_payload(capacity_)) return Send::too_large;
    if (!fits(length) && (!reload() || !fits(length))) return fault_ ? Send::fault : Send::full;
    lease_ = length;
    payload = data_ + (record_at(length) & (capacity_ - 1)) + kHeaderSize;
    return Send::ok;
  }

  // Publishes the lease with `length` at most the reserved bytes.
  Send commit(uint32_t length, Kind kind, bool extended) {
    if (!leased() || length > lease_) return Send::lease;
    publish(length, kind, extended);
    fetch_headers(record_size(length));
    return Send::ok;
  }

  Send abort() {
    if (!leased()) return Send::lease;
    lease_ = kNoLease;
    return Send::ok;
  }

  Send send(const uint8_t* bytes, uint32_t length, Kind kind, bool extended) {
    uint8_t* payload = nullptr;
    const Send result = reserve(length, payload);
    if (result != Send::ok) return result;
    if (length != 0) A::write_bytes(payload, bytes, length);
    publish(length, kind, extended);
    fetch_lines(record_size(length));
    return Send::ok;
  }

  // After one or several commits: must the consumer be rung? True when it announced a position that these commits passed.
  // "Old" is the position of the last check, not of the last commit: several commits may share one check.
  bool wake_needed() {
    if (!reader_ || checked_ == tail_) return false;
    // SYNC: publish, full fence, look at the announcement; pairs with fence_park in Consumer::park. Without it the load
    // below may be done before the record is visible, the consumer sees nothing and sleeps, and nobody rings.
    A::template full_fence<Site::fence_published>();
    const uint64_t wake = A::load_relaxed(&reader_->wake_at);
    const uint32_t old = checked_;
    checked_ = tail_;
    if (tag_of(wake) != tag_) return false; // meant for an earlier ring in the same place
    return tail_ - value_of(wake) - 1 < tail_ - old;
  }

  // Asks for a bell when `length` payload bytes fit. True: they fit already, nothing was asked.
  bool want_space(uint32_t length) {
    if (length > max_payload(capacity_)) return false;
    if (fits(length) || (reload() && fits(length))) return true;
    // The release position at which it will fit: tail + need − capacity.
    const uint32_t at = tail_ + needed(length) - capacity_;
    A::store_relaxed(&head_->space_at, tagged(tag_, at));
    // SYNC: announce, full fence, look again; pairs with fence_released in Consumer::space_wake_needed.
    A::template full_fence<Site::fence_want_space>();
    return reload() && fits(length);
  }

  // Reads the consumer's `released` once; false and fault() when it lies outside (released, tail].
  bool reload() {
    if (fault_) return false;
    if (!reader_) return true;
    // SYNC: pairs with publish_released: the consumer's reads of that memory are over before it is written again.
    const uint64_t word = A::template load_acquire<Site::read_released>(&reader_->released);
    if (tag_of(word) != tag_) return true; // nothing said about this ring yet
    const uint32_t released = value_of(word);
    if (released - released_ > tail_ - released_ || (released & 7) != 0) {
      fault_ = "the receiver released more than was sent";
      return false;
    }
    released_ = released;
    return true;
  }

  // What the other side says it has delivered and released, in records; clamped to what can be true. For people and for
  // reports ("the survivor knows what had been released"), never for memory safety.
  uint32_t remote_next() { return remote_count(&ReaderBlock::next_count, remote_next_); }
  uint32_t remote_released() { return remote_count(&ReaderBlock::released_count, remote_released_); }

  // Reads the own outbox back from the oldest unreleased record on. `visit(record)`; false: the ring was overwritten.
  template <class Visit>
  bool pending(Visit visit) {
    if (!reload()) return false;
    if (released_ == tail_) return true;
    // The sequence number of the first record is not kept per record; it is taken from its header and must lead to ours.
    const uint64_t raw = A::template load_acquire<Site::read_record>(word(released_));
    RecordCursor<A> cursor(data_, capacity_, released_, decode(raw).sequence);
    Record record;
    uint32_t left = tail_ - released_;
    while (cursor.position() != tail_) {
      const uint32_t before = cursor.position();
      if (cursor.next(record, left) != Poll::record) return false;
      left -= cursor.position() - before;
      if (cursor.position() == tail_ && cursor.sequence() != sequence_) return false;
      visit(record);
    }
    return true;
  }

 private:
  static constexpr uint32_t kNoLease = 0xffffffff;
  static constexpr uint32_t kLine = 64;
  static constexpr uint32_t kLeastAhead = 6 * kLine;
  static constexpr uint32_t kMostAhead = 4096;

  uint64_t* word(uint32_t position) { return reinterpret_cast<uint64_t*>(data_ + (position & (capacity_ - 1))); }

  // Where the record goes: at the tail, or at offset 0 behind padding when it would cross the end.
  uint32_t record_at(uint32_t length) const {
    const uint32_t to_end = capacity_ - (tail_ & (capacity_ - 1));
    return record_size(length) <= to_end ? tail_ : tail_ + to_end;
  }
  // Padding, record, and the zeroed header behind it.
  uint32_t needed(uint32_t length) const { return record_at(length) - tail_ + record_size(length) + kHeaderSize; }
  bool fits(uint32_t length) const { return needed(length) <= capacity_ - (tail_ - released_); }

  // The lease becomes a record.
  void publish(uint32_t length, Kind kind, bool extended) {
    // The place follows from what was reserved, not from what was used: the payload is already there.
    const uint32_t at = record_at(lease_);
    const uint32_t end = at + record_size(length);
    lease_ = kNoLease;
    // The header behind this record is zeroed first: a consumer that comes here must find "not published".
    A::store_relaxed(word(end), uint64_t{0});
    const uint64_t header = encode({length, extended, kind, sequence_});
    if (at == tail_) {
      // SYNC: publishes payload and zeroed header; pairs with the acquire in RecordCursor::next.
      A::template store_release<Site::publish_record>(word(at), header);
    } else {
      // The record at offset 0 is whole before the padding that leads to it is published.
      A::store_relaxed(word(at), header);
      const uint32_t to_end = at - tail_;
      A::template store_release<Site::publish_record>(word(tail_),
                                                      encode({to_end - kHeaderSize, false, Kind::pad, sequence_}));
    }
    tail_ = end;
    ++sequence_;
  }

  // The lines of the next records were read by the consumer when the ring came round last, so they have to be taken away from it before
  // they can be written. That lasts as long as a message is under way: it is done while this one is, not when the next is due. The next
  // ones are taken to be as long as this one.

  // Of a record that the application fills in place only the headers, so that a message costs the same however long it is
  // (native/test/zero_copy.sh): the line behind the one at the tail, which has just been written, and the header that the one after the
  // next zeroes.
  void fetch_headers(uint32_t size) {
    A::will_write(word(tail_ + kLine));
    A::will_write(word(tail_ + 2 * size));
  }
  // Who copies touches each line anyway: all lines of the next two records, up to where the processor itself does better.
  void fetch_lines(uint32_t size) {
    if (size > kMostAhead / 2) return fetch_headers(size);
    const uint32_t room = capacity_ - in_use(); // beyond it lies what the consumer is reading
    const uint32_t wanted = size > kLeastAhead / 2 ? 2 * size : kLeastAhead;
    const uint32_t ahead = wanted < room ? wanted : room;
    if (asked_ - tail_ > kMostAhead + kLine) asked_ = tail_ + kLine; // it lies behind the tail
    for (; asked_ - tail_ < ahead; asked_ += kLine) A::will_write(word(asked_));
  }

  uint32_t remote_count(uint64_t ReaderBlock::* field, uint32_t& kept) {
    if (!reader_) return kept;
    const uint64_t word = A::load_relaxed(&(reader_->*field));
    const uint32_t count = value_of(word);
    if (tag_of(word) == tag_ && count - kept <= sequence_ - kept) kept = count;
    return kept;
  }

  RingHead* head_;
  uint8_t* data_;
  const ReaderBlock* reader_ = nullptr;
  const uint32_t capacity_;
  const uint32_t tag_;
  uint32_t tail_;     // private; published records end here
  uint32_t released_; // cached: last value of the consumer's word that passed the check
  uint32_t checked_;  // tail at the last wake_needed()
  uint32_t asked_;    // lines before it have been asked for
  uint32_t sequence_;     // of the next record
  uint32_t remote_next_;
  uint32_t remote_released_;
  uint32_t lease_ = kNoLease;
  const char* fault_ = nullptr;
};

} // namespace vmring
