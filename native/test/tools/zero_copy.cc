// Sends and receives messages whose payload nobody touches, for zero_copy.sh to count the instructions of.
//   zero_copy BYTES ROUNDS
// Every message: reserve, commit, wake check, poll, release, publish.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "core/consumer.hpp"
#include "core/producer.hpp"

using namespace vmring;
using A = StdAtomics;

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto bytes = static_cast<uint32_t>(atoi(argv[1]));
  const auto rounds = static_cast<uint32_t>(atoi(argv[2]));
  constexpr uint32_t kCapacity = 1 << 20;
  std::vector<uint64_t> memory((sizeof(RingHead) + kCapacity) / 8);
  alignas(kLine) ReaderBlock reader{};
  auto* head = reinterpret_cast<RingHead*>(memory.data());
  uint8_t* data = reinterpret_cast<uint8_t*>(memory.data()) + sizeof(RingHead);
  Producer<A> tx(head, data, kCapacity, 1, 0);
  Consumer<A> rx(&reader, 0);
  tx.attach(&reader);
  rx.attach(head, data, kCapacity, 1);
  for (uint32_t i = 0; i < rounds; ++i) {
    uint8_t* payload = nullptr;
    Record record{};
    if (tx.reserve(bytes, payload) != Send::ok || tx.commit(bytes, Kind::data, false) != Send::ok) return 1;
    if (tx.wake_needed()) return 1;
    if (rx.poll(record) != Poll::record || record.length != bytes || record.payload != payload) return 1;
    if (!rx.release(record.sequence)) return 1;
    rx.publish_released();
  }
  return 0;
}
