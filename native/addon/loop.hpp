// The event loop of one environment: when to look, when to spin, when to sleep.
//
//   prepare   publish pending releases; hot → keep an idle handle running, else announce sleep and look once more
//   (poll)    the loop sleeps on the doorbells, unless the idle handle runs
//   check     awake again; whatever came is processed
//   idle      while hot: spin natively for a few microseconds, then let the loop turn so that other I/O is served
#pragma once

#include <uv.h>

#include <memory>
#include <vector>

#include "addon/js.hpp"

namespace vmring::addon {

class Member;
class Module;

class Loop {
 public:
  explicit Loop(Module& module) : module_(module) {}
  void open(napi_env env);
  // Closes every handle for good, at the end of the environment.
  void shut();

  uv_loop_t* uv() const { return uv_; }
  void add(std::shared_ptr<Member> member);
  void remove(Member* member);

  // As long as anybody holds the loop, its handles run (none of them keeps the process alive).
  void hold();
  void release();
  // The next turn comes at once, and the process lives to see it.
  void kick();

  // Every closing handle is counted; when the environment ends, its cleanup is done when the last has closed.
  void handle_opened() { ++open_handles_; }
  void handle_closed();
  size_t open_handles() const { return open_handles_; }

 private:
  struct Handles {
    uv_prepare_t prepare;
    uv_check_t check;
    uv_idle_t idle;
    uv_timer_t timer;
    Loop* loop;
    int open;
  };
  void on_prepare();
  void on_check();
  void on_idle();
  void on_timer();
  enum class Found { nothing, yielded, ready, news };
  Found spin(uint64_t until);
  std::vector<std::shared_ptr<Member>> members() const { return members_; } // a copy: callbacks change the list

  Module& module_;
  uv_loop_t* uv_ = nullptr;
  Handles* handles_ = nullptr;
  std::vector<std::shared_ptr<Member>> members_;
  size_t holders_ = 0;
  size_t open_handles_ = 0;
};

} // namespace vmring::addon
