// A member's part of a turn of the event loop: what has come, who hears of it, and how it goes to sleep.
#include <unistd.h>

#include "addon/member.hpp"
#include "addon/module.hpp"

namespace vmring::addon {
namespace {

constexpr uint64_t kHotNanoseconds = 100'000;    // adaptive: keep looking this long after the last message
constexpr uint64_t kHotAsking = 300'000;         // … or after the last control message of our own: what answers it is more than a message takes
constexpr uint64_t kCrowdedAway = 200'000;       // nobody keeps a processor for so long who does not need it
constexpr uint64_t kCrowdedNanoseconds = 50'000'000;
constexpr uint64_t kVainPause = 500'000; // doubled with each time that spinning was in vain, the first left out
constexpr uint32_t kMostVain = 6;
constexpr uint64_t kScanNanoseconds = 5'000'000; // the table is looked at this often while hot
constexpr uint32_t kControlPerTurn = 32;         // control messages of one peer
constexpr size_t kBellsPerLook = 4;
constexpr uint64_t kMillisecond = 1'000'000;
// Who can ring can ring a million times a second. An honest peer rings once for each time that we sleep, and changes a bell first.
constexpr uint64_t kWindow = 10 * kMillisecond;
constexpr uint32_t kMostRings = 1000; // in a window: more than a loop can sleep between them
constexpr uint32_t kMostEmpty = 100;  // with nothing behind them
// For so long nobody listens to them, and longer each time that it was to no avail; we look once a millisecond …
constexpr uint64_t kMuted = 20 * kMillisecond;
constexpr uint64_t kMostMuted = 640 * kMillisecond;
constexpr uint64_t kMutedHot = kMillisecond; // … and all the time for so long after a message, so that a talk goes on
constexpr uint64_t kLongIdle = 2'000 * kMillisecond; // from here on the watchdog's ticks are enough

} // namespace

void Member::drain() {
  uint64_t count = 0;
  if (::read(options_.doorbell, &count, sizeof count) == static_cast<ssize_t>(sizeof count)) ++counters_.wakeups;
  signalled_ = rung_ = true;
}

void Member::listen() {
  uv_poll_start(&handles_->poll, UV_READABLE, [](uv_poll_t* handle, int, int) {
    Member* member = static_cast<Handles*>(handle->data)->member;
    if (member != nullptr) member->drain();
  });
}

// Behind each look that a doorbell has caused.
void Member::limit_doorbells() {
  const bool empty = !heard_;
  rung_ = heard_ = false;
  const uint64_t now = steady_nanoseconds();
  if (now - window_ >= kWindow) {
    window_ = now;
    rings_ = empty_ = 0;
  }
  ++rings_;
  if (empty) ++empty_;
  if (rings_ < kMostRings && empty_ < kMostEmpty) return;
  rings_ = empty_ = 0;
  if (handles_ == nullptr || muted_until_ != 0) return;
  uv_poll_stop(&handles_->poll);
  // unmuted no longer ago than it was muted: it is the same storm
  muted_for_ = now < unmuted_ + muted_for_ ? std::min(2 * muted_for_, kMostMuted) : kMuted;
  muted_until_ = now + muted_for_;
  ++counters_.muted;
}

void Member::fall_asleep() {
  sleeper_.announce();
  naps_.store(naps_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  asleep_.store(true, std::memory_order_release);
}

void Member::woke() {
  if (!asleep_.load(std::memory_order_relaxed)) return;
  asleep_.store(false, std::memory_order_release);
  if (!mapping_->lost()) sleeper_.awake();
}

void Member::away(uint64_t before, uint64_t now) {
  if (now - before < kCrowdedAway) return;
  crowded_until_ = now + kCrowdedNanoseconds;
  if (crowded(now) && muted_until_ == 0) hot_until_ = 0;
}

void Member::spun_in_vain(uint64_t now) {
  if (vain_ < kMostVain) ++vain_;
  if (vain_ > 1 && crowded_until_ < now + (kVainPause << vain_)) crowded_until_ = now + (kVainPause << vain_);
}

bool Member::has_news() {
  if (closed_) return false;
  if (signalled_ || attention_.load(std::memory_order_relaxed) != 0 || !events_.empty()) return true;
  if (mapping_->lost()) return !lost_reported_ || any_ready();
  for (const uint32_t section : present_) {
    if (others_[section].control_pending || others_[section].remote->news()) return true;
  }
  return any_ready();
}

bool Member::some_news() {
  if (closed_) return false;
  if (signalled_ || attention_.load(std::memory_order_relaxed) != 0 || !events_.empty()) return true;
  if (mapping_->lost()) return !lost_reported_;
  for (size_t i = 0; i < kBellsPerLook && i < present_.size(); ++i) {
    if (++next_look_ >= present_.size()) next_look_ = 0;
    const Other& other = others_[present_[next_look_]];
    if (other.control_pending || other.remote->news()) return true;
  }
  return false;
}

bool Member::may_sleep() {
  if (closed_) return true;
  flush_released();
  if (mapping_->lost()) return !has_news();
  if (traffic_ || hot_until_ != 0) {
    const uint64_t now = steady_nanoseconds();
    if (traffic_) {
      traffic_ = false;
      last_traffic_ = now;
      const bool looks = options_.mode == Mode::adaptive && !crowded(now);
      const uint64_t hot = muted_until_ != 0 ? kMutedHot : !looks ? 0 : asking_ ? kHotAsking : kHotNanoseconds;
      asking_ = false;
      hot_until_ = hot == 0 ? 0 : now + hot;
    }
    if (now < hot_until_) return false;
    if (hot_until_ != 0 && muted_until_ == 0) spun_in_vain(now);
    hot_until_ = 0;
  }
  if (options_.mode == Mode::busy) return false;
  if (signalled_ || attention_.load() != 0 || !events_.empty()) return false;
  if (!park_active()) return false;
  fall_asleep();
  if (has_news()) {
    woke();
    return false;
  }
  ++counters_.sleeps;
  return true;
}

uint64_t Member::poll_delay() {
  if (muted_until_ != 0 && !closed_) {
    const uint64_t now = steady_nanoseconds();
    if (now < muted_until_) return 1;
    muted_until_ = 0;
    unmuted_ = now;
    listen();
  }
  if (closed_ || !polls() || mapping_->lost()) return ~uint64_t{0};
  const uint64_t idle = steady_nanoseconds() - last_traffic_;
  if (idle > kLongIdle) return ~uint64_t{0};
  const uint64_t delay = idle / kMillisecond / 8;
  return delay < 1 ? 1 : delay > 200 ? 200 : delay;
}

void Member::process() {
  if (closed_ || processing_) return;
  const std::shared_ptr<Member> keep = shared_from_this();
  processing_ = true;
  const uint32_t attention = attention_.exchange(0);
  if (mapping_->lost()) {
    report_lost();
  } else {
    // What somebody said before leaving is heard before the leave: its last frames still stand in its section.
    take_bells();
    deliver_control();
    const uint64_t now = steady_nanoseconds();
    if (!closed_ && (signalled_ || table_due_ || (attention & kTable) != 0 || now >= next_scan_)) {
      next_scan_ = now + kScanNanoseconds;
      scan();
    }
    signalled_ = table_due_ = false;
    if ((attention & kStall) != 0) check_stalls();
    deliver_events();
  }
  tell_ready();
  if (rung_ && !closed_) limit_doorbells();
  processing_ = false;
}

void Member::serve() {
  if (mapping_->lost()) return process();
  if (closed_ || processing_) return;
  const std::shared_ptr<Member> keep = shared_from_this();
  processing_ = true;
  tell_ready();
  processing_ = false;
}

void Member::tell_ready() {
  if (closed_) return;
  const uint32_t count = collect(ready_, kReadyPairs);
  if (count != 0 && listener_ != nullptr) listener_->on_ready(count);
}

void Member::report_lost() {
  signalled_ = false;
  if (lost_reported_.exchange(true)) return;
  each_end([this](EndEntry& end) { activate(end); }); // each says FAULT once
  events_.emplace_back(PeerEvent::lost, self());
  deliver_events();
}

void Member::check_stalls() {
  for (const uint32_t section : present_) {
    Other& other = others_[section];
    const bool stalled = watch_[section].stalled.load();
    if (stalled == other.stalled) continue;
    other.stalled = stalled;
    events_.emplace_back(stalled ? PeerEvent::stalled : PeerEvent::resumed,
                         RemoteInfo{section, other.remote->identity(), stalled});
  }
}

void Member::deliver_events() {
  while (!events_.empty() && listener_ != nullptr) {
    const auto [event, info] = events_.front();
    events_.pop_front();
    if (event == PeerEvent::ring) others_[info.section].rung = false;
    listener_->on_peer(event, info);
  }
}

void Member::take_bells() {
  for (const uint32_t section : present_) {
    Other& other = others_[section];
    // Read before news(): an older total can only make the watchdog look once too often.
    watch_[section].seen_bell.store(bell_total(section), std::memory_order_relaxed);
    if (!other.remote->news()) continue;
    heard_ = true;
    const uint32_t groups = other.remote->take_news();
    traffic_ = true;
    other.control_pending = true;
    for (uint32_t group = 1; group < kBellWords; ++group) {
      if ((groups >> group & 1) == 0) continue;
      for (const uint32_t id : other.ends[group]) {
        if (EndEntry* end = table_.find(id)) suspect(*end);
      }
    }
  }
}

void Member::deliver_control() {
  uint8_t message[kMaxControl];
  const std::vector<uint32_t> sections = present_; // listeners may make members come and go
  for (const uint32_t section : sections) {
    Other& other = others_[section];
    for (uint32_t i = 0; i < kControlPerTurn && other.control_pending && !closed_; ++i) {
      const uint32_t length = other.remote->poll_control(message);
      if (length == 0) {
        other.control_pending = false;
      } else if (listener_ != nullptr) {
        traffic_ = true;
        listener_->on_control(section, other.remote->identity().incarnation, message, length);
      }
    }
  }
}

} // namespace vmring::addon
