// What a hostile member writes: random, boundary and earlier values into any word of one area of a region. Who knows where
// the rings are hits the words that matter; the layout says the rest.
#pragma once

#include <array>

#include "hostile.hpp"

namespace hostile {

enum class Area : uint32_t { header, table, identity, bells, control, indices, records, descriptors, payloads };
inline constexpr std::array kAreas = {"header",  "table",   "identity",    "bells",   "control",
                                      "indices", "records", "descriptors", "payloads"};

// Where the ring and the reader block of each side are.
struct Rings {
  RingOffer of[2];
};

template <class Source>
class Liar {
 public:
  Liar(const Memory& memory, Source& source) : memory_(memory), source_(source) {}

  // One lie in this area.
  void lie(Area area, const Rings& rings) {
    uint8_t* const at = place(area, rings);
    const auto address = reinterpret_cast<uintptr_t>(at);
    if (area != Area::records && source_.one_in(3)) {
      auto* word = reinterpret_cast<uint32_t*>(address & ~uintptr_t{3});
      const uint32_t now = StdAtomics::load_relaxed(word);
      StdAtomics::store_relaxed(word, static_cast<uint32_t>(value(area, now, offset(word))));
    } else {
      auto* word = reinterpret_cast<uint64_t*>(address & ~uintptr_t{7});
      const uint64_t now = StdAtomics::load_relaxed(word);
      StdAtomics::store_relaxed(word, value(area, now, offset(word)));
    }
  }

 private:
  uint64_t offset(const void* word) const { return static_cast<uint64_t>(static_cast<const uint8_t*>(word) - memory_.base); }
  uint32_t below(uint64_t limit) { return source_.below(static_cast<uint32_t>(limit)); }

  uint8_t* place(Area area, const Rings& rings) {
    const Geometry& g = memory_.geometry;
    const uint32_t which = below(2);
    const SectionView section = memory_.section(which);
    const RingOffer& ring = rings.of[which];
    switch (area) {
      case Area::header: return memory_.base + below(source_.one_in(8) ? kHeaderLength : 192);
      case Area::table: return memory_.base + kHeaderLength + below(g.sections * kLine);
      case Area::identity: return section.base() + below(kBellsOffset);
      case Area::bells: return section.base() + kBellsOffset + below(control_offset(g.sections) - kBellsOffset);
      case Area::control: {
        uint8_t* const block = section.control(1 - which);
        return block + (source_.one_in(64) ? below(16) : kLine + below(kControlStride - kLine)); // the head seldom: it ends all
      }
      case Area::indices:
        if (source_.one_in(4)) return section.base() + ring.ring_offset + below(16);
        return section.base() + ring.reader_offset + below(source_.one_in(2) ? 24 : sizeof(ReaderBlock));
      case Area::records: return section.ring_data(ring.ring_offset) + below(kCapacity);
      case Area::descriptors: return descriptor(section, ring);
      case Area::payloads: break;
    }
    const uint64_t heap = section.heap_begin();
    if (source_.one_in(2)) return section.base() + heap + below(section.size() - heap);
    return section.ring_data(ring.ring_offset) + below(kCapacity);
  }

  // A word of a descriptor that stands in the ring (24 bytes behind a LARGE header), else of the reader's answers.
  uint8_t* descriptor(const SectionView& section, const RingOffer& ring) {
    uint8_t* const data = section.ring_data(ring.ring_offset);
    uint32_t at = below(kCapacity) & ~7u;
    for (uint32_t i = 0; i < 64; ++i, at = (at + 8) % kCapacity) {
      const RecordHeader header = decode(StdAtomics::load_relaxed(reinterpret_cast<uint64_t*>(data + at)));
      if (header.kind == Kind::large && header.length == sizeof(LargeDescriptor) && at + 32 <= kCapacity) {
        return data + at + 8 + below(sizeof(LargeDescriptor));
      }
    }
    return section.base() + ring.reader_offset + offsetof(ReaderBlock, large) + below(kLargeSlots * 8);
  }

  uint64_t value(Area area, uint64_t now, uint64_t at) {
    Seen& seen = seen_[at / 4 * 2654435761u % seen_.size()];
    const uint64_t earlier = seen.at == at ? seen.value : seen_[source_.below(seen_.size())].value;
    if (seen.at != at || source_.one_in(4)) seen = {at, now};
    switch (source_.below(area == Area::records ? 10 : 7)) {
      case 0: return source_.next();
      case 1: return boundary();
      case 2: return (now & 0xffffffff00000000u) | static_cast<uint32_t>(boundary()); // the tag, and a boundary
      case 3: return earlier;
      case 4: return now ^ uint64_t{1} << source_.below(64);
      case 5: return now + 8;
      case 6: return now - 8 * source_.below(4) - source_.below(2);
      case 7: return header(now, 1 + source_.below(6), false); // of the right sequence number
      case 8: return header(now, 1 + source_.below(6), source_.one_in(2));
      default: return encode({source_.below(kCapacity), source_.one_in(2), static_cast<Kind>(source_.below(8)), below(20)});
    }
  }
  uint64_t header(uint64_t now, uint32_t kind, bool extended) {
    return encode({source_.below(kCapacity), extended, static_cast<Kind>(kind), decode(now).sequence});
  }

  // 0, the largest, and what lies about each size that somebody compares with.
  uint64_t boundary() {
    const Geometry& g = memory_.geometry;
    const uint64_t sizes[] = {0, uint64_t{1} << 31, uint64_t{1} << 32, uint64_t{1} << 63, g.size, g.section_size,
                              g.section_offset, g.heap_begin(), kCapacity, kCapacity / 2, kMaxRecord, kMaxCapacity,
                              kControlSlots, kSlotPayload, kMaxControl, kLargeSlots, kMaxSections, kMagic};
    return sizes[source_.below(sizeof sizes / sizeof *sizes)] + source_.below(3) - 1;
  }

  struct Seen {
    uint64_t at = 0;
    uint64_t value = 0;
  };
  const Memory memory_;
  Source& source_;
  std::array<Seen, 1024> seen_{};
};

} // namespace hostile
