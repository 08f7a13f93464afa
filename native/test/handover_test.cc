// What each release store of core hands over, alone: plain memory written before it, read after the acquire that it pairs
// with, and nothing else that would order the two. Under TSan every weakened pair is a reported race; elsewhere it is a
// stress of the same lines. (In the whole protocol one pair often stands in for another, and hides it.)
#include <thread>

#include "check.hpp"
#include "rig.hpp"

using namespace vmring;
using rig::A;
using rig::fill;
using rig::filled;
using rig::Pipe;
using rig::Region;

namespace {

constexpr uint64_t kRounds = rig::kThreadSanitizer ? 20000 : 100000;

// Spins until the other side has done its part; gives way, since there may be one processor for both.
template <class Condition>
void until(Condition condition) {
  for (uint32_t spins = 0; !condition(); ++spins) {
    if (spins > 200) std::this_thread::yield();
  }
}

} // namespace

TEST(records_and_the_memory_they_give_back) {
  Pipe pipe(kMinCapacity);
  std::thread sender([&] {
    for (uint64_t i = 0; i < kRounds; ++i) {
      uint8_t* payload = nullptr;
      until([&] { return pipe.tx.reserve(i % 300, payload) == Send::ok; });
      fill(payload, i % 300, i);
      pipe.tx.commit(i % 300, Kind::data, false);
    }
  });
  for (uint64_t i = 0; i < kRounds; ++i) {
    Record record{};
    until([&] { return pipe.rx.poll(record) == Poll::record; });
    CHECK(record.length == i % 300 && filled(record.payload, record.length, i));
    pipe.rx.release(record.sequence);
    pipe.rx.publish_released();
  }
  sender.join();
}

TEST(control_messages_and_their_acknowledgements) {
  rig::Guarded ring(kControlStride);
  rig::Guarded ack_line(kLine);
  auto* ack = reinterpret_cast<uint64_t*>(ack_line.base());
  ControlWriter<A> writer(ring.base(), ack, 1);
  writer.set_reader(2);
  ControlReader<A> reader(ring.base(), ack, 2);
  reader.set_writer(1);
  std::thread sender([&] {
    uint8_t bytes[kMaxControl];
    for (uint64_t i = 0; i < kRounds; ++i) {
      const auto length = static_cast<uint32_t>(1 + i % 200);
      fill(bytes, length, i);
      until([&] { return writer.send(bytes, length); });
    }
  });
  uint8_t bytes[kMaxControl];
  for (uint64_t i = 0; i < kRounds; ++i) {
    uint32_t got = 0;
    until([&] { return (got = reader.poll(bytes)) != 0; });
    CHECK(got == 1 + i % 200 && filled(bytes, got, i));
  }
  sender.join();
}

TEST(bells) {
  alignas(kLine) uint32_t lines[2][kBellWords + 32] = {};
  uint64_t news[2] = {};
  const auto side = [&](int me) {
    BellWriter<A> writer(lines[me]);
    BellReader<A> reader(lines[1 - me]);
    reader.take();
    return [&, me, writer, reader]() mutable {
      for (uint64_t i = 1; i <= kRounds; ++i) {
        if (me == 0 || i > 1) {
          news[me] = i;
          writer.ring(static_cast<uint32_t>(1 + i % kBellGroups));
        }
        until([&] { return reader.changed(); });
        const uint64_t other = me == 0 ? i + 1 : i; // the second one answers with the next number
        CHECK((reader.take() >> (1 + other % kBellGroups) & 1) != 0);
        CHECK_EQ(news[1 - me], other);
      }
      if (me == 1) {
        news[me] = kRounds + 1;
        writer.ring(static_cast<uint32_t>(1 + (kRounds + 1) % kBellGroups));
      }
    };
  };
  auto first = side(0);
  auto second = side(1);
  std::thread other(second);
  first();
  other.join();
}

TEST(large_memory_given_back) {
  ReaderBlock block{};
  LargeOutbox<A> outbox;
  LargeInbox<A> inbox;
  SectionAllocator memory(128, 128 + 1024);
  std::vector<uint8_t> bytes(128 + 1024);
  outbox.attach(&block, 9);
  inbox.attach(&block, 9, 128, 128 + 1024);
  // the way there is an ordinary variable here; the way back is the release word
  LargeDescriptor descriptor{};
  std::atomic<uint64_t> sent{0};
  std::thread sender([&] {
    for (uint64_t i = 1; i <= kRounds; ++i) {
      uint64_t offset = 0;
      until([&] { return (offset = outbox.allocate(memory, 1024)) != 0; });
      fill(bytes.data() + offset, 1024, i);
      outbox.describe(offset, 1024, descriptor);
      outbox.sent(offset);
      sent.store(i, std::memory_order_release);
    }
  });
  for (uint64_t i = 1; i <= kRounds; ++i) {
    until([&] { return sent.load(std::memory_order_acquire) == i; });
    LargeDescriptor d{};
    const auto sequence = static_cast<uint32_t>(i);
    CHECK(inbox.accept({Kind::large, false, sizeof d, sequence, reinterpret_cast<const uint8_t*>(&descriptor)}, d));
    CHECK(filled(bytes.data() + d.offset, d.length, i));
    CHECK(inbox.release(sequence));
  }
  sender.join();
}

TEST(identities) {
  for (uint32_t i = 1; i <= 300; ++i) {
    IdentityBlock block{};
    std::thread writer([&] {
      Identity identity;
      identity.incarnation = i;
      identity.peer_id = 3 * i;
      memset(identity.uuid, static_cast<int>(i), 16);
      write_identity<A>(&block, identity);
    });
    Identity out;
    until([&] { return read_identity<A>(&block, out); });
    CHECK(out.incarnation == i && out.peer_id == 3 * i && out.uuid[15] == static_cast<uint8_t>(i));
    writer.join();
  }
}

TEST(a_region_that_is_being_formatted) {
  uint8_t uuid[16] = {};
  for (uint32_t i = 1; i <= 200; ++i) {
    rig::Guarded memory(kMinRegion);
    std::thread writer([&] {
      memset(uuid, static_cast<int>(i), 16);
      format_region<A>(memory.base(), kMinRegion, 4, uuid, false, i);
    });
    Geometry g;
    Header result = Header::blank;
    until([&] { return (result = read_geometry<A>(memory.base(), kMinRegion, g)) != Header::blank; });
    CHECK(result == Header::ok && g.sections == 4 && g.daemon_incarnation == i && g.uuid[15] == static_cast<uint8_t>(i));
    writer.join();
  }
}
