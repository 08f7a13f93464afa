#include "addon/end_owner.hpp"

namespace vmring::addon {

uint32_t EndOwner::look(EndEntry& end) {
  if (end.lost() || end.fault() != nullptr) return end.fault_reported ? 0 : ready::fault;
  uint32_t bits = 0;
  if (end.want_readable && !end.stopped && end.core.rx().readable()) bits |= ready::readable;
  if (end.want_space != kNoLength && end.core.tx().want_space(end.want_space)) bits |= ready::writable;
  // The producer reads the other side's words, and may find them impossible.
  if (end.core.tx().fault() != nullptr && !end.fault_reported) bits |= ready::fault;
  return bits;
}

bool EndOwner::park(EndEntry& end) {
  if (look(end) != 0) return false;
  // A direction that nobody wants to hear of needs no bell. Space was announced by look().
  end.parked = !end.want_readable || end.stopped || end.is_private || end.core.rx().park();
  return end.parked;
}

void EndOwner::flush_released() {
  for (size_t i = 0; i < dirty_.size(); ++i) {
    EndEntry* end = table_.find(dirty_[i]);
    if (end == nullptr || !end->dirty) continue;
    end->dirty = false;
    publish_released(*end);
  }
  dirty_.clear();
}

bool EndOwner::any_ready() {
  for (const uint32_t id : active_) {
    EndEntry* end = table_.find(id);
    if (end != nullptr && look(*end) != 0) return true;
  }
  return false;
}

uint32_t EndOwner::collect(uint32_t* pairs, uint32_t most) {
  uint32_t count = 0;
  size_t left = active_.size();
  while (left-- != 0 && count < most) {
    if (cursor_ >= active_.size()) cursor_ = 0;
    EndEntry* end = table_.find(active_[cursor_]);
    const uint32_t bits = end != nullptr ? look(*end) : 0;
    if (bits != 0) {
      pairs[2 * count] = end->id;
      pairs[2 * count + 1] = bits;
      ++count;
      end->quiet = 0;
      if ((bits & ready::writable) != 0) end->want_space = kNoLength;
      if ((bits & ready::fault) != 0) end->fault_reported = true;
      traffic_ = true;
      ++cursor_;
      continue;
    }
    const bool silent = end == nullptr || end->is_private || end->owner != this ||
                        (++end->quiet > kQuietPolls && active_.size() > 1 && park(*end));
    if (silent) {
      if (end != nullptr && end->owner == this) end->active = false;
      active_[cursor_] = active_.back();
      active_.pop_back();
    } else {
      ++cursor_;
    }
  }
  return count;
}

bool EndOwner::park_active() {
  bool nothing = true;
  size_t kept = 0;
  for (size_t i = 0; i < active_.size(); ++i) {
    EndEntry* end = table_.find(active_[i]);
    if (end == nullptr || end->owner != this) continue;
    if (park(*end)) {
      end->active = false;
    } else {
      nothing = false;
      active_[kept++] = active_[i];
    }
  }
  active_.resize(kept);
  return nothing;
}

} // namespace vmring::addon
