// Everything that one peer keeps about one other: its identity, the bells both ways, the control rings both ways.
#pragma once

#include "control_ring.hpp"
#include "section.hpp"
#include "wake.hpp"

namespace vmring {

template <class A>
class Remote {
 public:
  // `me` and `them` are section indices.
  Remote(const SectionView& own, const SectionView& theirs, uint32_t me, uint32_t them, uint32_t own_incarnation)
      : view_(theirs), bell_out_(own.bells(them)), bell_in_(theirs.bells(me)),
        control_out_(own.control(them), theirs.ack(me), own_incarnation),
        control_in_(theirs.control(me), own.ack(them), own_incarnation) {}

  const SectionView& view() const { return view_; }
  const Identity& identity() const { return identity_; }
  bool present() const { return identity_.incarnation != 0; }

  void arrive(const Identity& identity) {
    identity_ = identity;
    control_out_.set_reader(identity.incarnation);
    control_in_.set_writer(identity.incarnation);
    bell_in_.restart();
  }
  void leave() { identity_ = Identity{}; }

  // News since the last take_news()? One load.
  bool news() const { return present() && bell_in_.changed(); }
  // Bit 0: look at the control ring; bit g: look at the ends of bell group g.
  uint32_t take_news() { return bell_in_.take(); }

  // Rings for an end (its bell number at the other side), or for control messages. True: a doorbell is needed.
  bool ring_end(uint32_t bell) { return ring_word(bell_group(bell)); }
  bool ring_control() { return ring_word(0); }

  // False: no room, or nobody there. After success: ring_control().
  bool send_control(const uint8_t* bytes, uint32_t length) { return present() && control_out_.send(bytes, length); }
  // The next whole message, copied; 0 for none.
  uint32_t poll_control(uint8_t* message) { return present() ? control_in_.poll(message) : 0; }

  uint64_t heartbeat() const { return A::load_relaxed(view_.heartbeat()); }

 private:
  bool ring_word(uint32_t word) {
    bell_out_.ring(word);
    return bell_out_.doorbell_needed(view_.sleep_word(), identity_.incarnation);
  }

  SectionView view_;
  Identity identity_;
  BellWriter<A> bell_out_;
  BellReader<A> bell_in_;
  ControlWriter<A> control_out_;
  ControlReader<A> control_in_;
};

} // namespace vmring
