// Every offset of region version 1. docs/protocol.md draws the same; nothing else in the code knows a number of it.
//
//   region   ┌ header 4096 ┬ peer table N×128 ┬ (to 4096) ┬ section 0 ┬ section 1 ┬ … ┐
//   section  ┌ identity ┬ heartbeat ┬ sleep ┬ – ┬ directory ┬ bells N×128 ┬ acks N×128 ┬ control rings N×2176 ┬ heap ┐
//   heap     ring = head line 128, data `capacity` · reader block = released 128, wake 128, large words 64×8 · large payloads
//
// All integers are little endian. Lines that different peers touch are 128 bytes apart (adjacent-line prefetch).
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmring {

inline constexpr uint64_t kLine = 128;
inline constexpr uint64_t kPage = 4096;

constexpr uint64_t align_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

// ---- header
inline constexpr uint64_t kMagic = 0x0a31474e49524d56; // the bytes "VMRING1\n"
inline constexpr uint32_t kEndianTag = 0x01020304;
inline constexpr uint16_t kMajor = 1;
inline constexpr uint16_t kMinor = 0;
inline constexpr uint32_t kKnownIncompatible = 0; // feature bits of which a reader must know every one that is set
inline constexpr uint32_t kCompatiblePlain = 1;   // no daemon: entries are claimed by compare-and-swap
inline constexpr uint32_t kMaxSections = 256;
inline constexpr uint64_t kMinRegion = 1u << 20;

struct HeaderBlock {
  uint64_t magic;
  uint32_t endian;
  uint16_t major;
  uint16_t minor;
  uint32_t header_length;
  uint32_t line;
  uint32_t compatible;
  uint32_t incompatible;
  uint8_t uuid[16];
  uint64_t size;
  uint64_t table_offset;
  uint32_t table_count;
  uint32_t table_stride;
  uint64_t section_offset;
  uint64_t section_size;
  uint8_t reserved[128 - 88];
  // second line, written by the daemon while the region is in use
  uint32_t daemon_incarnation;
  uint32_t daemon_heartbeat;
};
static_assert(offsetof(HeaderBlock, uuid) == 32 && offsetof(HeaderBlock, daemon_incarnation) == 128);
inline constexpr uint64_t kHeaderLength = kPage;

// ---- peer table
enum class EntryState : uint32_t { free = 0, joined = 1, leaving = 2 };

struct EntryBlock {
  uint32_t lock; // sequence lock: odd while the daemon writes
  uint32_t state;
  uint32_t peer_id;
  uint32_t vectors;
  uint32_t generation;
  uint32_t claim; // plain mode: incarnation of the claimer, 0 = free
  uint8_t reserved[128 - 24];
};
static_assert(sizeof(EntryBlock) == kLine);

// ---- section
struct IdentityBlock {
  uint8_t uuid[16];
  uint32_t incarnation; // 0: nobody; written last
  uint32_t state;       // EntryState
  uint32_t peer_id;     // doorbell address: this id …
  uint32_t vector;      // … and this vector
  uint32_t sub_peer;
  uint32_t group;
  uint32_t pid; // of the process, for people
  uint8_t reserved[128 - 44];
};
static_assert(sizeof(IdentityBlock) == kLine);

inline constexpr uint64_t kIdentityOffset = 0;
inline constexpr uint64_t kHeartbeatOffset = 128; // u64
inline constexpr uint64_t kSleepOffset = 256;     // u64: incarnation << 32 | nap
inline constexpr uint64_t kDirectoryOffset = 512;
inline constexpr uint64_t kBellsOffset = 1024;

enum class AreaType : uint32_t { none = 0, bells = 1, acks = 2, control = 3, heap = 4 };
struct DirectoryEntry {
  uint32_t type; // AreaType
  uint32_t flags;
  uint64_t offset; // in the section
  uint64_t length;
  uint64_t reserved;
};
static_assert(sizeof(DirectoryEntry) == 32);

// one line per other peer: word 0 counts every ring of the bell, words 1…31 the groups
inline constexpr uint32_t kBellGroups = 31;
constexpr uint32_t bell_group(uint32_t bell) { return 1 + bell % kBellGroups; }

inline constexpr uint32_t kControlSlots = 32;
inline constexpr uint32_t kSlotPayload = 48;
inline constexpr uint32_t kMaxControl = 1024; // bytes of one control message
struct ControlSlot {
  uint32_t sequence;
  uint8_t length; // 0…48
  uint8_t flags;  // kSlotFirst, kSlotLast
  uint16_t reserved;
  uint32_t writer_incarnation;
  uint32_t reader_incarnation;
  uint8_t payload[kSlotPayload];
};
static_assert(sizeof(ControlSlot) == 64);
inline constexpr uint8_t kSlotFirst = 1;
inline constexpr uint8_t kSlotLast = 2;
// head line: two u64, writer incarnation << 32 | tail and reader incarnation << 32 | where that life of the reader begins
inline constexpr uint64_t kControlStride = kLine + kControlSlots * sizeof(ControlSlot);

constexpr uint64_t acks_offset(uint32_t sections) { return kBellsOffset + sections * kLine; }
constexpr uint64_t control_offset(uint32_t sections) { return acks_offset(sections) + sections * kLine; }
constexpr uint64_t heap_offset(uint32_t sections) { return control_offset(sections) + sections * kControlStride; }
inline constexpr uint64_t kMinHeap = 16 * 1024;

// ---- rings and reader blocks, anywhere in a heap, aligned to a line
struct RingHead { // written by the producer
  uint64_t space_at; // tag << 32 | position of `released` at which the producer wants a bell
  uint8_t reserved[128 - 8];
};
static_assert(sizeof(RingHead) == kLine);

inline constexpr uint32_t kLargeSlots = 64;
struct ReaderBlock { // written by the consumer
  uint64_t released;       // tag << 32 | byte position up to which the ring may be reused
  uint64_t next_count;     // tag << 32 | records delivered
  uint64_t released_count; // tag << 32 | records released
  uint8_t reserved0[128 - 24];
  uint64_t wake_at; // tag << 32 | position: ring me when a record is published here. A line of its own: it changes
                    // only when the consumer parks, so that a hot producer reads it from its own cache.
  uint8_t reserved1[128 - 8];
  uint64_t large[kLargeSlots]; // tag << 32 | generation of the last one released in this slot
};
static_assert(offsetof(ReaderBlock, wake_at) == 128 && offsetof(ReaderBlock, large) == 256);

inline constexpr uint32_t kMinCapacity = 4096;
inline constexpr uint32_t kMaxCapacity = 1u << 30;
constexpr uint64_t ring_bytes(uint32_t capacity) { return sizeof(RingHead) + capacity; }

constexpr uint64_t tagged(uint32_t tag, uint32_t value) { return uint64_t{tag} << 32 | value; }
constexpr uint32_t tag_of(uint64_t word) { return static_cast<uint32_t>(word >> 32); }
constexpr uint32_t value_of(uint64_t word) { return static_cast<uint32_t>(word); }

} // namespace vmring
