// Memory of the own section, handed out in lines. First fit over a private map: nothing of it lies in shared memory, so
// nobody else can corrupt it.
#pragma once

#include <cstdint>
#include <iterator>
#include <map>

#include "layout.hpp"

namespace vmring {

class SectionAllocator {
 public:
  SectionAllocator(uint64_t begin, uint64_t end) : size_(end - begin), free_bytes_(size_) {
    if (size_ != 0) free_.emplace(begin, size_);
  }

  // Offset of `length` bytes aligned to a line, or 0: no stretch is long enough. (0 is never free: the identity is there.)
  uint64_t allocate(uint64_t length) {
    if (length == 0 || length > size_) return 0;
    length = align_up(length, kLine);
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if (it->second < length) continue;
      const uint64_t offset = it->first;
      const uint64_t rest = it->second - length;
      free_.erase(it);
      if (rest != 0) free_.emplace(offset + length, rest);
      used_.emplace(offset, length);
      free_bytes_ -= length;
      return offset;
    }
    return 0;
  }

  // False: nothing was handed out there.
  bool release(uint64_t offset) {
    const auto used = used_.find(offset);
    if (used == used_.end()) return false;
    uint64_t length = used->second;
    used_.erase(used);
    free_bytes_ += length;
    auto after = free_.lower_bound(offset);
    if (after != free_.begin()) {
      const auto before = std::prev(after);
      if (before->first + before->second == offset) {
        offset = before->first;
        length += before->second;
        free_.erase(before);
      }
    }
    if (after != free_.end() && offset + length == after->first) {
      length += after->second;
      free_.erase(after);
    }
    free_.emplace(offset, length);
    return true;
  }

  uint64_t size() const { return size_; }
  uint64_t free_bytes() const { return free_bytes_; }
  uint64_t largest() const {
    uint64_t most = 0;
    for (const auto& [offset, length] : free_) most = length > most ? length : most;
    return most;
  }

 private:
  uint64_t size_;
  uint64_t free_bytes_;
  std::map<uint64_t, uint64_t> free_; // offset → length, neighbours joined
  std::map<uint64_t, uint64_t> used_;
};

} // namespace vmring
