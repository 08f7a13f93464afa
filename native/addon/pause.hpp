// Tells the processor that this is a spin loop, so that the other hyper-thread gets on.
#pragma once

namespace vmring::addon {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

} // namespace vmring::addon
