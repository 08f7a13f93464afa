#include "addon/member.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "addon/module.hpp"
#include "addon/region.hpp"

namespace vmring::addon {

Member::Member(Module& module, std::shared_ptr<Mapping> mapping, const Geometry& geometry,
               const MemberOptions& options, MemberListener* listener, uint32_t* ready)
    : EndOwner(module.ends), module_(module), mapping_(std::move(mapping)), geometry_(geometry), options_(options),
      listener_(listener), ready_(ready),
      incarnation_(random_nonce()),
      memory_(geometry.heap_begin(), geometry.section_size), others_(geometry.sections),
      watch_(std::make_unique<Watch[]>(geometry.sections)),
      sleeper_(view_of(options.section).sleep_word(), incarnation_) {
  options_.doorbell = -1; // not ours before start()
  const SectionView own = view_of(options_.section);
  for (uint32_t i = 0; i < geometry_.sections; ++i) {
    if (i == options_.section) continue;
    others_[i].remote = std::make_unique<Remote<A>>(own, view_of(i), options_.section, i, incarnation_);
  }
  A::store_relaxed(own.heartbeat(), A::load_relaxed(own.heartbeat()) + 1);
  Identity identity;
  std::memcpy(identity.uuid, options_.uuid, sizeof identity.uuid);
  identity.incarnation = incarnation_;
  identity.state = EntryState::joined;
  identity.peer_id = options_.peer_id;
  identity.vector = options_.vector;
  identity.pid = static_cast<uint32_t>(getpid());
  write_identity<A>(own.identity(), identity);
  options_.doorbell = options.doorbell;
  polls_ = !has_doorbell();
}

Member::~Member() { close(); }

void Member::start() {
  started_ = true; // from here on close() has something to undo
  handles_ = new Handles{};
  handles_->member = this;
  handles_->module = &module_;
  handles_->open = 1;
  uv_loop_t* loop = module_.loop.uv();
  handles_->async.data = handles_;
  uv_async_init(loop, &handles_->async, [](uv_async_t*) {}); // waking the loop is all: the check handle looks
  module_.loop.handle_opened();
  if (options_.doorbell >= 0) {
    fcntl(options_.doorbell, F_SETFD, FD_CLOEXEC);
    fcntl(options_.doorbell, F_SETFL, fcntl(options_.doorbell, F_GETFL) | O_NONBLOCK);
    handles_->poll.data = handles_;
    if (uv_poll_init(loop, &handles_->poll, options_.doorbell) == 0) {
      ++handles_->open;
      module_.loop.handle_opened();
      uv_unref(reinterpret_cast<uv_handle_t*>(&handles_->poll));
      listen();
    }
  }
  module_.loop.add(shared_from_this());
  scan();
  watch(this);
  watched_ = true;
  tell_everybody();
}

void Member::close() {
  if (closed_) return;
  closed_ = true;
  listener_ = nullptr;
  const std::shared_ptr<Member> keep = weak_from_this().lock();
  if (watched_) unwatch(this);
  if (!mapping_->lost() && !detached_) say_leaving();
  each_end([this](EndEntry& end) {
    if (end.owner == this) end.owner = nullptr;
  });
  for (Other& other : others_) other.ends = {};
  if (handles_ != nullptr) {
    handles_->member = nullptr;
    const uv_close_cb done = [](uv_handle_t* handle) {
      auto* handles = static_cast<Handles*>(handle->data);
      Module* module = handles->module;
      if (--handles->open == 0) delete handles;
      module->loop.handle_closed();
    };
    if (handles_->open == 2) uv_close(reinterpret_cast<uv_handle_t*>(&handles_->poll), done);
    uv_close(reinterpret_cast<uv_handle_t*>(&handles_->async), done);
    handles_ = nullptr;
  }
  if (started_ && options_.doorbell >= 0) ::close(options_.doorbell);
  options_.doorbell = -1;
  while (!doorbells_.empty()) clear_doorbell(doorbells_.begin()->first);
  if (started_) module_.loop.remove(this);
}

void Member::detach() {
  if (closed_ || detached_ || mapping_->lost()) return;
  if (watched_) unwatch(this); // the others' heartbeats stand still from now on, which means nothing
  watched_ = false;
  say_leaving();
  detached_ = true;
}

void Member::say_leaving() {
  sleeper_.awake();
  write_identity_state<A>(view_of(options_.section).identity(), EntryState::leaving);
  tell_everybody();
}

void Member::set_doorbell(uint32_t peer_id, uint32_t vector, int fd) {
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) throw SystemError(errno, "fcntl");
  fcntl(copy, F_SETFL, fcntl(copy, F_GETFL) | O_NONBLOCK);
  std::vector<int>& vectors = doorbells_[peer_id];
  if (vectors.size() <= vector) vectors.resize(vector + 1, -1);
  if (vectors[vector] >= 0) ::close(vectors[vector]);
  vectors[vector] = copy;
  // What was rung before the descriptor was here went unheard.
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(copy, &one, sizeof one);
}

void Member::clear_doorbell(uint32_t peer_id) {
  const auto it = doorbells_.find(peer_id);
  if (it == doorbells_.end()) return;
  for (const int fd : it->second) {
    if (fd >= 0) ::close(fd);
  }
  doorbells_.erase(it);
}

bool Member::ring_doorbell(uint32_t section) {
  Other& other = others_[section];
  const Remote<A>& remote = *other.remote;
  if (other.carried && remote.present()) {
    if (!other.rung) events_.emplace_back(PeerEvent::ring, RemoteInfo{section, remote.identity(), other.stalled});
    other.rung = true;
    ++counters_.doorbells;
    return true;
  }
  const auto it = doorbells_.find(remote.identity().peer_id);
  const uint32_t vector = remote.identity().vector;
  if (it == doorbells_.end()) {
    if (!options_.ringer || !remote.present()) return false;
    if (!options_.ringer->ring(remote.identity().peer_id, vector)) return false;
    ++counters_.doorbells;
    return true;
  }
  if (vector >= it->second.size() || it->second[vector] < 0) return false;
  const uint64_t one = 1;
  // EAGAIN: the counter is full, so the other side has not looked for 2^64 doorbells; it will find this one too.
  [[maybe_unused]] const ssize_t written = ::write(it->second[vector], &one, sizeof one);
  ++counters_.doorbells;
  return true;
}

// Members that we do not know yet are rung as well: a line of bells is there for everybody.
void Member::tell_everybody() {
  for (uint32_t i = 0; i < others_.size(); ++i) {
    if (others_[i].remote && others_[i].remote->ring_control()) ring_doorbell(i);
  }
}

void Member::set_ref(bool on) {
  if (handles_ == nullptr) return;
  auto* handle = reinterpret_cast<uv_handle_t*>(&handles_->async);
  if (on) {
    uv_ref(handle);
  } else {
    uv_unref(handle);
  }
}

RemoteInfo Member::self() const {
  RemoteInfo info{options_.section, {}, false};
  std::memcpy(info.identity.uuid, options_.uuid, sizeof info.identity.uuid);
  info.identity.incarnation = incarnation_;
  info.identity.peer_id = options_.peer_id;
  info.identity.pid = static_cast<uint32_t>(getpid());
  return info;
}

std::vector<RemoteInfo> Member::remotes() const {
  std::vector<RemoteInfo> result;
  for (const uint32_t section : present_) {
    result.push_back({section, others_[section].remote->identity(), others_[section].stalled});
  }
  return result;
}

bool Member::send_control(uint32_t section, const uint8_t* bytes, uint32_t length) {
  if (closed_ || detached_ || mapping_->lost() || section >= others_.size() || !others_[section].remote) return false;
  Remote<A>& remote = *others_[section].remote;
  if (!remote.send_control(bytes, length)) return false;
  if (remote.ring_control()) ring_doorbell(section);
  note_traffic();
  asking_ = true;
  return true;
}

// ---- membership: state in the table and in the identity lines, never events.

void Member::scan() {
  for (uint32_t i = 0; i < others_.size(); ++i) {
    Other& other = others_[i];
    if (!other.remote) continue;
    // Taken before the look: what changes during it is seen as changed by the watchdog.
    watch_[i].signature.store(signature(i), std::memory_order_relaxed);
    Entry entry;
    if (!read_entry<A>(reinterpret_cast<const EntryBlock*>(mapping_->data() + geometry_.entry_at(i)), entry)) continue;
    Identity identity;
    const bool there = entry.state == EntryState::joined &&
                       read_identity<A>(other.remote->view().identity(), identity) &&
                       identity.state == EntryState::joined &&
                       (geometry_.plain || identity.peer_id == entry.peer_id);
    // Zeros that took the place of lost memory say nothing about the others; the loss itself is reported.
    if (mapping_->lost()) return;
    if (other.remote->present() && (!there || identity.incarnation != other.remote->identity().incarnation ||
                                    entry.generation != other.generation)) {
      leave(i);
    }
    if (there && !other.remote->present() && identity.incarnation != other.departed) {
      arrive(i, identity, entry.generation);
    }
  }
}

void Member::arrive(uint32_t section, const Identity& identity, uint32_t generation) {
  heard_ = true;
  Other& other = others_[section];
  other.remote->arrive(identity);
  other.generation = generation;
  other.stalled = false;
  other.control_pending = true;
  present_.push_back(section);
  watch_[section].stalled.store(false, std::memory_order_relaxed);
  watch_[section].incarnation.store(identity.incarnation, std::memory_order_release);
  events_.emplace_back(PeerEvent::joined, RemoteInfo{section, identity, false});
}

void Member::leave(uint32_t section) {
  heard_ = true;
  Other& other = others_[section];
  const Identity identity = other.remote->identity();
  other.departed = identity.incarnation;
  other.remote->leave();
  other.control_pending = other.carried = other.rung = false;
  std::erase(present_, section);
  watch_[section].incarnation.store(0, std::memory_order_release);
  events_.emplace_back(PeerEvent::left, RemoteInfo{section, identity, other.stalled});
}

// ---- the watchdog's thread: reads shared lines and the atomics of Watch, nothing else.

uint64_t Member::signature(uint32_t section) const {
  const auto* entry = reinterpret_cast<const EntryBlock*>(mapping_->data() + geometry_.entry_at(section));
  const IdentityBlock* identity = view_of(section).identity();
  return uint64_t{A::load_relaxed(&identity->incarnation)} << 32 ^
         (uint64_t{A::load_relaxed(&entry->lock)} << 2 | (A::load_relaxed(&identity->state) & 3));
}

uint32_t Member::bell_total(uint32_t section) const {
  return A::load_relaxed(view_of(section).bells(options_.section));
}

void Member::demand(uint32_t attention) {
  attention_.fetch_or(attention);
  uv_async_send(&handles_->async);
}

uint64_t Member::tick(uint64_t now) {
  uint32_t attention = 0;
  if (mapping_->lost()) {
    if ((attention_.load() & kLost) == 0 && !lost_reported_.load()) demand(kLost);
    return kTickMilliseconds;
  }
  uint64_t* heartbeat = view_of(options_.section).heartbeat();
  A::store_relaxed(heartbeat, A::load_relaxed(heartbeat) + 1);
  // We were stopped ourselves (SIGSTOP, a paused machine): that says nothing about the others.
  const bool paused = now - last_tick_ > next_tick_ + 2 * kTickMilliseconds;
  last_tick_ = now;
  const bool asleep = asleep_.load(std::memory_order_acquire);
  const uint32_t nap = naps_.load(std::memory_order_relaxed);
  // Whoever is not woken by interrupts counts on the tick, and a suspicion wants to be settled soon.
  const bool polling = polls();
  const bool same_nap = asleep && nap == last_nap_;
  bool idle = same_nap && !polling;
  last_nap_ = nap;
  for (uint32_t i = 0; i < others_.size(); ++i) {
    if (i == options_.section) continue;
    Watch& watch = watch_[i];
    if (signature(i) != watch.signature.load(std::memory_order_relaxed)) attention |= kTable;
    const uint32_t incarnation = watch.incarnation.load(std::memory_order_acquire);
    if (incarnation == 0) {
      watch.watched = 0;
      continue;
    }
    const uint64_t beat = A::load_relaxed(view_of(i).heartbeat());
    if (incarnation != watch.watched || beat != watch.heartbeat || paused) {
      if (incarnation == watch.watched && beat != watch.heartbeat && watch.stalled.load()) {
        watch.stalled.store(false);
        attention |= kStall;
      }
      watch.watched = incarnation;
      watch.heartbeat = beat;
      watch.since = now;
    } else if (!watch.stalled.load()) {
      idle = false;
      if (now - watch.since >= 1000) {
        watch.stalled.store(true);
        attention |= kStall;
      }
    }
    // Rung while we sleep, and still unheard at the next tick of the same nap: the interrupt was dropped. (In another nap it
    // is another bell, whose interrupt is under way.) Without interrupts at all, the tick is the doorbell of a member that
    // has been idle for long.
    const bool strange = asleep && bell_total(i) != watch.seen_bell.load(std::memory_order_relaxed);
    if (strange && (polling || (watch.strange && same_nap))) {
      if (!polling) rescued_.fetch_add(1, std::memory_order_relaxed);
      attention |= kBell;
    }
    watch.strange = strange;
    if (strange) idle = false;
  }
  if (attention != 0) {
    demand(attention);
    idle = false;
  }
  next_tick_ = idle ? kIdleTickMilliseconds : kTickMilliseconds;
  return next_tick_;
}

} // namespace vmring::addon
