// A descriptor on a libuv loop, with one timer beside it.
//
// Objects live on the heap and delete themselves: shut() ends all calls at once and may be called from inside any of them;
// the memory goes when libuv has let go of the handles.
#pragma once

#include <uv.h>

#include "fd_socket.hpp"
#include "unix_address.hpp"

namespace vmring {

class Polled {
 public:
  Polled(const Polled&) = delete;
  Polled& operator=(const Polled&) = delete;

  void ref(bool keep_loop_alive) {
    if (shut_) return;
    referenced_ = keep_loop_alive;
    apply_ref(&timer_);
    if (polling_) apply_ref(&poll_);
  }

 protected:
  Polled(uv_loop_t* loop, LoopUsers* users, int fd) : fd_(fd), loop_(loop), users_(users) {
    ++users_->live;
    uv_timer_init(loop, &timer_);
    timer_.data = this;
    handles_ = 1;
  }
  virtual ~Polled() = default;

  // status < 0: libuv says EBADF for any error on the socket, and has stopped polling.
  virtual void on_poll(int status, int events) = 0;
  virtual void on_timer() = 0;

  // 0 or a negative errno.
  int open_poll() {
    const int code = uv_poll_init(loop_, &poll_, fd_);
    if (code != 0) return code;
    poll_.data = this;
    polling_ = true;
    ++handles_;
    if (!referenced_) apply_ref(&poll_);
    return 0;
  }

  void want(int events) {
    if (!polling_ || shut_ || events == events_) return;
    events_ = events;
    if (events == 0) {
      uv_poll_stop(&poll_);
      return;
    }
    uv_poll_start(&poll_, events, [](uv_poll_t* handle, int status, int what) {
      auto* self = static_cast<Polled*>(handle->data);
      if (status < 0) self->events_ = 0;
      self->on_poll(status, what);
    });
  }

  void set_timer(uint64_t milliseconds) {
    uv_timer_start(&timer_, [](uv_timer_t* handle) { static_cast<Polled*>(handle->data)->on_timer(); }, milliseconds, 0);
  }
  void stop_timer() { uv_timer_stop(&timer_); }
  uint64_t now() const { return uv_now(loop_); }

  void shut() {
    if (shut_) return;
    shut_ = true;
    if (polling_) uv_close(reinterpret_cast<uv_handle_t*>(&poll_), handle_closed);
    uv_close(reinterpret_cast<uv_handle_t*>(&timer_), handle_closed);
    // uv_close has taken it out of the loop's epoll set.
    close_fd(fd_);
    fd_ = -1;
  }
  bool is_shut() const { return shut_; }

  int fd_;

 private:
  template <class Handle>
  void apply_ref(Handle* handle) {
    auto* base = reinterpret_cast<uv_handle_t*>(handle);
    referenced_ ? uv_ref(base) : uv_unref(base);
  }
  static void handle_closed(uv_handle_t* handle) {
    auto* self = static_cast<Polled*>(handle->data);
    if (--self->handles_ > 0) return;
    LoopUsers* users = self->users_;
    delete self;
    users->gone();
  }

  uv_loop_t* loop_;
  LoopUsers* users_;
  uv_poll_t poll_{};
  uv_timer_t timer_{};
  int handles_ = 0;
  int events_ = 0;
  bool polling_ = false;
  bool referenced_ = true;
  bool shut_ = false;
};

}  // namespace vmring
