#pragma once

#include <sched.h>

// From here on this process runs on that processor alone.
inline void pin(int processor) {
  cpu_set_t cpu;
  CPU_ZERO(&cpu);
  CPU_SET(processor, &cpu);
  sched_setaffinity(0, sizeof cpu, &cpu);
}
