// A set of 64-bit state hashes, open addressing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace explorer {

class Visited {
 public:
  void clear() {
    slots_.assign(1u << 12, 0);
    count_ = 0;
  }
  size_t size() const { return count_; }
  // False: was there.
  bool insert(uint64_t hash) {
    if (hash == 0) hash = 1;
    if ((count_ + 1) * 2 > slots_.size()) {
      std::vector<uint64_t> old(slots_.size() * 2, 0);
      old.swap(slots_);
      for (const uint64_t h : old) {
        if (h != 0) slots_[find(h)] = h;
      }
    }
    const size_t at = find(hash);
    if (slots_[at] == hash) return false;
    slots_[at] = hash;
    ++count_;
    return true;
  }

 private:
  size_t find(uint64_t hash) const {
    size_t at = hash & (slots_.size() - 1);
    while (slots_[at] != 0 && slots_[at] != hash) at = (at + 1) & (slots_.size() - 1);
    return at;
  }
  std::vector<uint64_t> slots_;
  size_t count_ = 0;
};

} // namespace explorer
