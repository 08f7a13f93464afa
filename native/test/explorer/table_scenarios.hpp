// Scenarios about control rings, large messages, and the tables that are read while they are written.
#pragma once

#include <optional>

#include "core/control_ring.hpp"
#include "core/large.hpp"
#include "core/section.hpp"
#include "explorer/fixture.hpp"

namespace explorer {

// e. Control messages; message n is `length` bytes, all n.
class Control {
 public:
  static constexpr uint32_t kWriter = 0xa1, kReader = 0xb1;
  static uint8_t* head() { return at<uint8_t>(1024); }
  static uint64_t* ack() { return at<uint64_t>(512); }

  Control() {
    engine().name(head(), 128, "control head");
    engine().name(head() + 128, vmring::kControlSlots * 64, "control slots");
    engine().name(ack(), 8, "control ack");
  }
  static bool send(vmring::ControlWriter<A>& writer, uint8_t number, uint32_t length) {
    uint8_t bytes[vmring::kMaxControl];
    memset(bytes, number, length);
    return writer.send(bytes, length);
  }
  // The number of the next message, 0 for none.
  static int poll(vmring::ControlReader<A>& reader) {
    uint8_t bytes[vmring::kMaxControl];
    const uint32_t length = reader.poll(bytes);
    if (length == 0) return 0;
    for (uint32_t i = 1; i < length; ++i) engine().expect(bytes[i] == bytes[0], "a control message of two halves");
    engine().expect(length == length_of(bytes[0]), "a control message of another length");
    return bytes[0];
  }
  static uint32_t length_of(int number) { return number == 201 ? 60 : number == 101 ? 20 : 40; }
};

// e. Two messages, one of them in two slots: read in order, whole.
struct ControlInOrder : Scenario {
  Control layout;
  vmring::ControlWriter<A> writer{Control::head(), Control::ack(), Control::kWriter};
  vmring::ControlReader<A> reader{Control::head(), Control::ack(), Control::kReader};
  ControlInOrder() {
    writer.set_reader(Control::kReader);
    reader.set_writer(Control::kWriter);
    engine().grain(32);
  }
  void role(int index) override {
    if (index == 0) {
      engine().expect(Control::send(writer, 201, 60), "no room in an empty control ring");
      engine().expect(Control::send(writer, 2, 40), "no room in an empty control ring");
      return;
    }
    int last = 0;
    for (int looks = 0; looks < 3; ++looks) {
      const int got = Control::poll(reader);
      engine().expect(got == 0 || (last == 0 && got == 201) || (last == 201 && got == 2), "control messages out of order");
      if (got != 0) last = got;
    }
  }
};

// e. A full control ring: the writer tries again, nothing unread is overwritten.
struct ControlFull : ControlInOrder {
  ControlFull() {
    for (uint32_t i = 0; i < vmring::kControlSlots; ++i) Control::send(writer, static_cast<uint8_t>(i + 1), 40);
  }
  void role(int index) override {
    if (index == 0) {
      int sent = 0;
      for (int tries = 0; tries < 3 && sent < 2; ++tries) sent += Control::send(writer, static_cast<uint8_t>(33 + sent), 40);
      return;
    }
    for (int expected = 1; expected <= 3; ++expected) {
      engine().expect(Control::poll(reader) == expected, "a control message lost or overwritten");
    }
  }
};

// e. The reader has died and starts anew, in front of a ring full of messages to its predecessor. It gets what the writer
// sends to the new life, once, whole, and nothing else.
struct ControlNewReader : ControlInOrder {
  vmring::ControlReader<A> fresh{Control::head(), Control::ack(), Control::kReader + 1};
  ControlNewReader() {
    for (uint32_t i = 0; i < vmring::kControlSlots; ++i) {
      Control::send(writer, 101, 20);
      Control::poll(reader);
    }
    fresh.set_writer(Control::kWriter);
    engine().grain(8);
  }
  void role(int index) override {
    if (index == 0) {
      writer.set_reader(Control::kReader + 1);
      engine().expect(Control::send(writer, 2, 40), "no room for a new reader");
      return;
    }
    int got = 0;
    for (int looks = 0; looks < 3; ++looks) {
      const int number = Control::poll(fresh);
      engine().expect(number == 0 || number == 2, "a control message that was meant for the old reader");
      got += number != 0;
    }
    engine().expect(got <= 1, "a control message twice");
  }
};

// e. The writer has died and starts anew, while the reader is still behind in what the old one wrote.
struct ControlNewWriter : ControlInOrder {
  std::optional<vmring::ControlWriter<A>> fresh;
  ControlNewWriter() {
    for (int i = 0; i < 2; ++i) Control::send(writer, 101, 20);
    engine().grain(8);
  }
  void role(int index) override {
    if (index == 0) {
      fresh.emplace(Control::head(), Control::ack(), Control::kWriter + 1);
      fresh->set_reader(Control::kReader);
      engine().expect(Control::send(*fresh, 2, 40), "no room in the ring of a new writer");
      return;
    }
    {
      const int number = Control::poll(reader);
      engine().expect(number == 0 || number == 101, "a message of the new writer taken for one of the old");
    }
    reader.set_writer(Control::kWriter + 1);
    int got = 0;
    for (int looks = 0; looks < 2; ++looks) {
      const int number = Control::poll(reader);
      engine().expect(number == 0 || number == 2, "a message of the old writer taken for one of the new");
      got += number != 0;
    }
    engine().expect(got <= 1, "a control message twice");
  }
};

// f. One stretch of memory for large messages: given back, reclaimed, written again.
struct Large : Scenario {
  static constexpr uint64_t kHeap = 8192;
  Peer a{0}, b{1};
  Ring ring{1024, 256, 0, "ring"};
  vmring::SectionAllocator heap{kHeap, kHeap + 128};
  vmring::LargeOutbox<A> outbox;
  vmring::LargeInbox<A> inbox;
  Large() {
    engine().name(at<uint8_t>(kHeap), 128, "large payload");
    outbox.attach(at<vmring::ReaderBlock>(1024 + 128 + 256), kTag);
    inbox.attach(at<vmring::ReaderBlock>(1024 + 128 + 256), kTag, kHeap, kHeap + 128);
    send(outbox.allocate(heap, 128), 1);
  }
  void send(uint64_t place, uint64_t value) {
    engine().expect(place == kHeap, "large memory in another place");
    A::write_bytes(at<uint8_t>(place), &value, 8);
    vmring::LargeDescriptor descriptor;
    engine().expect(outbox.describe(place, 8, descriptor), "a large payload that cannot be described");
    ring.tx.send(reinterpret_cast<uint8_t*>(&descriptor), sizeof descriptor, vmring::Kind::large, false);
    outbox.sent(place);
  }
  void role(int index) override {
    if (index == 0) {
      for (int looks = 0; looks < 3; ++looks) {
        if (const uint64_t place = outbox.allocate(heap, 128)) return send(place, 2);
      }
      return;
    }
    for (uint64_t number = 1, looks = 0; number <= 2 && looks < 3; ++looks) {
      vmring::Record record;
      if (ring.rx.poll(record) != vmring::Poll::record) continue;
      vmring::LargeDescriptor descriptor;
      engine().expect(inbox.accept(record, descriptor), "a large record refused");
      uint64_t value;
      A::read_bytes(&value, at<uint8_t>(descriptor.offset), 8);
      engine().expect(value == number++, "a large payload that was not sent, or overwritten while lent");
      engine().expect(inbox.release(record.sequence), "a large record that cannot be released");
      ring.rx.release(record.sequence);
    }
  }
};

// f. A table entry changes while it is read: what is accepted is one of its states, never older than before.
template <uint32_t kWrites, int kLooks>
struct TableEntry : Scenario {
  vmring::EntryBlock* block = at<vmring::EntryBlock>(0);
  TableEntry() {
    engine().name(block, 128, "entry");
    engine().limit(22); // of the 64 tries of read_entry, three that are read to the end, or more that see the odd lock
    write(1);
  }
  void write(uint32_t n) {
    vmring::write_entry<A>(block, {n % 2 ? vmring::EntryState::joined : vmring::EntryState::leaving, n * 10, n * 100, n});
  }
  void role(int index) override {
    if (index == 0) {
      for (uint32_t i = 0; i < kWrites; ++i) write(2 + i);
      return;
    }
    uint32_t last = 1;
    for (int looks = 0; looks < kLooks; ++looks) {
      vmring::Entry e;
      if (!vmring::read_entry<A>(block, e)) continue;
      engine().expect(e.peer_id == e.generation * 10 && e.vectors == e.generation * 100, "an entry of two halves");
      engine().expect((e.state == vmring::EntryState::joined) == (e.generation % 2 == 1), "an entry of two halves");
      engine().expect(e.generation >= last, "an entry older than before");
      last = e.generation;
    }
  }
};

// f. A peer starts anew in a section while another reads who is there.
struct Restart : Scenario {
  vmring::IdentityBlock* block = at<vmring::IdentityBlock>(0);
  Restart() {
    engine().name(block, 128, "identity");
    write(1);
  }
  void write(uint32_t n) {
    vmring::Identity identity;
    memset(identity.uuid, static_cast<int>(n), 16);
    identity.incarnation = 0x50 + n;
    identity.state = vmring::EntryState::joined;
    identity.peer_id = n;
    identity.vector = n;
    identity.pid = n;
    vmring::write_identity<A>(block, identity);
  }
  void role(int index) override {
    if (index == 0) {
      write(2);
      write(3);
      return;
    }
    for (int looks = 0; looks < 2; ++looks) {
      vmring::Identity identity;
      if (!vmring::read_identity<A>(block, identity)) continue;
      const uint32_t n = identity.incarnation - 0x50;
      bool whole = identity.peer_id == n && identity.vector == n && identity.pid == n;
      for (const uint8_t byte : identity.uuid) whole = whole && byte == n;
      engine().expect(whole, "an identity of two lives");
    }
  }
};

// f. A region is formatted while another process looks: blank or whole.
struct Format : Scenario {
  static constexpr uint64_t kSize = 1u << 20;
  Format() {
    engine().name(at<uint8_t>(0), 4096, "header");
    engine().grain(64);
  }
  void role(int index) override {
    if (index == 0) {
      const uint8_t uuid[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
      engine().expect(vmring::format_region<A>(engine().memory(), kSize, 1, uuid, true, 7) == vmring::Header::ok, "format");
      return;
    }
    for (int looks = 0; looks < 2; ++looks) {
      vmring::Geometry g;
      const vmring::Header result = vmring::read_geometry<A>(engine().memory(), kSize, g);
      if (result == vmring::Header::blank) continue;
      engine().expect(result == vmring::Header::ok && g.sections == 1 && g.uuid[15] == 16, "a header half formatted");
      vmring::DirectoryEntry directory[4];
      A::read_bytes(directory, engine().memory() + g.section_at(0) + vmring::kDirectoryOffset, sizeof directory);
      engine().expect(directory[3].type == static_cast<uint32_t>(vmring::AreaType::heap), "a section half formatted");
    }
  }
};

// f. Two first peers format blank memory at once and join: one region, and what one has claimed the other does not take away.
// Agreed: from where the number of sections and the uuid are there.
template <bool Agreed>
struct FormatTogether : Scenario {
  static constexpr uint64_t kSize = 1u << 20;
  uint32_t* seen = at<uint32_t>(kSize - 256); // not of the protocol: the uuid that the first one has read
  FormatTogether() {
    engine().name(at<uint8_t>(0), 4096, "header");
    engine().grain(64);
    if (!Agreed) return;
    *at<uint32_t>(offsetof(vmring::HeaderBlock, table_count)) = 1;
    for (uint64_t i = 0; i < 4; ++i) *at<uint32_t>(offsetof(vmring::HeaderBlock, uuid) + 4 * i) = 7;
  }
  void role(int index) override {
    const uint8_t mine = static_cast<uint8_t>(index + 1);
    const uint8_t uuid[16] = {mine, 0, 0, 0, mine, 0, 0, 0, mine, 0, 0, 0, mine};
    const uint32_t wanted = 1 + static_cast<uint32_t>(index);
    const auto result = vmring::format_together<A>(engine().memory(), kSize, wanted, uuid);
    engine().expect(result == vmring::Header::ok, "blank memory is refused");
    vmring::Geometry g;
    engine().expect(vmring::read_geometry<A>(engine().memory(), kSize, g) == vmring::Header::ok, "half a header");
    const uint32_t known = g.sections << 16 | uint32_t{g.uuid[0]} << 8 | g.uuid[12];
    engine().compare_swap(seen, 0, known);
    engine().expect(A::load_relaxed(seen) == known, "two regions");
    auto* entry = reinterpret_cast<vmring::EntryBlock*>(engine().memory() + g.entry_at(0));
    const uint32_t claim = 0xb0u + static_cast<uint32_t>(index);
    if (!vmring::claim_entry<A>(entry, claim, false)) return;
    vmring::write_entry<A>(entry, {vmring::EntryState::joined, 0, 1, 1});
    engine().expect(A::load_relaxed(&entry->claim) == claim, "a claim taken away");
  }
};

// f. Plain mode: one gives its entry up, another claims it and must find it as it was left. Two never hold it.
struct Claim : Scenario {
  vmring::EntryBlock* block = at<vmring::EntryBlock>(0);
  uint32_t* held = at<uint32_t>(256); // not of the protocol: who thinks that it holds the entry
  Claim() {
    engine().name(block, 128, "entry");
    vmring::write_entry<A>(block, {vmring::EntryState::joined, 0, 0, 1});
    vmring::claim_entry<A>(block, 0xa1, false);
  }
  int roles() const override { return 3; }
  void role(int index) override {
    if (index == 0) {
      vmring::write_entry<A>(block, {vmring::EntryState::free, 0, 0, 2});
      vmring::unclaim_entry<A>(block);
      return;
    }
    if (!vmring::claim_entry<A>(block, 0xb0u + static_cast<uint32_t>(index), false)) return;
    vmring::Entry e;
    engine().expect(vmring::read_entry<A>(block, e), "an entry left half-written");
    engine().expect(e.generation == 2 && e.state == vmring::EntryState::free, "an entry claimed before it was given up");
    engine().expect(engine().compare_swap(held, 0, 1), "an entry claimed twice");
  }
};

} // namespace explorer
