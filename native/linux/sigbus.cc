#include "linux/sigbus.hpp"

#include <signal.h>
#include <sys/mman.h>

#include <cerrno>
#include <mutex>

namespace vmring {
namespace {

std::atomic<GuardedRange*> ranges{nullptr};
std::mutex installing;
struct sigaction previous; // written before our handler can run

void pass_on(int signal, siginfo_t* info, void* context) {
  if ((previous.sa_flags & SA_SIGINFO) != 0 && previous.sa_sigaction != nullptr) {
    previous.sa_sigaction(signal, info, context);
    return;
  }
  if (previous.sa_handler == SIG_IGN && info->si_code <= 0) return;
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
    return;
  }
  // The default action: a fault repeats itself when we return, a signal that somebody sent has to be raised again.
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  sigaction(signal, &standard, nullptr);
  if (info->si_code <= 0) raise(signal);
}

void on_sigbus(int signal, siginfo_t* info, void* context) {
  const int kept = errno;
  // si_code > 0: the kernel says so, and only then is si_addr an address.
  if (info->si_code > 0) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(info->si_addr);
    for (GuardedRange* range = ranges.load(std::memory_order_acquire); range != nullptr; range = range->next) {
      if (at - range->begin >= range->size) continue;
      // The mark first: whoever reads zeros from the new pages can already see why.
      range->lost.store(1, std::memory_order_release);
      if (!replace_pages(range->begin, range->size)) break;
      errno = kept;
      return;
    }
  }
  pass_on(signal, info, context);
  errno = kept;
}

void install() {
  struct sigaction current = {};
  sigaction(SIGBUS, nullptr, &current);
  if ((current.sa_flags & SA_SIGINFO) != 0 && current.sa_sigaction == on_sigbus) return;
  previous = current;
  struct sigaction ours = {};
  ours.sa_sigaction = on_sigbus;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  sigemptyset(&ours.sa_mask);
  sigaction(SIGBUS, &ours, nullptr);
}

} // namespace

bool replace_pages(uintptr_t begin, size_t size) noexcept {
  void* at = reinterpret_cast<void*>(begin);
  return mmap(at, size, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == at;
}

void guard(GuardedRange* range) {
  const std::lock_guard<std::mutex> lock(installing);
  install();
  range->next = ranges.load(std::memory_order_relaxed);
  ranges.store(range, std::memory_order_release);
}

} // namespace vmring
