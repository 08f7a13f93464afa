// Which ends have to be looked at, and what they have to say. A Member owns the ends in its section, Pairs the private ones.
//
// An end with recent traffic is *active*: it is polled directly. The others have parked and are named by a bell.
#pragma once

#include <vector>

#include "addon/end_table.hpp"

namespace vmring::addon {

inline constexpr uint32_t kQuietPolls = 4096; // without anything: the end is parked, unless it is the only one

class EndOwner {
 public:
  explicit EndOwner(EndTable& table) : table_(table) {}
  virtual ~EndOwner() = default;

  // The other side must look at this end. Called when the wake protocol says so.
  virtual void ring(EndEntry& end) = 0;

  void activate(EndEntry& end) {
    traffic_ = true;
    end.quiet = 0;
    list(end);
  }
  // Perhaps something has come: where many ends are looked at, one look is enough. Where nothing has, what was announced still holds.
  void suspect(EndEntry& end) {
    traffic_ = true;
    if (end.active || (end.parked && look(end) == 0)) return;
    end.quiet = kQuietPolls;
    list(end);
  }
  void list(EndEntry& end) {
    if (end.active) return;
    end.active = true;
    end.parked = false;
    active_.push_back(end.id);
    activated();
  }

  // A record or several were committed.
  void published(EndEntry& end) {
    if (end.is_private || end.core.tx().wake_needed()) {
      ring(end);
    } else {
      ++end.suppressed;
      ++suppressed_;
    }
    one_way_ = 0;
    activate(end); // whoever sends awaits an answer
  }

  // A record was received.
  void taken() { ++one_way_; }

  // A record was given back: the sender hears of it when a quarter of the ring has come together, or before we wait.
  void released(EndEntry& end) {
    if (end.core.rx().unpublished() >= end.core.rx().capacity() / 4) {
      publish_released(end);
    } else if (!end.dirty) {
      end.dirty = true;
      dirty_.push_back(end.id);
    }
  }
  void publish_released(EndEntry& end) {
    if (end.core.rx().unpublished() == 0) return;
    end.core.rx().publish_released();
    if (end.is_private || end.core.rx().space_wake_needed()) ring(end);
  }

  void flush_released();

  // Is there anything that JavaScript should hear? Changes nothing that matters.
  bool any_ready();
  // Pairs {id, bits} for at most `most` ends, round robin over the active ones.
  uint32_t collect(uint32_t* pairs, uint32_t most);
  // Announces for every active end where to be woken. False: one of them has something after all.
  bool park_active();

  uint64_t suppressed() const { return suppressed_; }

 protected:
  virtual void activated() {}
  // May an end that has been quiet for long leave the active list while the others are still polled?
  bool park(EndEntry& end);
  static uint32_t look(EndEntry& end);

  EndTable& table_;
  std::vector<uint32_t> active_;
  std::vector<uint32_t> dirty_;
  size_t cursor_ = 0;
  bool traffic_ = false;
  uint32_t one_way_ = 0; // records taken since one was committed
  uint64_t suppressed_ = 0;
};

} // namespace vmring::addon
