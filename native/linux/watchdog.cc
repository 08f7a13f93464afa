#include "linux/watchdog.hpp"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <vector>

#include "linux/mapping.hpp"

namespace vmring {
namespace {

struct Thread {
  pthread_t id;
  int stop; // eventfd
};

struct Shared {
  std::mutex life;    // starting and ending the thread
  std::mutex members; // held while ticking
  std::vector<Watched*> watched;
  Thread* thread = nullptr;
};

// Never destroyed: workers may still be ending while the process runs its static destructors.
Shared& shared() {
  static Shared* const instance = new Shared;
  return *instance;
}

void* run(void* argument) {
  const int stop = static_cast<Thread*>(argument)->stop;
  uint64_t due = steady_milliseconds() + kTickMilliseconds;
  for (;;) {
    const uint64_t before = steady_milliseconds();
    pollfd entry = {stop, POLLIN, 0};
    if (poll(&entry, 1, before < due ? static_cast<int>(due - before) : 0) > 0) return nullptr;
    const uint64_t now = steady_milliseconds();
    if (now < due) continue;
    uint64_t delay = kIdleTickMilliseconds;
    {
      const std::lock_guard<std::mutex> lock(shared().members);
      for (Watched* watched : shared().watched) delay = std::min(delay, watched->tick(now));
    }
    due = now + delay; // after a pause of the machine: one tick, not all that were missed
  }
}

Thread* start() {
  const int stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (stop < 0) throw SystemError(errno, "eventfd");
  Thread* thread = new Thread{{}, stop};
  // Signals belong to the threads that Node gave them to; faults of this thread's own still reach it.
  sigset_t all, kept;
  sigfillset(&all);
  for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&all, fault);
  pthread_sigmask(SIG_SETMASK, &all, &kept);
  const int result = pthread_create(&thread->id, nullptr, run, thread);
  pthread_sigmask(SIG_SETMASK, &kept, nullptr);
  if (result != 0) {
    close(stop);
    delete thread;
    throw SystemError(result, "pthread_create");
  }
  pthread_setname_np(thread->id, "vmring-heart");
  return thread;
}

void stop(Thread* thread) {
  const uint64_t one = 1;
  while (write(thread->stop, &one, sizeof one) < 0 && errno == EINTR) {
  }
  pthread_join(thread->id, nullptr);
  close(thread->stop);
  delete thread;
}

uint64_t steady(uint64_t per_second) {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * per_second +
         static_cast<uint64_t>(now.tv_nsec) / (1000000000u / per_second);
}

} // namespace

uint64_t steady_milliseconds() { return steady(1000); }
uint64_t steady_nanoseconds() { return steady(1000000000u); }

void watch(Watched* watched) {
  Shared& s = shared();
  const std::lock_guard<std::mutex> life(s.life);
  if (s.thread == nullptr) s.thread = start();
  const std::lock_guard<std::mutex> lock(s.members);
  s.watched.push_back(watched);
}

void unwatch(Watched* watched) {
  Shared& s = shared();
  const std::lock_guard<std::mutex> life(s.life);
  Thread* ended = nullptr;
  {
    const std::lock_guard<std::mutex> lock(s.members);
    std::erase(s.watched, watched);
    if (s.watched.empty()) {
      ended = s.thread;
      s.thread = nullptr;
    }
  }
  if (ended != nullptr) stop(ended);
}

} // namespace vmring
