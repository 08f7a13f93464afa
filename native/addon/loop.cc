#include "addon/loop.hpp"

#include <sched.h>

#include "addon/member.hpp"
#include "addon/module.hpp"
#include "addon/pause.hpp"

namespace vmring::addon {
namespace {

constexpr uint64_t kSpinNanoseconds = 4'000;  // between two looks at the rest of what concerns us
constexpr uint64_t kVainNanoseconds = 16'000; // in one turn, while nothing comes
constexpr uint64_t kStayNanoseconds = 40'000; // in one turn, while messages come
constexpr uint64_t kNoTimer = ~uint64_t{0};

template <class Handle>
uv_handle_t* base(Handle* handle) {
  return reinterpret_cast<uv_handle_t*>(handle);
}

} // namespace

void Loop::open(napi_env env) {
  check(napi_get_uv_event_loop(env, &uv_));
  handles_ = new Handles{};
  handles_->loop = this;
  handles_->open = 4;
  uv_prepare_init(uv_, &handles_->prepare);
  uv_check_init(uv_, &handles_->check);
  uv_idle_init(uv_, &handles_->idle);
  uv_timer_init(uv_, &handles_->timer);
  for (uv_handle_t* handle :
       {base(&handles_->prepare), base(&handles_->check), base(&handles_->idle), base(&handles_->timer)}) {
    handle->data = handles_;
    uv_unref(handle);
    handle_opened();
  }
}

void Loop::shut() {
  if (handles_ == nullptr) return;
  for (uv_handle_t* handle :
       {base(&handles_->prepare), base(&handles_->check), base(&handles_->idle), base(&handles_->timer)}) {
    uv_close(handle, [](uv_handle_t* closed) {
      auto* handles = static_cast<Handles*>(closed->data);
      Loop* loop = handles->loop;
      if (--handles->open == 0) delete handles;
      loop->handle_closed();
    });
  }
  handles_ = nullptr;
}

void Loop::handle_closed() {
  --open_handles_;
  module_.handle_closed();
}

void Loop::add(std::shared_ptr<Member> member) {
  members_.push_back(std::move(member));
  hold();
}

void Loop::remove(Member* member) {
  if (std::erase_if(members_, [&](const auto& each) { return each.get() == member; }) != 0) release();
}

void Loop::hold() {
  if (holders_++ != 0 || handles_ == nullptr) return;
  uv_prepare_start(&handles_->prepare, [](uv_prepare_t* h) { static_cast<Handles*>(h->data)->loop->on_prepare(); });
  uv_check_start(&handles_->check, [](uv_check_t* h) { static_cast<Handles*>(h->data)->loop->on_check(); });
}

void Loop::release() {
  if (--holders_ != 0 || handles_ == nullptr) return;
  uv_prepare_stop(&handles_->prepare);
  uv_check_stop(&handles_->check);
  uv_idle_stop(&handles_->idle);
  uv_timer_stop(&handles_->timer);
}

void Loop::kick() {
  if (handles_ == nullptr) return;
  uv_idle_start(&handles_->idle, [](uv_idle_t* h) { static_cast<Handles*>(h->data)->loop->on_idle(); });
  uv_ref(base(&handles_->idle));
}

void Loop::on_prepare() {
  bool turn_again = false;
  uint64_t delay = kNoTimer;
  module_.take_releases();
  module_.pairs.flush_released();
  for (const auto& member : members()) {
    if (!member->may_sleep()) {
      turn_again = true;
      continue;
    }
    const uint64_t wanted = member->poll_delay();
    if (wanted < delay) delay = wanted;
  }
  if (module_.pairs.pending()) turn_again = true;
  if (handles_ == nullptr || holders_ == 0) return;
  if (turn_again) {
    uv_idle_start(&handles_->idle, [](uv_idle_t* h) { static_cast<Handles*>(h->data)->loop->on_idle(); });
  } else {
    uv_idle_stop(&handles_->idle);
  }
  // News of private ends are like an immediate: the loop does not end before they have been told.
  if (module_.pairs.fresh()) {
    uv_ref(base(&handles_->idle));
  } else {
    uv_unref(base(&handles_->idle));
  }
  if (delay != kNoTimer) {
    uv_timer_start(&handles_->timer, [](uv_timer_t* h) { static_cast<Handles*>(h->data)->loop->on_timer(); }, delay, 0);
  } else {
    uv_timer_stop(&handles_->timer);
  }
}

void Loop::on_check() {
  for (const auto& member : members()) member->woke();
  for (const auto& member : members()) {
    if (member->has_news()) member->process();
  }
  module_.pairs.process();
}

void Loop::on_timer() {
  // Regions without interrupts. Members come and go with the table only, so that is looked at too.
  for (const auto& member : members()) {
    if (!member->polls()) continue;
    member->woke();
    member->look_at_table();
    member->process();
  }
}

void Loop::on_idle() {
  module_.pairs.process();
  const uint64_t start = steady_nanoseconds();
  // A turn of the event loop costs a system call and two looks around, more than a message. So turns are left out while messages come,
  // and for as long as an answer takes, for a bounded time.
  uint64_t until = start + kVainNanoseconds;
  for (uint64_t now = start; now < until; now = steady_nanoseconds()) {
    bool hot = false;
    for (const auto& member : members_) hot = hot || member->hot(now);
    const Found found = hot && !module_.pairs.pending() ? spin(now + kSpinNanoseconds) : Found::nothing;
    for (const auto& member : members()) {
      if (found == Found::ready) {
        member->serve();
      } else if (member->has_news()) {
        member->process();
      }
    }
    if (!hot || module_.pairs.pending() || handles_ == nullptr || holders_ == 0) return;
    if (found == Found::nothing) continue;
    if (found == Found::yielded) return;
    for (const auto& member : members_) member->spun_well();
    if (found == Found::news) return;
    until = steady_nanoseconds() + kVainNanoseconds;
    if (until > start + kStayNanoseconds) until = start + kStayNanoseconds;
  }
}

Loop::Found Loop::spin(uint64_t until) {
  uint64_t before = 0;
  for (uint32_t turn = 0;; ++turn) {
    for (const auto& member : members_) {
      if (member->any_ready()) return Found::ready;
      // Bells are somebody else's cache lines: they are looked at less often than the ends that are in use.
      if (turn % 16 == 15 && member->some_news()) return Found::news;
    }
    if (turn % 8 == 7) {
      const uint64_t now = steady_nanoseconds();
      if (before != 0) {
        for (const auto& member : members_) member->away(before, now);
      }
      before = now;
      if (now >= until) break;
    }
    relax();
  }
  // Nothing for so long: perhaps whoever should answer waits for this processor. Who can sleep will do so before long.
  for (const auto& member : members_) {
    if (!member->must_spin()) continue;
    sched_yield();
    return Found::yielded;
  }
  return Found::nothing;
}

} // namespace vmring::addon
