// The data path of core, each step a function of its own under a plain name, for lock_free.sh to look at what the compiler
// made of it. Compiled, never run.
#include "core/end.hpp"
#include "core/remote.hpp"

using namespace vmring;
using A = StdAtomics;

#define STEP extern "C" __attribute__((noinline, visibility("default")))

STEP Send step_send(Producer<A>& tx, const uint8_t* bytes, uint32_t length) {
  return tx.send(bytes, length, Kind::data, false);
}
STEP Send step_reserve(Producer<A>& tx, uint32_t length, uint8_t*& payload) { return tx.reserve(length, payload); }
STEP Send step_commit(Producer<A>& tx, uint32_t length) { return tx.commit(length, Kind::data, false); }
STEP Send step_abort(Producer<A>& tx) { return tx.abort(); }
STEP bool step_reload(Producer<A>& tx) { return tx.reload(); }
STEP bool step_wake_needed(Producer<A>& tx) { return tx.wake_needed(); }
STEP bool step_want_space(Producer<A>& tx, uint32_t length) { return tx.want_space(length); }
STEP Poll step_poll(Consumer<A>& rx, Record& out) { return rx.poll(out); }
STEP bool step_readable(Consumer<A>& rx) { return rx.readable(); }
STEP bool step_release(Consumer<A>& rx, uint32_t sequence) { return rx.release(sequence); }
STEP void step_publish_released(Consumer<A>& rx) { rx.publish_released(); }
STEP bool step_space_wake_needed(Consumer<A>& rx) { return rx.space_wake_needed(); }
STEP bool step_park(Consumer<A>& rx) { return rx.park(); }
STEP void step_ring(BellWriter<A>& bell, uint32_t word) { bell.ring(word); }
STEP bool step_doorbell_needed(BellWriter<A>& bell, const uint64_t* word, uint32_t incarnation) {
  return bell.doorbell_needed(word, incarnation);
}
STEP bool step_changed(BellReader<A>& bell) { return bell.changed(); }
STEP uint32_t step_take(BellReader<A>& bell) { return bell.take(); }
STEP void step_announce(Sleeper<A>& sleeper) { sleeper.announce(); }
STEP void step_awake(Sleeper<A>& sleeper) { sleeper.awake(); }
STEP bool step_send_control(Remote<A>& remote, const uint8_t* bytes, uint32_t length) {
  return remote.send_control(bytes, length);
}
STEP uint32_t step_poll_control(Remote<A>& remote, uint8_t* message) { return remote.poll_control(message); }
STEP bool step_ring_end(Remote<A>& remote, uint32_t bell) { return remote.ring_end(bell); }
