// Where the lines of a section are, and the identity that its owner publishes in it.
#pragma once

#include "region.hpp"

namespace vmring {

// Addresses only; says nothing about what stands there.
class SectionView {
 public:
  SectionView() = default;
  SectionView(uint8_t* region, const Geometry& g, uint32_t index)
      : base_(region + g.section_at(index)), sections_(g.sections), size_(g.section_size) {}

  uint8_t* base() const { return base_; }
  uint64_t size() const { return size_; }
  IdentityBlock* identity() const { return reinterpret_cast<IdentityBlock*>(base_ + kIdentityOffset); }
  uint64_t* heartbeat() const { return reinterpret_cast<uint64_t*>(base_ + kHeartbeatOffset); }
  uint64_t* sleep_word() const { return reinterpret_cast<uint64_t*>(base_ + kSleepOffset); }
  uint32_t* bells(uint32_t other) const { return reinterpret_cast<uint32_t*>(base_ + kBellsOffset + other * kLine); }
  uint64_t* ack(uint32_t other) const { return reinterpret_cast<uint64_t*>(base_ + acks_offset(sections_) + other * kLine); }
  uint8_t* control(uint32_t other) const { return base_ + control_offset(sections_) + other * kControlStride; }

  uint64_t heap_begin() const { return heap_offset(sections_); }
  // Do `length` bytes at `offset` (a line boundary) lie in the heap?
  bool in_heap(uint64_t offset, uint64_t length) const {
    return offset % kLine == 0 && offset >= heap_begin() && length <= size_ && offset <= size_ - length;
  }
  RingHead* ring_head(uint64_t offset) const { return reinterpret_cast<RingHead*>(base_ + offset); }
  uint8_t* ring_data(uint64_t offset) const { return base_ + offset + sizeof(RingHead); }
  ReaderBlock* reader_block(uint64_t offset) const { return reinterpret_cast<ReaderBlock*>(base_ + offset); }

 private:
  uint8_t* base_ = nullptr;
  uint32_t sections_ = 0;
  uint64_t size_ = 0;
};

struct Identity {
  uint8_t uuid[16] = {};
  uint32_t incarnation = 0;
  EntryState state = EntryState::free;
  uint32_t peer_id = 0;
  uint32_t vector = 0;
  uint32_t pid = 0;
};

// Incarnation last, and 0 before anything is touched: a reader that sees one sees the line that belongs to it.
template <class A>
void write_identity(IdentityBlock* block, const Identity& identity) {
  A::template store_release<Site::publish_identity>(&block->incarnation, uint32_t{0});
  A::template release_fence<Site::table_begin>();
  A::write_bytes(block->uuid, identity.uuid, 16);
  A::store_relaxed(&block->peer_id, identity.peer_id);
  A::store_relaxed(&block->vector, identity.vector);
  A::store_relaxed(&block->sub_peer, uint32_t{0});
  A::store_relaxed(&block->group, uint32_t{0});
  A::store_relaxed(&block->pid, identity.pid);
  A::store_relaxed(&block->state, static_cast<uint32_t>(identity.state));
  // SYNC: pairs with read_identity.
  A::template store_release<Site::publish_identity>(&block->incarnation, identity.incarnation);
}

template <class A>
void write_identity_state(IdentityBlock* block, EntryState state) {
  A::store_relaxed(&block->state, static_cast<uint32_t>(state));
}

// False: nobody there, or somebody is just arriving.
template <class A>
bool read_identity(const IdentityBlock* block, Identity& out) {
  const uint32_t incarnation = A::template load_acquire<Site::read_identity>(&block->incarnation);
  if (incarnation == 0) return false;
  A::read_bytes(out.uuid, block->uuid, 16);
  const uint32_t state = A::load_relaxed(&block->state);
  out.peer_id = A::load_relaxed(&block->peer_id);
  out.vector = A::load_relaxed(&block->vector);
  out.pid = A::load_relaxed(&block->pid);
  A::template acquire_fence<Site::read_identity>();
  if (A::load_relaxed(&block->incarnation) != incarnation) return false;
  if (state > static_cast<uint32_t>(EntryState::leaving)) return false;
  out.incarnation = incarnation;
  out.state = static_cast<EntryState>(state);
  return true;
}

} // namespace vmring
