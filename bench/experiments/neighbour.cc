// Whether somebody else is on the other half of this core: a chain of multiplications takes the same with and without, independent
// additions take twice as long with. Processor times of everything else rise and fall with the second figure.
//   g++ -O2 -std=c++20 bench/experiments/neighbour.cc -o neighbour && ./neighbour [PROCESSOR]      (x86-64)
#include <x86intrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "pin.hpp"

namespace {

constexpr int kSamples = 20'000, kTurns = 2'000;

void report(const char* name, std::vector<double>& cycles) {
  std::sort(cycles.begin(), cycles.end());
  const auto at = [&](int percent) { return cycles[cycles.size() * static_cast<size_t>(percent) / 100]; };
  std::printf("%s: 10 %% %.2f, half %.2f, 90 %% %.2f ticks of the time stamp counter\n", name, at(10), at(50), at(90));
}

} // namespace

int main(int count, char** arguments) {
  pin(count > 1 ? std::atoi(arguments[1]) : 0);
  std::vector<double> chained, independent;
  for (int sample = 0; sample < kSamples; ++sample) {
    const uint64_t begin = __rdtsc();
    uint64_t x = static_cast<uint64_t>(sample);
    for (int i = 0; i < kTurns; ++i) {
      x = x * 3 + 1;
      asm volatile("" : "+r"(x));
    }
    const uint64_t middle = __rdtsc();
    uint64_t a = 1, b = 2, c = 3, d = 4;
    for (int i = 0; i < kTurns; ++i) {
      asm volatile("add $1,%0;add $1,%1;add $1,%2;add $1,%3;add $3,%0;add $3,%1;add $3,%2;add $3,%3"
                   : "+r"(a), "+r"(b), "+r"(c), "+r"(d));
    }
    const uint64_t end = __rdtsc();
    chained.push_back(static_cast<double>(middle - begin) / kTurns);
    independent.push_back(static_cast<double>(end - middle) / kTurns);
  }
  report("multiplications, each of the one before", chained);
  report("eight additions in four chains", independent);
}
