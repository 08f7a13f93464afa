// What one environment (the main thread or one worker) has of vmring: its ends, its peers, its event-loop handles.
#pragma once

#include <atomic>
#include <memory>
#include <unordered_set>

#include "addon/end_table.hpp"
#include "addon/js.hpp"
#include "addon/loop.hpp"
#include "addon/pairs.hpp"

namespace vmring::addon {

inline constexpr uint32_t kReadyPairs = 1024; // ends reported per turn; the rest comes in the next
inline constexpr uint32_t kReleases = 16;     // noted by JavaScript before it must call
inline constexpr uint32_t kStaging = 1024;    // bytes of a message that is handed over without an argument

// Words that JavaScript sees as one typed array for ever.
template <class T>
class SharedWords {
 public:
  explicit SharedWords(size_t count) : count_(count), words_(new T[count]()) {}
  T* get() const { return words_.get(); }
  napi_value array(napi_env env, napi_typedarray_type type) const {
    napi_value result = nullptr;
    const napi_value buffer = external_buffer(env, words_.get(), count_ * sizeof(T), words_);
    check(napi_create_typedarray(env, type, count_, buffer, 0, &result));
    return result;
  }

 private:
  size_t count_;
  std::shared_ptr<T[]> words_;
};

class Device;
class Member;

class Module : public std::enable_shared_from_this<Module> {
 public:
  explicit Module(napi_env environment);
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  // Of this thread, while its environment lives: for functions that cannot afford to ask Node. Thread-local memory of a library that is
  // loaded late costs a call, so the one environment that nearly every process has is looked for first.
  static Module* current() {
    Module* only = only_.load(std::memory_order_relaxed);
    return only != nullptr ? only : current_;
  }

  void open();
  std::shared_ptr<Module> shared() { return shared_from_this(); }

  // Calls a function from the event loop as Node itself would: microtasks and nextTick run after it, what it throws
  // becomes an uncaughtException.
  void call(napi_value function, size_t count, const napi_value* arguments) noexcept;
  // A handle of the event loop has closed.
  void handle_closed();
  // What JavaScript has released since its last call: {count, then end id and sequence number of each}. Looked at with every
  // call about an end but hot_send, and before the loop sleeps; while records are received one after the other, when some have come
  // together or nothing more is there.
  void take_releases() {
    if (releases.get()[0] != 0) take_noted_releases();
  }
  void take_many_releases() {
    if (releases.get()[0] >= kReleases / 2) take_noted_releases();
  }

  napi_env env;
  Loop loop{*this};
  EndTable ends;
  Pairs pairs{*this};
  std::unordered_set<Member*> members; // those that are open
  std::unordered_set<Device*> devices;  // likewise
  SharedWords<double> scratch{7};
  SharedWords<int32_t> hot{3};
  SharedWords<uint8_t> staging{kStaging};
  SharedWords<uint32_t> releases{1 + 2 * kReleases};
  SharedWords<uint32_t> pair_ready{2 * kReadyPairs};
  napi_ref region_class = nullptr;
  napi_ref peer_class = nullptr;
  napi_ref device_class = nullptr;
  std::shared_ptr<Mapping> new_region; // handed to the Region that is being constructed
  bool ended = false;                  // the environment is going away: no JavaScript any more

 private:
  void shut();
  void take_noted_releases();

  static constinit std::atomic<Module*> only_; // null again once there has been a second one
  static constinit thread_local Module* current_;
  napi_async_context context_ = nullptr;
  napi_async_cleanup_hook_handle cleanup_ = nullptr;
};

Module& module_of(napi_env env);

} // namespace vmring::addon
