// One thread per process that ticks every 250 ms for everybody who asks: heartbeats, stall detection and the rescue of
// interrupts that were dropped do not depend on the JavaScript loop turning. One thread rather than one per peer, so that
// idle costs a few wake-ups a second in all. Of a tick's price nearly everything is the wake-up itself (in a guest without
// KVM up to half a millisecond, whatever is looked at meanwhile), so that a process in which nothing happens ticks at half
// the rate.
#pragma once

#include <cstdint>

namespace vmring {

inline constexpr uint64_t kTickMilliseconds = 250;
inline constexpr uint64_t kIdleTickMilliseconds = 500; // two heartbeats within the second after which a peer is stalled

class Watched {
 public:
  // On the watchdog's thread. Short, and never blocking. Returns after how many milliseconds it wants the next at the latest.
  virtual uint64_t tick(uint64_t now_ms) = 0;

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
