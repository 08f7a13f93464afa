// Header, peer table and identities are the bytes of the input: what a reader makes of them, and what happens when it formats.
#define VMRING_CHECK_NO_MAIN
#include "fuzz/input.hpp"
#include "hostile.hpp"

using namespace vmring;
using hostile::bounded;
using hostile::Checked;

namespace {

constexpr uint64_t kSize = kMinRegion;

// Everything that a geometry promises.
void expect_inside(const Geometry& g) {
  const bool fits = g.size == kSize && g.sections >= 1 && g.sections <= kMaxSections &&
                    g.section_offset >= kHeaderLength + g.sections * kLine && g.section_size > g.heap_begin() &&
                    g.section_at(g.sections) <= kSize;
  if (!fits) hostile::violated(__FILE__, __LINE__, "a geometry that does not fit its region");
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rig::Guarded memory(kSize);
  uint8_t* const base = memory.base();
  constexpr size_t kFront = 3 * kPage;
  memset(base, 0, kFront);
  if (size == 0) return 0;
  const uint8_t mode = *data++;
  --size;
  // a formatted region with other words here and there, or only those
  if (mode & 1) {
    const uint8_t uuid[16] = {1};
    format_region<StdAtomics>(base, kSize, 1 + (mode >> 4), uuid, (mode & 2) != 0, 7);
    fuzz::Input input(data, size);
    for (uint64_t at = 0; !input.done(); at += 8) {
      at += 8 * input.below(64);
      const uint64_t word = input.next();
      if (at + 8 <= kFront) memcpy(base + at, &word, 8);
    }
  } else {
    memcpy(base, data, size < kFront ? size : kFront);
  }
  hostile::enter({base, plan_geometry(kSize, 1)});
  Geometry g;
  const Header result = bounded(2, [&] { return read_geometry<Checked>(base, kSize, g); });
  if (result == Header::ok) {
    expect_inside(g);
    for (uint32_t i = 0; i < g.sections; ++i) {
      Entry entry;
      bounded(64 * 6, [&] { return read_entry<Checked>(reinterpret_cast<const EntryBlock*>(base + g.entry_at(i)), entry); });
      if (entry.state > EntryState::leaving) hostile::violated(__FILE__, __LINE__, "a state that does not exist");
      Identity identity;
      bounded(8, [&] { return read_identity<Checked>(SectionView(base, g, i).identity(), identity); });
      if (identity.state > EntryState::leaving) hostile::violated(__FILE__, __LINE__, "a state that does not exist");
    }
  }
  // What cannot be a region that somebody formats is left as it is.
  const uint8_t uuid[16] = {2};
  const Header formatted = bounded(40'000, [&] { return format_together<Checked>(base, kSize, 4, uuid); });
  if (formatted == Header::ok && result != Header::ok && mode % 2 == 0) {
    if (StdAtomics::load_relaxed(reinterpret_cast<const uint64_t*>(base)) != kMagic) {
      hostile::violated(__FILE__, __LINE__, "formatted, and no magic");
    }
  }
  return 0;
}
