// A role of a scenario runs on a stack of its own and gives way at every shared access. Fibers are abandoned in the middle
// and started again thousands of times a second, so nothing on such a stack may own anything.
//
// ucontext enters the stack; after that _setjmp/_longjmp switch without system calls. Under a sanitizer swapcontext does
// it, with the announcements that the sanitizer wants.
#pragma once

#ifdef _FORTIFY_SOURCE
#error "build without _FORTIFY_SOURCE: its longjmp refuses to change stacks"
#endif
#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#if defined(__SANITIZE_ADDRESS__)
#define EXPLORER_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define EXPLORER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EXPLORER_ASAN 1
#elif __has_feature(thread_sanitizer)
#define EXPLORER_TSAN 1
#endif
#endif
#ifdef EXPLORER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
// Frames that are abandoned would keep their fake stacks for ever.
extern "C" __attribute__((visibility("default"), used)) inline const char* __asan_default_options() {
  return "detect_stack_use_after_return=0";
}
#endif
#ifdef EXPLORER_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace explorer {

// How much slower a step is.
#if defined(EXPLORER_ASAN)
inline constexpr int kSlower = 10;
#elif defined(EXPLORER_TSAN)
inline constexpr int kSlower = 100;
#else
inline constexpr int kSlower = 1;
#endif
inline constexpr bool kSanitized = kSlower > 1;

class Fiber {
 public:
  static constexpr size_t kStack = 64 * 1024;

  Fiber() : stack_(new uint8_t[kStack]) {}
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber() { forget(); }

  // Prepares a run of body(argument, index) from its beginning; what an earlier run left on the stack is forgotten.
  void start(void (*body)(void*, int), void* argument, int index) {
    body_ = body;
    argument_ = argument;
    index_ = index;
    entered_ = false;
    forget();
#ifdef EXPLORER_ASAN
    __asan_unpoison_memory_region(stack_.get(), kStack);
#endif
#ifdef EXPLORER_TSAN
    tsan_ = __tsan_create_fiber(0);
#endif
  }

  // Runs until the body gives way or ends.
  void resume() {
    if (!kSanitized && entered_) {
      if (_setjmp(outside_jump_) == 0) _longjmp(inside_jump_, 1);
      return;
    }
    if (!entered_) {
      entered_ = true;
      getcontext(&inside_);
      inside_.uc_stack.ss_sp = stack_.get();
      inside_.uc_stack.ss_size = kStack;
      inside_.uc_link = nullptr;
      const auto self = reinterpret_cast<uintptr_t>(this);
      makecontext(&inside_, reinterpret_cast<void (*)()>(&Fiber::enter), 2, static_cast<unsigned>(self >> 32),
                  static_cast<unsigned>(self));
      if (!kSanitized) {
        if (_setjmp(outside_jump_) == 0) setcontext(&inside_);
        return;
      }
    }
#ifdef EXPLORER_ASAN
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, stack_.get(), kStack);
#endif
#ifdef EXPLORER_TSAN
    home_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(tsan_, 0);
#endif
    swapcontext(&outside_, &inside_);
#ifdef EXPLORER_ASAN
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  // On the fiber: back to whoever resumed it.
  void give_way() {
    if (!kSanitized) {
      if (_setjmp(inside_jump_) == 0) _longjmp(outside_jump_, 1);
      return;
    }
#ifdef EXPLORER_ASAN
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, home_stack_, home_size_);
#endif
#ifdef EXPLORER_TSAN
    __tsan_switch_to_fiber(home_, 0);
#endif
    swapcontext(&inside_, &outside_);
#ifdef EXPLORER_ASAN
    __sanitizer_finish_switch_fiber(fake, &home_stack_, &home_size_);
#endif
  }

 private:
  static void enter(unsigned high, unsigned low) {
    auto* self = reinterpret_cast<Fiber*>(uintptr_t{high} << 32 | low);
#ifdef EXPLORER_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &self->home_stack_, &self->home_size_);
#endif
    self->body_(self->argument_, self->index_);
    for (;;) self->give_way(); // ended; never asked again
  }
  void forget() {
#ifdef EXPLORER_TSAN
    if (tsan_) __tsan_destroy_fiber(tsan_);
    tsan_ = nullptr;
#endif
  }

  std::unique_ptr<uint8_t[]> stack_;
  void (*body_)(void*, int) = nullptr;
  void* argument_ = nullptr;
  int index_ = 0;
  bool entered_ = false;
  ucontext_t inside_;
  ucontext_t outside_;
  jmp_buf inside_jump_;
  jmp_buf outside_jump_;
#ifdef EXPLORER_ASAN
  const void* home_stack_ = nullptr;
  size_t home_size_ = 0;
#endif
#ifdef EXPLORER_TSAN
  void* home_ = nullptr;
  void* tsan_ = nullptr;
#endif
};

} // namespace explorer
