// Header and peer table: formatting, checking, and the private copy of the geometry that everything else goes by.
#pragma once

#include "atomics.hpp"
#include "layout.hpp"

namespace vmring {

// Checked once against the real size of the mapping; never read again.
struct Geometry {
  uint64_t size = 0;
  uint32_t sections = 0;
  uint64_t section_offset = 0;
  uint64_t section_size = 0;
  uint16_t major = 0;
  uint16_t minor = 0;
  bool plain = false;
  uint32_t daemon_incarnation = 0;
  uint8_t uuid[16] = {};

  uint64_t section_at(uint32_t index) const { return section_offset + index * section_size; }
  uint64_t entry_at(uint32_t index) const { return kHeaderLength + index * kLine; }
  uint64_t heap_begin() const { return heap_offset(sections); }
};

enum class Header { ok, blank, magic, version, feature, geometry, size, truncated };

constexpr bool is_power_of_two(uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }

// Sections of a region of `size` bytes; section_size 0: it does not fit.
constexpr Geometry plan_geometry(uint64_t size, uint32_t sections) {
  Geometry g;
  g.size = size;
  g.sections = sections;
  g.major = kMajor;
  g.minor = kMinor;
  g.section_offset = align_up(kHeaderLength + sections * kLine, kPage);
  if (sections == 0 || sections > kMaxSections || g.section_offset >= size) return g;
  const uint64_t each = (size - g.section_offset) / sections / kPage * kPage;
  g.section_size = each < heap_offset(sections) + kMinHeap ? 0 : each;
  return g;
}

constexpr bool can_hold(const Geometry& g) { return is_power_of_two(g.size) && g.size >= kMinRegion && g.section_size != 0; }

// The header of a region, magic and uuid aside: they are written by themselves.
inline HeaderBlock plan_header(const Geometry& g, bool plain, uint32_t daemon_incarnation) {
  HeaderBlock header{};
  header.endian = kEndianTag;
  header.major = kMajor;
  header.minor = kMinor;
  header.header_length = kHeaderLength;
  header.line = kLine;
  header.compatible = plain ? kCompatiblePlain : 0;
  header.size = g.size;
  header.table_offset = kHeaderLength;
  header.table_count = g.sections;
  header.table_stride = kLine;
  header.section_offset = g.section_offset;
  header.section_size = g.section_size;
  header.daemon_incarnation = daemon_incarnation;
  return header;
}

template <class A>
void write_directory(uint8_t* base, const Geometry& g, uint32_t section) {
  const uint32_t n = g.sections;
  const DirectoryEntry directory[] = {
      {static_cast<uint32_t>(AreaType::bells), 0, kBellsOffset, n * kLine, 0},
      {static_cast<uint32_t>(AreaType::acks), 0, acks_offset(n), n * kLine, 0},
      {static_cast<uint32_t>(AreaType::control), 0, control_offset(n), n * kControlStride, 0},
      {static_cast<uint32_t>(AreaType::heap), 0, heap_offset(n), g.section_size - heap_offset(n), 0},
  };
  A::write_words(base + g.section_at(section) + kDirectoryOffset, directory, sizeof directory);
}

// Writes header, table and the incarnation words of every section (so that nobody seems to be there), magic last. For
// whoever has the memory to himself: the daemon, `vmring format` with a file of its own.
template <class A>
Header format_region(uint8_t* base, uint64_t size, uint32_t sections, const uint8_t uuid[16], bool plain,
                     uint32_t daemon_incarnation) {
  const Geometry g = plan_geometry(size, sections);
  if (!can_hold(g)) return Header::size;
  auto* header = reinterpret_cast<HeaderBlock*>(base);
  HeaderBlock fresh = plan_header(g, plain, daemon_incarnation);
  __builtin_memcpy(fresh.uuid, uuid, 16);
  A::store_relaxed(&header->magic, uint64_t{0});
  for (uint32_t i = 0; i < sections; ++i) {
    const EntryBlock entry{};
    A::write_bytes(base + g.entry_at(i), &entry, sizeof entry);
    const IdentityBlock identity{};
    A::write_bytes(base + g.section_at(i), &identity, sizeof identity);
    write_directory<A>(base, g, i);
  }
  A::write_bytes(base + 8, reinterpret_cast<const uint8_t*>(&fresh) + 8, sizeof fresh - 8);
  // SYNC: whoever sees the magic sees the header and the table; pairs with read_geometry.
  A::template store_release<Site::publish_magic>(&header->magic, kMagic);
  return Header::ok;
}

// ---- plain mode: the first peers format, all of them at once if need be
//
// Nobody waits for anybody: what has to be agreed upon (the number of sections, the uuid) is agreed upon by compare-and-swap
// in the header itself, and from there everybody writes the same bytes. What must be zero (entries, identities) has to be
// zero before, and is not written: so a formatter that comes late, or wakes after a minute, changes nothing.

template <class A>
bool is_zero(const uint8_t* shared, size_t length) {
  for (size_t at = 0; at < length; at += kLine) {
    uint64_t words[kLine / 8] = {};
    A::read_words(words, shared + at, length - at < kLine ? length - at : kLine);
    for (const uint64_t word : words) {
      if (word != 0) return false;
    }
  }
  return true;
}

// True when the header is blank, or is one of the plain kind that somebody is writing, or has left half-written.
template <class A>
bool may_format(const uint8_t* base, uint64_t size) {
  const auto* shared = reinterpret_cast<const HeaderBlock*>(base);
  HeaderBlock seen, before{};
  for (int tries = 0; tries < 2; ++tries) {
    A::read_words(&seen, shared, sizeof seen);
    A::template acquire_fence<Site::agree_format>();
    // seen before the rest of the header, if any of that was
    const uint32_t sections = A::load_relaxed(&shared->table_count);
    if (sections != 0) {
      const Geometry g = plan_geometry(size, sections);
      if (!can_hold(g)) return false;
      before = plan_header(g, true, 0);
      seen.table_count = sections;
    }
    __builtin_memset(seen.uuid, 0, sizeof seen.uuid);
    const auto* have = reinterpret_cast<const uint8_t*>(&seen);
    const auto* want = reinterpret_cast<const uint8_t*>(&before);
    bool fits = true;
    for (size_t i = 0; i < sizeof seen; ++i) fits = fits && (have[i] == 0 || have[i] == want[i]);
    if (fits) return true;
  }
  return false;
}

// As format_region, for memory that was zero, in plain mode; any number of processes at once, any of which may stop or die
// anywhere. Header::ok: it is formatted now, by whomsoever. Header::magic: there is something else in it. `uuid` is random.
template <class A>
Header format_together(uint8_t* base, uint64_t size, uint32_t sections, const uint8_t uuid[16]) {
  auto* header = reinterpret_cast<HeaderBlock*>(base);
  const auto magic = [&] { return A::template load_acquire<Site::read_magic>(&header->magic); };
  if (magic() != 0) return magic() == kMagic ? Header::ok : Header::magic;
  if (!can_hold(plan_geometry(size, sections))) return Header::size;
  if (!may_format<A>(base, size)) return magic() == kMagic ? Header::ok : Header::magic;
  A::template compare_swap<Site::agree_format>(&header->table_count, 0, sections);
  const Geometry g = plan_geometry(size, A::load_relaxed(&header->table_count));
  if (!can_hold(g)) return Header::magic;
  for (uint32_t i = 0; i < g.sections; ++i) {
    const auto* identity = reinterpret_cast<const IdentityBlock*>(base + g.section_at(i));
    if (is_zero<A>(base + g.entry_at(i), sizeof(EntryBlock)) && A::load_relaxed(&identity->incarnation) == 0) continue;
    // Somebody is in: then it is formatted. (Without the magic it was never blank.)
    A::template acquire_fence<Site::agree_format>();
    return magic() == kMagic ? Header::ok : Header::magic;
  }
  for (size_t i = 0; i < 4; ++i) {
    uint32_t part;
    __builtin_memcpy(&part, uuid + 4 * i, 4);
    A::template compare_swap<Site::agree_format>(reinterpret_cast<uint32_t*>(header->uuid) + i, 0, part == 0 ? 1 : part);
  }
  A::template release_fence<Site::agree_format>();
  for (uint32_t i = 0; i < g.sections; ++i) write_directory<A>(base, g, i);
  const HeaderBlock fresh = plan_header(g, true, 0);
  const auto* bytes = reinterpret_cast<const uint8_t*>(&fresh);
  constexpr size_t kUuid = offsetof(HeaderBlock, uuid);
  A::write_words(base + 8, bytes + 8, kUuid - 8);
  A::write_words(base + kUuid + 16, bytes + kUuid + 16, sizeof fresh - kUuid - 16);
  A::template store_release<Site::publish_magic>(&header->magic, kMagic);
  return Header::ok;
}

// Reads the header once into a local, checks the local, and keeps only what passed.
template <class A>
Header read_geometry(const uint8_t* base, uint64_t mapped, Geometry& out) {
  if (mapped < kHeaderLength) return Header::size;
  const auto* shared = reinterpret_cast<const HeaderBlock*>(base);
  const uint64_t magic = A::template load_acquire<Site::read_magic>(&shared->magic);
  if (magic == 0) return Header::blank; // perhaps just being written
  HeaderBlock header;
  A::read_words(&header, shared, sizeof header);
  if (magic != kMagic || header.endian != kEndianTag) return Header::magic;
  if (header.major != kMajor) return Header::version;
  if ((header.incompatible & ~kKnownIncompatible) != 0) return Header::feature;
  if (header.size > mapped) return Header::truncated;
  if (!is_power_of_two(mapped) || mapped < kMinRegion || header.size != mapped) return Header::size;
  if (header.header_length != kHeaderLength || header.line != kLine || header.table_offset != kHeaderLength ||
      header.table_stride != kLine) {
    return Header::geometry;
  }
  Geometry g = plan_geometry(mapped, header.table_count);
  if (g.section_size == 0 || header.section_offset != g.section_offset || header.section_size != g.section_size) {
    return Header::geometry;
  }
  g.minor = header.minor;
  g.plain = (header.compatible & kCompatiblePlain) != 0;
  g.daemon_incarnation = header.daemon_incarnation;
  __builtin_memcpy(g.uuid, header.uuid, 16);
  out = g;
  return Header::ok;
}

// ---- peer table: state, not events. One writer (the daemon, or in plain mode the claimer), any number of readers.
struct Entry {
  EntryState state = EntryState::free;
  uint32_t peer_id = 0;
  uint32_t vectors = 0;
  uint32_t generation = 0;
};

template <class A>
void write_entry(EntryBlock* block, const Entry& entry) {
  const uint32_t lock = A::load_relaxed(&block->lock) | 1u; // a writer that died in between left it odd
  A::store_relaxed(&block->lock, lock);
  A::template release_fence<Site::table_begin>();
  A::store_relaxed(&block->state, static_cast<uint32_t>(entry.state));
  A::store_relaxed(&block->peer_id, entry.peer_id);
  A::store_relaxed(&block->vectors, entry.vectors);
  A::store_relaxed(&block->generation, entry.generation);
  // SYNC: pairs with the loads in read_entry.
  A::template store_release<Site::table_end>(&block->lock, lock + 1);
}

// False: being written at every one of a bounded number of tries; keep what you knew and look again later.
template <class A>
bool read_entry(const EntryBlock* block, Entry& out) {
  for (int tries = 0; tries < 64; ++tries) {
    const uint32_t before = A::template load_acquire<Site::table_read>(&block->lock);
    if ((before & 1) != 0) continue;
    const uint32_t state = A::load_relaxed(&block->state);
    const Entry entry{static_cast<EntryState>(state), A::load_relaxed(&block->peer_id), A::load_relaxed(&block->vectors),
                      A::load_relaxed(&block->generation)};
    A::template acquire_fence<Site::table_read>();
    if (A::load_relaxed(&block->lock) != before) continue;
    if (state > static_cast<uint32_t>(EntryState::leaving)) return false;
    out = entry;
    return true;
  }
  return false;
}

// Plain mode: compare-and-swap on the claim word. This and formatting are the only places in vmring, neither on a data path.
template <class A>
bool claim_entry(EntryBlock* block, uint32_t incarnation, bool take_over) {
  const uint32_t held = A::load_relaxed(&block->claim);
  if (held != 0 && !take_over) return false;
  return A::template compare_swap<Site::claim_entry>(&block->claim, held, incarnation);
}
template <class A>
void unclaim_entry(EntryBlock* block) {
  A::template store_release<Site::claim_entry>(&block->claim, uint32_t{0});
}

} // namespace vmring
