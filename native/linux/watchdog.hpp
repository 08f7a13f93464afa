// One thread per process that ticks every 250 ms for everybody who asks: heartbeats, stall detection and the rescue of
// interrupts that were dropped do not depend on the JavaScript loop turning. One thread rather than one per peer, so that
// idle costs four wake-ups a second in all.
#pragma once

#include <cstdint>

namespace vmring {

inline constexpr uint64_t kTickMilliseconds = 250;

class Watched {
 public:
  // On the watchdog's thread. Short, and never blocking.
  virtual void tick(uint64_t now_ms) = 0;

 protected:
  ~Watched() = default;
};

uint64_t steady_milliseconds();
uint64_t steady_nanoseconds();

// Starts the thread with the first. Throws SystemError when there is no thread to be had.
void watch(Watched* watched);
// After it returns no tick is running or will run. Ends the thread with the last.
void unwatch(Watched* watched);

} // namespace vmring
