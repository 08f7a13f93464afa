// This process as a member of a region: its section, what it knows of the others, its sleep and its bells. No JavaScript in
// here but through MemberListener; the memory protocol is core's.
#pragma once

#include <uv.h>

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <unordered_map>

#include "addon/end_owner.hpp"
#include "core/allocator.hpp"
#include "core/remote.hpp"
#include "linux/watchdog.hpp"

namespace vmring::addon {

class Module;

enum class Mode { event, adaptive, busy };
enum class PeerEvent : uint32_t { joined = 1, left = 2, stalled = 3, resumed = 4, lost = 5, ring = 6 };

struct RemoteInfo {
  uint32_t section;
  Identity identity;
  bool stalled;
};

class MemberListener {
 public:
  virtual void on_ready(uint32_t count) = 0;
  virtual void on_control(uint32_t section, uint32_t incarnation, const uint8_t* bytes, uint32_t length) = 0;
  virtual void on_peer(PeerEvent event, const RemoteInfo& peer) = 0;

 protected:
  ~MemberListener() = default;
};

// Rings those whose eventfd is not known here: in a guest, the doorbell register of the device.
class Ringer {
 public:
  virtual ~Ringer() = default;
  // False: there is nothing (any more) to ring with.
  virtual bool ring(uint32_t peer_id, uint32_t vector) noexcept = 0;
};

struct MemberOptions {
  uint32_t section = 0;
  uint32_t peer_id = 0;
  uint8_t uuid[16] = {};
  Mode mode = Mode::adaptive;
  int doorbell = -1;
  uint32_t vector = 0;
  std::shared_ptr<Ringer> ringer; // null: eventfds only
};

class Member final : public EndOwner, private Watched, public std::enable_shared_from_this<Member> {
 public:
  // Announces itself in the section. Takes the doorbell over once it has succeeded.
  Member(Module& module, std::shared_ptr<Mapping> mapping, const Geometry& geometry, const MemberOptions& options,
         MemberListener* listener, uint32_t* ready);
  ~Member() override;
  // Handles, watchdog, event loop; once, after construction.
  void start();
  // Leaves: idempotent. The listener hears nothing afterwards.
  void close();
  // Leaves, because the memory is about to be replaced by a private copy: what has come can still be read, nothing new
  // comes, and nobody is heard of any more.
  void detach();

  uint32_t section() const { return options_.section; }
  uint32_t incarnation() const { return incarnation_; }
  Mode mode() const { return options_.mode; }
  void set_mode(Mode mode) { options_.mode = mode; }
  bool closed() const { return closed_; }
  bool has_doorbell() const { return options_.doorbell >= 0; }
  // Without interrupts, and without anybody who would ring in another way: looks by itself now and then.
  bool polls() const { return polls_.load(std::memory_order_relaxed); }
  void set_polling(bool on) { polls_.store(on && !has_doorbell(), std::memory_order_relaxed); }
  // Somebody has rung by other means than an interrupt.
  void knock() { signalled_ = true; }
  // Bells for that section go to the listener, which has a way to carry them.
  void set_carried(uint32_t section, bool on) {
    if (section < others_.size()) others_[section].carried = on;
  }
  const Geometry& geometry() const { return geometry_; }
  const std::shared_ptr<Mapping>& mapping() const { return mapping_; }

  void set_doorbell(uint32_t peer_id, uint32_t vector, int fd);
  void clear_doorbell(uint32_t peer_id);
  void set_ref(bool on);

  std::vector<RemoteInfo> remotes() const;
  bool send_control(uint32_t section, const uint8_t* bytes, uint32_t length);
  // Is the process that the end leads to still the one in that section?
  bool departed(const EndEntry& end) const;

  // ---- ends (member_ends.cc)
  EndEntry& create_end(uint32_t section, uint32_t capacity, uint32_t send_from, uint32_t receive_from);
  void attach_end(EndEntry& end, const RingOffer& theirs);
  uint64_t alloc_large(EndEntry& end, uint64_t length); // offset in the section, 0: none
  int32_t commit_large(EndEntry& end, uint64_t offset, uint64_t length);
  bool free_large(EndEntry& end, uint64_t offset);
  void free_end(EndEntry& end);
  void ring(EndEntry& end) override;
  // Blocks this thread until the end has a record, the time (ns) is over, or nothing can come any more.
  void wait(EndEntry& end, uint64_t timeout);

  // ---- event loop (member_turn.cc)
  // About to block: publishes releases, parks, announces, looks again. False: the loop must turn again at once.
  bool may_sleep();
  // Milliseconds to the next look for a member without interrupts; ~0: none needed.
  uint64_t poll_delay();
  void woke();
  bool has_news();
  // The same for who spins and looks at the ends in use himself: of the bells a few at a time, whose number others decide.
  bool some_news();
  // Whether spinning pays. Who spins where others want the processor gets it back after their time slices, milliseconds, whereas whoever
  // is woken gets it at once; and whoever should answer may be waiting for this very processor. So `adaptive` sleeps for a while
  // instead when its thread was kept from the processor, and when it has spun in vain several times in a row.
  // Two looks at the clock, in a row or about a processor given away: was the thread kept from it in between?
  void away(uint64_t before, uint64_t now);
  void spun_well() { vain_ = 0; }
  // Nobody would wake it.
  bool must_spin() const { return options_.mode == Mode::busy || (hot_until_ != 0 && (!has_doorbell() || muted_until_ != 0)); }
  bool crowded(uint64_t now) const { return options_.mode == Mode::adaptive && has_doorbell() && now < crowded_until_; }
  bool hot(uint64_t now) const { return options_.mode == Mode::busy || now < hot_until_; }
  void look_at_table() { table_due_ = true; }
  void process();
  // Of process() the part for ends that are in use; bells and control messages have their turn with the event loop's.
  void serve();

  struct Counters {
    uint64_t doorbells = 0, sleeps = 0, wakeups = 0, muted = 0;
  };
  const Counters& counters() const { return counters_; }
  uint64_t rescued() const { return rescued_.load(std::memory_order_relaxed); }
  const SectionAllocator& memory() const { return memory_; }

 private:
  struct Handles {
    uv_poll_t poll;
    uv_async_t async;
    Member* member;
    Module* module;
    int open;
  };
  struct Other {
    std::unique_ptr<Remote<A>> remote;
    uint32_t generation = 0;
    uint32_t departed = 0; // incarnation that has left for good
    bool stalled = false;
    bool control_pending = false;
    bool carried = false; // bells go to the listener
    bool rung = false;    // and one is on its way to it
    std::array<std::vector<uint32_t>, kBellWords> ends; // by the group of the bell; none in 0
  };
  // What the watchdog's thread and the loop tell each other about one section.
  struct Watch {
    std::atomic<uint32_t> incarnation{0};  // loop → thread: watch this one; 0: nobody there
    std::atomic<uint32_t> seen_bell{0};    // loop → thread: total at the last look
    std::atomic<uint64_t> signature{0};    // loop → thread: of table entry and identity at the last look
    std::atomic<bool> stalled{false};      // thread → loop
    uint32_t watched = 0;                  // thread's own from here on
    uint64_t heartbeat = 0;
    uint64_t since = 0;
    bool strange = false; // the bell differed at the last tick already
  };
  enum Attention : uint32_t { kTable = 1, kStall = 2, kBell = 4, kLost = 8 };

  uint64_t tick(uint64_t now) override;
  void demand(uint32_t attention);
  uint64_t signature(uint32_t section) const;
  uint32_t bell_total(uint32_t section) const;

  SectionView view_of(uint32_t section) const { return SectionView(mapping_->data(), geometry_, section); }
  bool ring_doorbell(uint32_t section);
  void tell_everybody();
  void say_leaving();
  void scan();
  void check_stalls();
  void take_bells();
  void tell_ready();
  void deliver_events();
  void deliver_control();
  void report_lost();
  void arrive(uint32_t section, const Identity& identity, uint32_t generation);
  void leave(uint32_t section);
  void reclaim_all();
  // In all sections; the callback neither makes nor frees any.
  template <class Callback>
  void each_end(Callback callback) {
    for (const Other& other : others_) {
      for (const auto& group : other.ends) {
        for (const uint32_t id : group) {
          if (EndEntry* end = table_.find(id)) callback(*end);
        }
      }
    }
  }
  void note_traffic() { traffic_ = true; }
  void drain();
  void listen();
  void limit_doorbells();
  void fall_asleep();
  void spun_in_vain(uint64_t now);
  RemoteInfo self() const;

  Module& module_;
  std::shared_ptr<Mapping> mapping_;
  const Geometry geometry_;
  MemberOptions options_;
  MemberListener* listener_;
  uint32_t* ready_;
  const uint32_t incarnation_;
  SectionAllocator memory_;
  std::vector<Other> others_;
  std::vector<uint32_t> present_; // sections of those that are there
  std::unique_ptr<Watch[]> watch_;
  Sleeper<A> sleeper_;
  std::unordered_map<uint32_t, std::vector<int>> doorbells_; // peer id → descriptor per vector
  std::deque<std::pair<PeerEvent, RemoteInfo>> events_;
  Handles* handles_ = nullptr;
  Counters counters_;
  uint32_t next_bell_ = 0;
  size_t next_look_ = 0; // in present_

  bool closed_ = false;
  bool detached_ = false;
  bool started_ = false;
  bool processing_ = false;
  bool signalled_ = true; // look at everything once, after the doorbell has been armed
  bool table_due_ = true;
  bool asking_ = false; // a control message went out since the last look at the clock
  bool watched_ = false;
  uint64_t hot_until_ = 0;
  uint64_t crowded_until_ = 0;
  uint32_t vain_ = 0; // times in a row that it was hot, and nothing came
  uint64_t last_traffic_ = 0;
  uint64_t next_scan_ = 0;
  // doorbells of the last 10 ms, and those of them that had nothing to say
  bool rung_ = false;
  bool heard_ = false; // a bell, or somebody who came or went, since the last doorbell
  uint32_t rings_ = 0;
  uint32_t empty_ = 0;
  uint64_t window_ = 0;
  uint64_t muted_until_ = 0, muted_for_ = 0, unmuted_ = 0;

  // shared with the watchdog's thread
  std::atomic<uint32_t> attention_{0};
  std::atomic<bool> asleep_{false};
  std::atomic<bool> lost_reported_{false};
  std::atomic<bool> polls_{false};
  std::atomic<uint64_t> rescued_{0};
  std::atomic<uint32_t> naps_{0}; // how often this thread has gone to sleep
  uint32_t last_nap_ = 0;         // thread's own from here on
  uint64_t last_tick_ = 0;
  uint64_t next_tick_ = kTickMilliseconds;
};

} // namespace vmring::addon
