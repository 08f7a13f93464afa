// The ends in a member's section: made, joined, rung, waited for, freed.
#include <poll.h>
#include <sched.h>
#include <time.h>

#include "addon/member.hpp"
#include "addon/module.hpp"
#include "addon/pause.hpp"
#include "addon/region.hpp"

namespace vmring::addon {
namespace {

constexpr uint32_t kTurnsWithoutClock = 128;      // 1 to 2 µs
constexpr uint32_t kManyOneWay = 32;             // records
constexpr uint64_t kRest = 600;                  // so short that no ring of the size below is filled meanwhile
constexpr uint32_t kLeastRingToRest = 64 * 1024;
constexpr uint64_t kYieldAfter = 4'000;          // of spinning: perhaps whoever should answer waits for this processor
constexpr uint64_t kShortSpin = 50'000;          // before a synchronous receive goes to sleep
constexpr uint64_t kLongestNap = 1'000'000;      // of a synchronous receive without interrupts
constexpr uint64_t kLongestSleep = 1'000'000'000; // then everything is looked at again: an interrupt may get lost

} // namespace

void Member::ring(EndEntry& end) {
  Other& other = others_[end.section];
  if (!other.remote->present() || other.remote->identity().incarnation != end.incarnation) return;
  if (other.remote->ring_end(end.core.remote_offer().bell) && ring_doorbell(end.section)) {
    ++end.doorbells;
  } else {
    ++end.suppressed;
    ++suppressed_;
  }
}

void Member::reclaim_all() {
  each_end([this](EndEntry& end) { end.core.large_out().reclaim(memory_); });
}

EndEntry& Member::create_end(uint32_t section, uint32_t capacity, uint32_t send_from, uint32_t receive_from) {
  if (closed_) throw_code("ERR_VMRING_CLOSED", "the peer is closed");
  if (mapping_->lost()) throw_code("ERR_VMRING_REGION_LOST", "the memory of the region is gone");
  if (section >= others_.size() || !others_[section].remote || !others_[section].remote->present()) {
    throw_code("ERR_VMRING_PEER_GONE", "nobody is in section " + std::to_string(section));
  }
  Other& other = others_[section];
  const SectionView own = view_of(options_.section);
  const uint32_t tag = random_nonce();
  const uint32_t bell = next_bell_++;
  auto offer = vmring::End<A>::allocate(own, memory_, capacity, tag, bell);
  if (!offer) {
    reclaim_all();
    offer = vmring::End<A>::allocate(own, memory_, capacity, tag, bell);
  }
  if (!offer) {
    throw_code("ERR_VMRING_SECTION_FULL", "no " + std::to_string(ring_bytes(capacity)) +
                                              " bytes in one piece are left in this peer's section: close channels, "
                                              "use smaller rings, or format the region with fewer sections");
  }
  auto entry = std::make_unique<EndEntry>(mapping_, own, *offer, send_from, receive_from);
  entry->owner = this;
  entry->section = section;
  entry->incarnation = other.remote->identity().incarnation;
  EndEntry* added = table_.add(std::move(entry));
  if (added == nullptr) {
    memory_.release(offer->ring_offset);
    memory_.release(offer->reader_offset);
    throw_code("ERR_VMRING_SECTION_FULL", "this process has too many channel ends");
  }
  other.ends[bell_group(bell)].push_back(added->id);
  return *added;
}

void Member::attach_end(EndEntry& end, const RingOffer& theirs) {
  if (end.lost()) throw_code("ERR_VMRING_REGION_LOST", "the memory of the region is gone");
  if (!end.core.attach(view_of(end.section), theirs)) {
    throw_code("ERR_VMRING_PROTOCOL", "the other side offers a ring that does not lie in its section, or of another size");
  }
  if (end.core.tx().in_use() != 0) published(end); // sent before anybody could be rung
  suspect(end);
}

void Member::free_end(EndEntry& end) {
  end.core.free(memory_);
  std::erase(others_[end.section].ends[bell_group(end.core.offer().bell)], end.id);
}

uint64_t Member::alloc_large(EndEntry& end, uint64_t length) {
  uint64_t offset = end.core.large_out().allocate(memory_, length);
  if (offset == 0) {
    reclaim_all();
    offset = end.core.large_out().allocate(memory_, length);
  }
  if (offset != 0) end.filling.emplace(offset, length);
  return offset;
}

bool Member::free_large(EndEntry& end, uint64_t offset) {
  return end.filling.erase(offset) != 0 && end.core.large_out().cancel(memory_, offset);
}

int32_t Member::commit_large(EndEntry& end, uint64_t offset, uint64_t length) {
  const auto filling = end.filling.find(offset);
  if (filling == end.filling.end()) return status::lease;
  if (length > filling->second) throw_range("the length is larger than what was allocated");
  int32_t result = status::lease;
  LargeDescriptor descriptor;
  if (end.lost()) {
    result = status::lost;
  } else if (end.fin_sent) {
    result = status::closed;
  } else if (end.core.large_out().describe(offset, length, descriptor)) {
    switch (end.core.tx().send(reinterpret_cast<const uint8_t*>(&descriptor), sizeof descriptor, Kind::large, false)) {
      case Send::ok: result = status::ok; break;
      case Send::full: result = status::would_block; break;
      case Send::too_large: result = status::too_large; break;
      case Send::lease: result = status::lease; break;
      case Send::fault: result = status::fault; break;
    }
  }
  if (result < 0) {
    free_large(end, offset);
    return result;
  }
  end.core.large_out().sent(offset);
  end.filling.erase(offset);
  end.sent_bytes += length;
  published(end);
  return result;
}

bool Member::departed(const EndEntry& end) const {
  Identity identity;
  return !read_identity<A>(view_of(end.section).identity(), identity) || identity.incarnation != end.incarnation ||
         identity.state != EntryState::joined;
}

void Member::wait(EndEntry& end, uint64_t timeout) {
  Consumer<A>& inbox = end.core.rx();
  // Who looks for the next record all the time takes the line that the sender is writing away from it, once for each record. In the middle of
  // a conversation that goes one way, what has been found out is that the sender is the slower one: it gets some records ahead instead.
  if (one_way_ > kManyOneWay && inbox.capacity() >= kLeastRingToRest) {
    const uint64_t until = steady_nanoseconds() + kRest;
    while (steady_nanoseconds() < until) relax();
  }
  // An answer that is under way is here sooner than the clock is read.
  for (uint32_t turn = 0; turn < kTurnsWithoutClock; ++turn) {
    if (inbox.readable()) return spun_well();
    relax();
  }
  one_way_ = 0;
  // Who waits for room on other ends hears of it now: the loop, which would say so before it sleeps, does not turn meanwhile.
  flush_released();
  const auto over = [&] { return closed_ || end.lost() || end.fault() != nullptr || departed(end); };
  uint64_t now = steady_nanoseconds();
  const uint64_t deadline = now + timeout;
  const bool rung = options_.mode == Mode::adaptive && has_doorbell();
  uint64_t until = options_.mode == Mode::event && has_doorbell() ? now : now + kShortSpin;
  if (crowded(now)) until = now;
  if (options_.mode == Mode::busy || until > deadline) until = deadline;
  uint64_t yield_at = now + kYieldAfter;
  for (uint32_t turn = 1;; ++turn) {
    if (inbox.readable()) return spun_well();
    if (turn % 32 == 0) {
      const uint64_t before = now;
      now = steady_nanoseconds();
      if (now >= deadline || end.lost()) return;
      if (rung) {
        // A yield gives the rest of a time slice to whoever is there, which who will be woken need not do; he may lose it all the same.
        away(before, now);
        if (now >= until && !crowded(now)) spun_in_vain(now);
        if (now >= until || crowded(now)) break;
      } else if (now >= until) {
        break;
      } else if (now >= yield_at) {
        sched_yield();
        yield_at = steady_nanoseconds() + kYieldAfter;
      }
      if (turn % 16384 == 0) {
        if (over()) return;
        take_bells();
      }
    }
    relax();
  }
  uint64_t nap = kShortSpin;
  while (!over() && now < deadline) {
    const uint64_t left = deadline - now;
    if (!has_doorbell()) {
      if (inbox.readable()) return;
      const timespec time = {0, static_cast<long>(nap < left ? nap : left)};
      nanosleep(&time, nullptr);
      nap = nap * 2 < kLongestNap ? nap * 2 : kLongestNap;
    } else {
      if (!inbox.park()) return;
      fall_asleep();
      bool news = false;
      for (const uint32_t section : present_) news = news || others_[section].remote->news();
      if (!news) {
        const uint64_t most = left < kLongestSleep ? left : kLongestSleep;
        const timespec time = {static_cast<time_t>(most / 1'000'000'000), static_cast<long>(most % 1'000'000'000)};
        pollfd entry = {options_.doorbell, POLLIN, 0};
        ++counters_.sleeps;
        if (ppoll(&entry, 1, &time, nullptr) > 0) drain();
      }
      woke();
      take_bells(); // what concerns other ends and control messages waits for the loop
    }
    if (inbox.readable()) return;
    now = steady_nanoseconds();
  }
}

} // namespace vmring::addon
