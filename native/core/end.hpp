// One end of a channel on one path: the outbox it fills, the inbox it drains, and the large messages of both.
#pragma once

#include <optional>

#include "consumer.hpp"
#include "large.hpp"
#include "producer.hpp"
#include "section.hpp"

namespace vmring {

// What the other side must know to use this side's half; offsets are in the section of the side that offers.
struct RingOffer {
  uint64_t ring_offset = 0;
  uint32_t capacity = 0;
  uint32_t tag = 0; // nonce of this ring; words written for it carry it
  uint64_t reader_offset = 0;
  uint32_t bell = 0; // ring this number for news of this end
};

template <class A>
class End {
 public:
  // Allocates ring and reader block in the own section. Empty: no stretch is long enough.
  static std::optional<RingOffer> allocate(const SectionView& own, SectionAllocator& memory, uint32_t capacity,
                                           uint32_t tag, uint32_t bell) {
    if (!is_power_of_two(capacity) || capacity < kMinCapacity || capacity > kMaxCapacity) return std::nullopt;
    const uint64_t ring = memory.allocate(ring_bytes(capacity));
    if (ring == 0) return std::nullopt;
    const uint64_t reader = memory.allocate(sizeof(ReaderBlock));
    if (reader == 0) {
      memory.release(ring);
      return std::nullopt;
    }
    const ReaderBlock blank{};
    A::write_bytes(own.reader_block(reader), &blank, sizeof blank);
    return RingOffer{ring, capacity, tag, reader, bell};
  }

  End(const SectionView& own, const RingOffer& offer, uint32_t send_from, uint32_t receive_from)
      : offer_(offer), own_(own),
        tx_(own.ring_head(offer.ring_offset), own.ring_data(offer.ring_offset), offer.capacity, offer.tag, send_from,
            kFirstPosition),
        rx_(own.reader_block(offer.reader_offset), receive_from) {}

  // Joins the other side's half. False: it does not lie in the remote section, or the capacities differ.
  bool attach(const SectionView& remote, const RingOffer& theirs) {
    if (remote_offer_.capacity != 0 || theirs.capacity != offer_.capacity || theirs.tag == 0) return false;
    if (!remote.in_heap(theirs.ring_offset, ring_bytes(theirs.capacity))) return false;
    if (!remote.in_heap(theirs.reader_offset, sizeof(ReaderBlock))) return false;
    remote_offer_ = theirs;
    remote_ = remote;
    const ReaderBlock* reader = remote.reader_block(theirs.reader_offset);
    tx_.attach(reader);
    large_out_.attach(reader, offer_.tag);
    rx_.attach(remote.ring_head(theirs.ring_offset), remote.ring_data(theirs.ring_offset), theirs.capacity, theirs.tag,
               kFirstPosition);
    large_in_.attach(own_.reader_block(offer_.reader_offset), theirs.tag, remote.heap_begin(), remote.size());
    return true;
  }

  const RingOffer& offer() const { return offer_; }
  const RingOffer& remote_offer() const { return remote_offer_; }
  const SectionView& own() const { return own_; }
  const SectionView& remote() const { return remote_; }

  Producer<A>& tx() { return tx_; }
  Consumer<A>& rx() { return rx_; }
  LargeOutbox<A>& large_out() { return large_out_; }
  LargeInbox<A>& large_in() { return large_in_; }

  // Gives a record back, and its large payload with it.
  bool release(uint32_t sequence) {
    large_in_.release(sequence);
    return rx_.release(sequence);
  }

  // Frees the own half; the caller knows that the other side reads no more.
  void free(SectionAllocator& memory) {
    large_out_.release_all(memory);
    memory.release(offer_.ring_offset);
    memory.release(offer_.reader_offset);
  }

 private:
  RingOffer offer_;
  RingOffer remote_offer_;
  SectionView own_;
  SectionView remote_;
  Producer<A> tx_;
  Consumer<A> rx_;
  LargeOutbox<A> large_out_;
  LargeInbox<A> large_in_;
};

} // namespace vmring
