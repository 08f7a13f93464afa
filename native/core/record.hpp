// Record framing: one 64-bit header word, then the payload, padded to 8 bytes.
//
//   bits 0–26 length of the payload in bytes · 27 extension · 28–31 kind · 32–63 sequence number
//
// A zero kind means "not published", so a header word that is zero is the end of what may be read. The header word itself
// publishes the record: a small message costs the transfer of one cache line, not of a data line and an index line.
#pragma once

#include "atomics.hpp"
#include "layout.hpp"

namespace vmring {

enum class Kind : uint32_t {
  none = 0,
  data = 1,      // a whole message
  pad = 2,       // to the end of the ring; the next record is at offset 0. Length counts the bytes after its header.
  large = 3,     // LargeDescriptor
  frag = 4,      // part of a message, more follow; with the extension bit the first part, led by a u64 total length
  frag_last = 5, // last part of a message
  fin = 6,       // end of this direction, no payload
};

inline constexpr uint32_t kHeaderSize = 8;

// Where positions begin in a ring: 0. A build that is never shipped (CMakeLists.txt) begins shortly before
// 2^32, so that every channel of its tests and long runs sees positions wrap.
#ifdef VMRING_FIRST_POSITION
inline constexpr uint32_t kFirstPosition = VMRING_FIRST_POSITION;
#else
inline constexpr uint32_t kFirstPosition = 0;
#endif
inline constexpr uint32_t kMaxRecord = (1u << 27) - 1;

struct RecordHeader {
  uint32_t length;
  bool extended;
  Kind kind;
  uint32_t sequence;
};

constexpr uint64_t encode(RecordHeader h) {
  return uint64_t{h.length} | uint64_t{h.extended} << 27 | uint64_t{static_cast<uint32_t>(h.kind)} << 28 |
         uint64_t{h.sequence} << 32;
}
constexpr RecordHeader decode(uint64_t word) {
  return {static_cast<uint32_t>(word) & kMaxRecord, (word >> 27 & 1) != 0, static_cast<Kind>(word >> 28 & 15),
          static_cast<uint32_t>(word >> 32)};
}

// Ring bytes of a record with this many payload bytes.
constexpr uint32_t record_size(uint32_t length) { return (kHeaderSize + length + 7) & ~7u; }
// Largest payload of one record: the record is at most half the ring, so that padding and record always fit together.
constexpr uint32_t max_payload(uint32_t capacity) {
  const uint32_t half = capacity / 2 - 2 * kHeaderSize;
  return half < kMaxRecord ? half : kMaxRecord;
}
// Payloads above this go the large way: four of them fit the ring, and the copy stays small.
constexpr uint32_t inline_limit(uint32_t capacity) { return capacity / 4 < kMaxRecord ? capacity / 4 : kMaxRecord; }

struct LargeDescriptor {
  uint64_t offset; // in the sender's section
  uint64_t length;
  uint32_t slot;
  uint32_t generation;
};
static_assert(sizeof(LargeDescriptor) == 24);

// A record as read: every field was loaded once and checked, only `payload` points into shared memory.
struct Record {
  Kind kind;
  bool extended;
  uint32_t length;
  uint32_t sequence;
  const uint8_t* payload;
};

enum class Poll { none, record, fault };

// Walks published records from a private position. Used by the consumer, and by a producer that reads its own outbox back
// for resending: that memory lies in the open too, so it is trusted as little.
template <class A>
class RecordCursor {
 public:
  RecordCursor(const uint8_t* data, uint32_t capacity, uint32_t position, uint32_t sequence)
      : data_(data), capacity_(capacity), position_(position), sequence_(sequence) {}

  uint32_t position() const { return position_; }
  uint32_t sequence() const { return sequence_; }
  const char* fault() const { return fault_; }

  // Is something published at the position? One load, for parking and polling.
  bool published() const { return A::template load_acquire<Site::read_record>(word(position_)) != 0; }

  // Reads the next record and moves behind it. `window` = bytes that may be unread at most (capacity less what is lent):
  // anything larger would overlap memory that the producer may not touch. At most two headers are looked at per call.
  Poll next(Record& out, uint32_t window) {
    // SYNC: pairs with Producer::publish; payload and the following zero header are visible after this load.
    uint64_t raw = A::template load_acquire<Site::read_record>(word(position_));
    if (raw == 0) {
      in_a_row_ = 0;
      return Poll::none;
    }
    RecordHeader header = decode(raw);
    uint32_t at = position_;
    const uint32_t to_end = capacity_ - (at & (capacity_ - 1));
    if (header.kind == Kind::pad) {
      if (header.sequence != sequence_ || header.length != to_end - kHeaderSize || to_end == capacity_ || to_end > window) {
        return broken("a padding record that does not reach the end of the ring");
      }
      at += to_end;
      window -= to_end;
      raw = A::template load_acquire<Site::read_record>(word(at));
      header = decode(raw);
      if (raw == 0 || header.kind == Kind::pad) return broken("a padding record with nothing behind it");
    }
    const uint32_t size = record_size(header.length);
    if (header.kind == Kind::none || header.kind > Kind::fin) return broken("a record of unknown kind");
    if (header.sequence != sequence_) return broken("a record out of sequence");
    if (header.length > max_payload(capacity_)) return broken("a record larger than half the ring");
    if (size > capacity_ - (at & (capacity_ - 1))) return broken("a record that crosses the end of the ring");
    if (size > window) return broken("a record that covers memory still lent out");
    out = {header.kind, header.extended, header.length, sequence_, data_ + (at & (capacity_ - 1)) + kHeaderSize};
    position_ = at + size;
    ++sequence_;
    // Headers that lie far apart are not fetched ahead by the processor itself. Only where much is waiting: the line that the
    // producer is about to write would have to be taken away from here again.
    if (++in_a_row_ > kManyInARow && size > kFarApart) A::will_read(word(position_ + kRecordsAhead * size));
    return Poll::record;
  }

 private:
  static constexpr uint32_t kManyInARow = 16;
  static constexpr uint32_t kRecordsAhead = 3;
  static constexpr uint32_t kFarApart = 128; // bytes

  const uint64_t* word(uint32_t position) const {
    return reinterpret_cast<const uint64_t*>(data_ + (position & (capacity_ - 1)));
  }
  Poll broken(const char* words) {
    fault_ = words;
    return Poll::fault;
  }

  const uint8_t* data_;
  uint32_t capacity_;
  uint32_t position_;
  uint32_t sequence_;
  uint32_t in_a_row_ = 0; // records since the end of what there is was met
  const char* fault_ = nullptr;
};

} // namespace vmring
