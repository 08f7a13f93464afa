// Bounded interleaving explorer with store buffers: runs the roles of a scenario in every order that the memory model
// allows, and says after which order something went wrong.
//
// The model. A store goes into the buffer of its role and becomes visible to the others later, as a transition of its own.
//   TSO  the buffer is one queue (x86).
//   PSO  stores to different words overtake each other; a release store waits for everything before it, a release fence
//        makes everything after it wait for everything before it. With `late_reads`, reads of payload may also be
//        delayed past later stores, as on arm64: the bytes must then still be what the program saw.
// A full fence and a compare-and-swap wait until the buffer is empty. Loads see the own buffer first, then memory, in
// program order. So what is NOT modelled is a load done before an earlier load: acquire loads and acquire fences cannot be
// weakened visibly here (ThreadSanitizer and the argument at each SYNC comment stand for those).
//
// The search. Depth first over choice sequences, each execution replayed from its beginning. A state (memory, buffers,
// doorbells, and per role the hash of every value it has loaded, which determines all that it holds privately) that has
// been met before is not continued. Steps that no other role can notice are not branched on: "can notice" is learnt from
// the words that roles touch, and the search starts over when it learns more, so the reduction loses nothing.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/atomics.hpp"
#include "explorer/fiber.hpp"
#include "explorer/visited.hpp"

namespace explorer {

using vmring::Site;

enum class Model { tso, pso };

struct Options {
  Model model = Model::tso;
  int weakened = -1;       // a Site, or -1
  bool late_reads = false; // with PSO only
  uint64_t max_executions = ~uint64_t{0};
};

struct Result {
  bool failed = false;
  bool complete = false;
  std::string reason;
  std::vector<std::string> schedule;
  uint64_t executions = 0;
  uint64_t states = 0;
  uint64_t transitions = 0;
};

// Built anew for every execution, outside all roles: the constructor's stores are visible at once.
struct Scenario {
  virtual ~Scenario() = default;
  virtual int roles() const { return 2; }
  virtual void role(int index) = 0;
  virtual void end() {} // all roles have ended, all buffers are empty
};
using Factory = std::unique_ptr<Scenario> (*)();

class Engine {
 public:
  static constexpr size_t kMemory = (1u << 20) + (64u << 10);
  static constexpr int kMaxRoles = 3;
  static constexpr int kBuffer = 24; // entries of one store buffer; a role waits when it is full
  static constexpr int kGrain = 64;  // most bytes of one entry

  Engine()
      : memory_(static_cast<uint8_t*>(aligned_alloc(4096, kMemory)), &free), written_(kMemory / 8), read_(kMemory / 8),
        touched_(kMemory / 8) {
    memset(memory_.get(), 0, kMemory);
  }

  uint8_t* memory() { return memory_.get(); }
  Result explore(Factory factory, const Options& options);

  // ---- for roles
  // Something is wrong. Does not return on a role, so no string may be under way there.
  void fail(const char* reason, const char* more = "") {
    if (!failed_) reason_.assign(reason).append(more);
    failed_ = true;
    if (current_ >= 0) give_way(Pending::stopped);
  }
  void expect(bool good, const char* reason) {
    if (!good) fail(reason);
  }
  // The doorbell of a peer (an eventfd): outside the memory model, done at once, not ordered with stores.
  void ring_doorbell(int peer) {
    visible(Pending::step);
    doorbell_[peer] = true;
    note("rings the doorbell of %c", 'A' + peer);
  }
  void sleep(int peer) {
    note("sleeps");
    sleeping_on_ = peer;
    roles_[current_].doorbell = peer;
    visible(Pending::sleep);
    doorbell_[peer] = false;
    note("wakes");
  }
  // Bytes of one store-buffer entry of write_bytes, and of one load of read_bytes.
  void grain(size_t bytes) { grain_ = bytes; }
  size_t grain() const { return grain_; }
  // Most operations of one role; executions with more are cut off there. For loops that try again while they are disturbed.
  void limit(uint64_t operations) { limit_ = operations; }
  // Where a role may run behind; for names in schedules.
  void name(const void* begin, size_t length, const char* text) { names_.push_back({offset(begin), length, text}); }

  // ---- for the policy
  bool weakened(Site site) const { return options_.weakened == static_cast<int>(site); }
  void load(const void* from, void* to, size_t length, bool payload = false);
  void store(void* to, const void* from, size_t length, bool release);
  void release_fence() {
    if (current_ >= 0) ++roles_[current_].epoch;
  }
  void full_fence() {
    if (current_ < 0 || roles_[current_].buffered == 0) return;
    note("waits at a full fence");
    visible(Pending::fence);
  }
  bool compare_swap(uint32_t* word, uint32_t expected, uint32_t desired) {
    const size_t at = offset(word);
    if (current_ >= 0) {
      mark(written_, at, 4);
      mark(read_, at, 4);
      visible(Pending::swap);
    }
    uint32_t held;
    memcpy(&held, memory() + at, 4);
    if (held == expected) write(at, reinterpret_cast<uint8_t*>(&desired), 4);
    if (current_ >= 0) learn(held);
    note("compares %u with %u at %s", held, expected, where(at).c_str());
    return held == expected;
  }

 private:
  enum class Pending : uint8_t { step, fence, room, swap, sleep, stopped, ended };
  struct Entry {
    uint32_t at;
    uint8_t length;
    bool release;
    bool late_read;
    uint32_t epoch;
    uint8_t bytes[kGrain];
  };
  struct Role {
    Fiber fiber;
    Pending pending = Pending::step;
    int doorbell = 0;
    int buffered = 0;
    uint32_t epoch = 0;
    uint64_t history = 0;
    uint64_t operations = 0;
    Entry buffer[kBuffer];
  };
  struct Transition {
    int role;
    int entry; // -1: the role's own step
  };
  struct Choice {
    uint32_t taken;
    uint32_t of;
  };
  struct Name {
    size_t begin;
    size_t length;
    const char* text;
  };
  enum class Outcome { ended, pruned, failed };

  size_t offset(const void* p) const { return static_cast<size_t>(static_cast<const uint8_t*>(p) - memory_.get()); }
  static uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t x = (a ^ b) * 0x9E3779B97F4A7C15ull;
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93ull;
    x ^= x >> 29;
    return x + a;
  }
  void learn(uint64_t value) { roles_[current_].history = mix(roles_[current_].history, value + 1); }
  void give_way(Pending why) {
    roles_[current_].pending = why;
    roles_[current_].fiber.give_way();
  }
  void visible(Pending why) {
    if (current_ < 0) return;
    if (++roles_[current_].operations > limit_) {
      cut_ = true;
      give_way(Pending::stopped);
    }
    give_way(why);
  }

  // Which roles touch which words, over all executions so far.
  void mark(std::vector<uint8_t>& touchers, size_t at, size_t length) {
    const auto bit = static_cast<uint8_t>(1u << current_);
    for (size_t word = at / 8; word <= (at + length - 1) / 8; ++word) {
      if (touchers[word] & bit) continue;
      touchers[word] |= bit;
      learnt_ = true;
    }
  }
  bool others(const std::vector<uint8_t>& touchers, size_t at, size_t length, int role) const {
    for (size_t word = at / 8; word <= (at + length - 1) / 8; ++word) {
      if (touchers[word] & ~(1u << role)) return true;
    }
    return false;
  }
  bool noticed(const Entry& e, int role) const {
    return !reduce_ || others(written_, e.at, e.length, role) || (!e.late_read && others(read_, e.at, e.length, role));
  }

  void write(size_t at, const uint8_t* bytes, size_t length);
  void compose(const Role& role, size_t at, size_t length, uint8_t* out, int entries) const;
  void append(size_t at, const void* bytes, size_t length, bool release, bool late_read);
  bool may_flush(const Role& role, int entry) const;
  void flush(int role, int entry);
  void resume(int role);
  void settle();
  void transitions(std::vector<Transition>& out) const;
  uint64_t state() const;
  Outcome run(Factory factory, std::mt19937* random);
  static void body(void* self, int index);

  template <class... T>
  void note(const char* format, T... values) {
    if (!tracing_ || current_ < 0) return;
    char line[256];
    if constexpr (sizeof...(T) == 0) {
      snprintf(line, sizeof line, "%s", format);
    } else {
      snprintf(line, sizeof line, format, values...);
    }
    schedule_.push_back(std::string(1, static_cast<char>('A' + current_)) + " " + line);
  }
  std::string where(size_t at) const {
    for (const Name& n : names_) {
      if (at >= n.begin && at < n.begin + n.length) return std::string(n.text) + "+" + std::to_string(at - n.begin);
    }
    return "memory+" + std::to_string(at);
  }
  static std::string hex(const uint8_t* bytes, size_t length);

  std::unique_ptr<uint8_t, decltype(&free)> memory_;
  std::vector<uint8_t> written_;
  std::vector<uint8_t> read_;
  std::vector<uint8_t> touched_;
  std::vector<uint32_t> touched_list_;
  uint64_t memory_hash_ = 0;
  Role roles_[kMaxRoles];
  int role_count_ = 0;
  bool doorbell_[kMaxRoles] = {};
  int sleeping_on_ = 0;
  int current_ = -1;
  size_t grain_ = 8;
  uint64_t limit_ = 0;
  bool cut_ = false;
  std::unique_ptr<Scenario> scenario_;
  Options options_;
  std::vector<Choice> path_;
  Visited visited_;
  std::vector<Transition> enabled_;
  uint64_t steps_ = 0;
  bool reduce_ = false;
  bool learnt_ = false;
  bool failed_ = false;
  bool tracing_ = false;
  std::string reason_;
  std::vector<std::string> schedule_;
  std::vector<Name> names_;
};

// One for the program: the policy has static members only.
inline Engine& engine() {
  static Engine one;
  return one;
}

} // namespace explorer

#include "explorer/engine_run.hpp"
