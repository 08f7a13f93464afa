// A control ring and its acknowledgements, written by the input: slots of the right lives and sequence unless it says otherwise,
// of any length and flags, ahead of the tail and behind it. What the reader puts together fits its buffer.
#define VMRING_CHECK_NO_MAIN
#include "fuzz/input.hpp"
#include "hostile.hpp"

using namespace vmring;
using hostile::bounded;
using hostile::Checked;

namespace {

constexpr uint32_t kWriter = 7;
constexpr uint32_t kReader = 9;

// Near the right one, or anything.
uint32_t about(fuzz::Input& input, uint32_t right) {
  const uint32_t how = input.below(64); // 0 is right: a run of zeros in the input is a run of honest slots
  return how == 63 ? static_cast<uint32_t>(input.next()) : how == 62 ? right + input.below(3) - 1 : right;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rig::Guarded theirs(kControlStride); // the ring that is read
  static const rig::Guarded ours(kControlStride);   // the ring that is written
  static const rig::Guarded acks(2 * kLine);
  memset(theirs.base(), 0, kControlStride);
  memset(ours.base(), 0, kControlStride);
  memset(acks.base(), 0, 2 * kLine);
  auto* const head = reinterpret_cast<uint64_t*>(theirs.base());
  auto* const slots = reinterpret_cast<ControlSlot*>(theirs.base() + kLine);
  auto* const ack_out = reinterpret_cast<uint64_t*>(acks.base());
  auto* const ack_in = reinterpret_cast<uint64_t*>(acks.base() + kLine);
  // three pieces of memory: the place of an access is looked at by ASan and the guard pages, its number here
  hostile::region_begin = nullptr;
  hostile::region_size = ~uint64_t{0};
  fuzz::Input input(data, size);
  ControlReader<Checked> reader(theirs.base(), ack_out, kReader);
  ControlWriter<Checked> writer(ours.base(), ack_in, kReader);
  reader.set_writer(kWriter);
  writer.set_reader(kWriter);
  uint32_t tail = input.below(4) == 3 ? 0xfffffff0u : 0;
  head[1] = tagged(kReader, tail);
  head[0] = tagged(kWriter, tail);
  uint8_t message[kMaxControl];
  while (!input.done()) {
    switch (input.below(8)) {
      case 0:
      case 1:
      case 2:
      case 3: {
        ControlSlot slot{};
        slot.sequence = about(input, tail);
        slot.length = static_cast<uint8_t>(input.one_in(2) ? kSlotPayload : input.below(256));
        slot.flags = static_cast<uint8_t>(input.below(16) > 12 ? input.below(256) : 0);
        slot.writer_incarnation = about(input, kWriter);
        slot.reader_incarnation = about(input, kReader);
        memset(slot.payload, static_cast<int>(tail), sizeof slot.payload);
        memcpy(&slots[tail % kControlSlots], &slot, sizeof slot);
        ++tail;
        if (input.below(4) != 3) head[0] = tagged(kWriter, tail);
        break;
      }
      case 4:
      case 5: {
        const uint32_t length = bounded(3 + 2 * kControlSlots, [&] { return reader.poll(message); });
        if (length > kMaxControl) hostile::violated(__FILE__, __LINE__, "a control message that is too long");
        break;
      }
      case 6:
        bounded(2 + kControlSlots, [&] { return writer.send(message, 1 + input.below(kMaxControl + 8)); });
        *ack_in = tagged(about(input, pair_tag(kReader, kWriter)), about(input, value_of(*reinterpret_cast<uint64_t*>(ours.base()))));
        break;
      default: {
        const uint32_t which = input.below(16);
        head[which & 1] = tagged(about(input, which & 1 ? kReader : kWriter), about(input, tail));
        if (which == 15) reader.set_writer(kWriter);
      }
    }
  }
  return 0;
}
