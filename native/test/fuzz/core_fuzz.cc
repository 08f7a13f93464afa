// Two peers over a region whose words the input overwrites while it also says which of them does what. Counts pushes and pops
// (records published, records taken), prints them at the end, and ends by itself after VMRING_FUZZ_OPERATIONS of them.
#define VMRING_CHECK_NO_MAIN
#include "fuzz/input.hpp"
#include "lies.hpp"

namespace {

using namespace vmring;
using hostile::Area;

uint64_t pushed = 0;
uint64_t popped = 0;
uint64_t faults = 0;

void print() {
  fprintf(stderr, "operations %llu pushed %llu popped %llu faults %llu\n", static_cast<unsigned long long>(pushed + popped),
          static_cast<unsigned long long>(pushed), static_cast<unsigned long long>(popped),
          static_cast<unsigned long long>(faults));
}

const uint64_t most = [] {
  atexit(print);
  const char* text = getenv("VMRING_FUZZ_OPERATIONS");
  return text ? strtoull(text, nullptr, 10) : ~uint64_t{0};
}();

// As formatted, wherever a peer decides anything by what stands there: all but payloads in the depth of a heap.
void reset(const hostile::Memory& memory) {
  constexpr uint64_t kHeap = 8192;
  const Geometry& g = memory.geometry;
  memset(memory.base, 0, g.section_offset);
  for (uint32_t i = 0; i < g.sections; ++i) memset(memory.base + g.section_at(i), 0, g.heap_begin() + kHeap);
  const uint8_t uuid[16] = {1};
  if (format_region<StdAtomics>(memory.base, g.size, g.sections, uuid, false, 7) != Header::ok) abort();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rig::Region region;
  const hostile::Memory memory{region.base(), region.geometry};
  reset(memory);
  hostile::Side a(memory, 0, 1);
  hostile::Side b(memory, 1, 2);
  if (!a.end.attach(b.own, b.offer) || !b.end.attach(a.own, a.offer)) abort();
  const hostile::Rings rings{{a.offer, b.offer}};
  fuzz::Input input(data, size);
  hostile::Liar liar(memory, input);
  int left = 1 << 30;
  while (!input.done() && left-- > 0) {
    const uint32_t what = input.below(8);
    if (what == 7) {
      liar.lie(static_cast<Area>(input.below(hostile::kAreas.size())), rings);
      continue;
    }
    hostile::Side& side = what & 1 ? a : b;
    const bool good = what < 2 ? hostile::burst(side, what & 1 ? b : a, input) : hostile::step(side, input);
    if (!good && left > 16) {
      ++faults;
      left = 16; // a fault is final, and harmless
    }
  }
  pushed += a.pushed + b.pushed;
  popped += a.popped + b.popped;
  if (pushed + popped >= most) {
    print();
    _Exit(0); // an exit() here would count as a crash
  }
  return 0;
}
