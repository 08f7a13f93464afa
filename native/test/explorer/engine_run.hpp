// The part of Engine that executes: memory, buffers, one execution, the search.
#pragma once

#include "explorer/engine.hpp"

namespace explorer {

inline constexpr uint64_t kMaxSteps = 3000; // of one execution: more is a loop without end

inline void Engine::write(size_t at, const uint8_t* bytes, size_t length) {
  while (length != 0) {
    const size_t word = at / 8;
    const size_t part = std::min(length, 8 - at % 8);
    uint64_t value;
    memcpy(&value, memory() + word * 8, 8);
    memory_hash_ ^= mix(word, value);
    memcpy(memory() + at, bytes, part);
    memcpy(&value, memory() + word * 8, 8);
    memory_hash_ ^= mix(word, value);
    if (!touched_[word]) {
      touched_[word] = 1;
      touched_list_.push_back(static_cast<uint32_t>(word));
    }
    at += part;
    bytes += part;
    length -= part;
  }
}

// What a role sees: memory under the first `entries` entries of its own buffer.
inline void Engine::compose(const Role& role, size_t at, size_t length, uint8_t* out, int entries) const {
  memcpy(out, memory_.get() + at, length);
  for (int i = 0; i < entries; ++i) {
    const Entry& e = role.buffer[i];
    if (e.late_read || e.at + e.length <= at || at + length <= e.at) continue;
    const size_t from = std::max<size_t>(at, e.at);
    const size_t to = std::min<size_t>(at + length, e.at + e.length);
    memcpy(out + (from - at), e.bytes + (from - e.at), to - from);
  }
}

inline std::string Engine::hex(const uint8_t* bytes, size_t length) {
  std::string text = "0x";
  char digits[3];
  for (size_t i = length; i-- != 0;) {
    snprintf(digits, sizeof digits, "%02x", bytes[i]);
    text += digits;
    if (i % 8 == 0 && i != 0) text += ' ';
  }
  return text;
}

inline void Engine::load(const void* from, void* to, size_t length, bool payload) {
  const size_t at = offset(from);
  auto* out = static_cast<uint8_t*>(to);
  if (current_ < 0) {
    memcpy(out, memory() + at, length);
    return;
  }
  Role& role = roles_[current_];
  mark(read_, at, length);
  if (!reduce_ || others(written_, at, length, current_)) visible(Pending::step);
  compose(role, at, length, out, role.buffered);
  for (size_t i = 0; i < length; i += 8) {
    uint64_t value = 0;
    memcpy(&value, out + i, std::min<size_t>(8, length - i));
    learn(value);
  }
  if (tracing_) note("loads %s: %s", where(at).c_str(), hex(out, length).c_str());
  if (payload && options_.late_reads) append(at, out, length, false, true);
}

inline void Engine::store(void* to, const void* from, size_t length, bool release) {
  const size_t at = offset(to);
  if (current_ < 0) {
    write(at, static_cast<const uint8_t*>(from), length);
    return;
  }
  mark(written_, at, length);
  append(at, from, length, release, false);
  if (tracing_) note("stores %s := %s%s", where(at).c_str(), hex(static_cast<const uint8_t*>(from), length).c_str(), release ? " (release)" : "");
}

inline void Engine::append(size_t at, const void* bytes, size_t length, bool release, bool late_read) {
  Role& role = roles_[current_];
  if (role.buffered == kBuffer) visible(Pending::room);
  ++role.operations;
  Entry& e = role.buffer[role.buffered++];
  e.at = static_cast<uint32_t>(at);
  e.length = static_cast<uint8_t>(length);
  e.release = release;
  e.late_read = late_read;
  e.epoch = role.epoch;
  memcpy(e.bytes, bytes, length);
}

inline bool Engine::may_flush(const Role& role, int entry) const {
  if (entry == 0) return true;
  if (options_.model == Model::tso) return false;
  const Entry& e = role.buffer[entry];
  if (e.release) return false;
  for (int i = 0; i < entry; ++i) {
    const Entry& before = role.buffer[i];
    if (before.epoch != e.epoch) return false;
    if (before.at / 8 <= (e.at + e.length - 1u) / 8 && e.at / 8 <= (before.at + before.length - 1u) / 8) return false;
  }
  return true;
}

inline void Engine::flush(int index, int entry) {
  Role& role = roles_[index];
  Entry& e = role.buffer[entry];
  if (e.late_read) {
    uint8_t now[kGrain];
    compose(role, e.at, e.length, now, entry);
    if (memcmp(now, e.bytes, e.length) != 0) {
      const std::string found = where(e.at) + " may be delayed past a later store and find " + hex(now, e.length) +
                                " instead of " + hex(e.bytes, e.length);
      fail("the read of ", found.c_str());
    }
  } else {
    write(e.at, e.bytes, e.length);
  }
  if (tracing_) {
    schedule_.push_back(std::string(1, static_cast<char>('A' + index)) + "   … " +
                        (e.late_read ? "has read " : "visible: ") + where(e.at) + " = " + hex(e.bytes, e.length));
  }
  for (int i = entry; i + 1 < role.buffered; ++i) role.buffer[i] = role.buffer[i + 1];
  --role.buffered;
}

inline void Engine::body(void* self, int index) {
  auto* engine = static_cast<Engine*>(self);
  engine->scenario_->role(index);
  Role& role = engine->roles_[index];
  role.pending = Pending::ended;
  role.history = 0; // what it held has been checked
  role.operations = 0;
}

inline void Engine::resume(int index) {
  current_ = index;
  roles_[index].fiber.resume();
  current_ = -1;
}

// Does what nobody else can notice.
inline void Engine::settle() {
  for (bool more = true; more && !failed_;) {
    more = false;
    for (int r = 0; r < role_count_ && !failed_; ++r) {
      Role& role = roles_[r];
      for (int i = 0; i < role.buffered;) {
        if (may_flush(role, i) && !noticed(role.buffer[i], r)) {
          flush(r, i);
          more = true;
        } else {
          ++i;
        }
      }
      if ((role.pending == Pending::fence && role.buffered == 0) ||
          (role.pending == Pending::room && role.buffered < kBuffer)) {
        resume(r);
        more = true;
      }
    }
    if (++steps_ > kMaxSteps) fail("goes on without end");
  }
}

inline void Engine::transitions(std::vector<Transition>& out) const {
  out.clear();
  for (int r = 0; r < role_count_; ++r) {
    const Role& role = roles_[r];
    if (role.pending == Pending::step || (role.pending == Pending::swap && role.buffered == 0) ||
        (role.pending == Pending::sleep && doorbell_[role.doorbell])) {
      out.push_back({r, -1});
    }
  }
  for (int r = 0; r < role_count_; ++r) {
    for (int i = 0; i < roles_[r].buffered; ++i) {
      if (may_flush(roles_[r], i)) out.push_back({r, i});
    }
  }
}

inline uint64_t Engine::state() const {
  uint64_t hash = memory_hash_;
  for (int r = 0; r < role_count_; ++r) {
    const Role& role = roles_[r];
    hash = mix(hash, role.history);
    hash = mix(hash, role.operations << 8 | static_cast<uint64_t>(role.pending) << 1 | uint64_t{doorbell_[r]});
    for (int i = 0; i < role.buffered; ++i) {
      const Entry& e = role.buffer[i];
      hash = mix(hash, uint64_t{e.at} << 32 | uint64_t{role.epoch - e.epoch} << 16 | uint64_t{e.length} << 8 |
                           uint64_t{e.release} << 1 | uint64_t{e.late_read});
      for (size_t b = 0; b < e.length; b += 8) {
        uint64_t value = 0;
        memcpy(&value, e.bytes + b, std::min<size_t>(8, e.length - b));
        hash = mix(hash, value);
      }
    }
  }
  return hash;
}

inline Engine::Outcome Engine::run(Factory factory, std::mt19937* random) {
  for (const uint32_t word : touched_list_) {
    memset(memory() + word * size_t{8}, 0, 8);
    touched_[word] = 0;
  }
  touched_list_.clear();
  names_.clear();
  memory_hash_ = 0;
  steps_ = 0;
  failed_ = false;
  grain_ = 8;
  limit_ = ~uint64_t{0};
  cut_ = false;
  current_ = -1;
  for (bool& d : doorbell_) d = false;
  scenario_ = factory();
  role_count_ = scenario_->roles();
  for (int r = 0; r < role_count_; ++r) {
    Role& role = roles_[r];
    role.pending = Pending::step;
    role.buffered = 0;
    role.epoch = 0;
    role.history = 0;
    role.operations = 0;
    role.fiber.start(&Engine::body, this, r);
  }
  // Roles run to their first visible step.
  for (int r = 0; r < role_count_ && !failed_; ++r) resume(r);
  size_t depth = 0;
  while (!failed_) {
    settle();
    if (failed_) break;
    if (cut_) return Outcome::pruned;
    transitions(enabled_);
    if (enabled_.empty()) {
      for (int r = 0; r < role_count_; ++r) {
        if (roles_[r].pending != Pending::ended) {
          const char role[] = {static_cast<char>('A' + r), 0};
          fail("stuck, waits for ever: role ", role);
        }
      }
      if (!failed_) scenario_->end();
      break;
    }
    size_t take = 0;
    if (enabled_.size() > 1) {
      if (random) {
        take = (*random)() % enabled_.size();
      } else {
        if (depth == path_.size()) {
          if (!visited_.insert(state())) return Outcome::pruned;
          path_.push_back({0, static_cast<uint32_t>(enabled_.size())});
        }
        take = path_[depth++].taken;
      }
    }
    const Transition t = enabled_[take];
    if (t.entry >= 0) {
      flush(t.role, t.entry);
    } else {
      resume(t.role);
    }
    if (++steps_ > kMaxSteps) fail("goes on without end");
  }
  return failed_ ? Outcome::failed : Outcome::ended;
}

inline Result Engine::explore(Factory factory, const Options& options) {
  Result result;
  options_ = options;
  std::fill(written_.begin(), written_.end(), 0);
  std::fill(read_.begin(), read_.end(), 0);
  tracing_ = false;
  // Who touches what, learnt from some executions at random; more is learnt on the way.
  reduce_ = false;
  std::mt19937 random(1);
  for (int i = 0; i < (kSlower > 10 ? 20 : 100); ++i) run(factory, &random);
  reduce_ = true;
  for (;;) {
    visited_.clear();
    path_.clear();
    learnt_ = false;
    for (;;) {
      ++result.executions;
      const Outcome outcome = run(factory, nullptr);
      result.transitions += steps_;
      if (outcome == Outcome::failed) {
        result.failed = true;
        result.reason = reason_;
        tracing_ = true;
        schedule_.clear();
        run(factory, nullptr);
        tracing_ = false;
        result.schedule.swap(schedule_);
        break;
      }
      if (learnt_ || result.executions >= options.max_executions) break;
      while (!path_.empty() && ++path_.back().taken == path_.back().of) path_.pop_back();
      if (path_.empty()) {
        result.complete = true;
        break;
      }
    }
    if (!learnt_ || result.failed || result.executions >= options.max_executions) break;
  }
  result.states = visited_.size();
  scenario_.reset();
  return result;
}

} // namespace explorer
