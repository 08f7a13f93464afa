// The bytes of an input, read as decisions: what a random source would have said. Small numbers take one byte, so that a change of
// a byte changes one decision. Behind the last byte everything is 0, and done.
#pragma once

#include <cstdint>
#include <cstring>

namespace fuzz {

class Input {
 public:
  Input(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}

  bool done() const { return at_ == end_; }
  uint64_t next() { return take(8); }
  uint32_t below(uint32_t limit) {
    if (limit <= 1) return 0;
    return static_cast<uint32_t>(take(limit <= 256 ? 1 : limit <= 65536 ? 2 : 4)) % limit;
  }
  bool one_in(uint32_t n) { return below(n) == 0; }

 private:
  uint64_t take(size_t bytes) {
    uint64_t value = 0;
    const size_t have = static_cast<size_t>(end_ - at_);
    memcpy(&value, at_, bytes < have ? bytes : have);
    at_ += bytes < have ? bytes : have;
    return value;
  }
  const uint8_t* at_;
  const uint8_t* end_;
};

} // namespace fuzz
