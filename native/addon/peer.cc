#include "addon/peer.hpp"

#include <unistd.h>

#include <cstring>

#include "addon/device.hpp"
#include "addon/region.hpp"

namespace vmring::addon {
namespace {

Mode to_mode(napi_env env, napi_value value) {
  const std::string name = to_string(env, value, "the mode");
  if (name == "event") return Mode::event;
  if (name == "adaptive") return Mode::adaptive;
  if (name == "busy") return Mode::busy;
  throw_range("the mode is 'event', 'adaptive' or 'busy'");
}

napi_value remote_object(napi_env env, const RemoteInfo& remote) {
  return ObjectBuilder(env)
      .number("section", remote.section)
      .number("peerId", remote.identity.peer_id)
      .number("incarnation", remote.identity.incarnation)
      .set("uuid", make_bytes(env, remote.identity.uuid, sizeof remote.identity.uuid))
      .set("stalled", make_bool(env, remote.stalled))
      .number("pid", remote.identity.pid)
      .object();
}

constexpr int64_t kMaxVector = 255; // QEMU masks the doorbell's vector with 0xff
constexpr int64_t kMaxOffset = int64_t{1} << 53;

} // namespace

template <napi_value (Peer::*Method)(napi_env, const Napi::CallbackInfo&)>
Napi::Value Peer::method(const Napi::CallbackInfo& info) {
  const napi_env env = info.Env();
  return Napi::Value(env, guarded(env, [&] { return (this->*Method)(env, info); }));
}

void Peer::init(napi_env env, napi_value exports) {
  Napi::Function constructor = DefineClass(env, "Peer",
                                           {
                                               InstanceAccessor<&Peer::method<&Peer::section>>("section"),
                                               InstanceAccessor<&Peer::method<&Peer::incarnation>>("incarnation"),
                                               InstanceMethod<&Peer::method<&Peer::set_doorbell>>("setDoorbell"),
                                               InstanceMethod<&Peer::method<&Peer::clear_doorbell>>("clearDoorbell"),
                                               InstanceMethod<&Peer::method<&Peer::set_mode>>("setMode"),
                                               InstanceMethod<&Peer::method<&Peer::set_polling>>("setPolling"),
                                               InstanceMethod<&Peer::method<&Peer::carry_bells>>("carryBells"),
                                               InstanceMethod<&Peer::method<&Peer::knock>>("knock"),
                                               InstanceMethod<&Peer::method<&Peer::remotes>>("remotes"),
                                               InstanceMethod<&Peer::method<&Peer::send_control>>("sendControl"),
                                               InstanceMethod<&Peer::method<&Peer::create_end>>("createEnd"),
                                               InstanceMethod<&Peer::method<&Peer::attach_end>>("attachEnd"),
                                               InstanceMethod<&Peer::method<&Peer::alloc_large>>("allocLarge"),
                                               InstanceMethod<&Peer::method<&Peer::commit_large>>("commitLarge"),
                                               InstanceMethod<&Peer::method<&Peer::free_large>>("freeLarge"),
                                               InstanceMethod<&Peer::method<&Peer::counters>>("counters"),
                                               InstanceMethod<&Peer::method<&Peer::ref>>("ref"),
                                               InstanceMethod<&Peer::method<&Peer::unref>>("unref"),
                                               InstanceMethod<&Peer::method<&Peer::detach>>("detach"),
                                               InstanceMethod<&Peer::method<&Peer::close>>("close"),
                                           });
  check(napi_create_reference(env, constructor, 1, &module_of(env).peer_class));
  check(napi_set_named_property(env, exports, "Peer", constructor));
}

Peer::Peer(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Peer>(info) {
  const napi_env env = info.Env();
  bool failed = true;
  guarded(env, [&]() -> napi_value {
    construct(env, info);
    failed = false;
    return nullptr;
  });
  if (!failed) return;
  shut();
  Napi::Error pending = Napi::Env(env).GetAndClearPendingException();
  throw pending;
}

void Peer::construct(napi_env env, const Napi::CallbackInfo& info) {
  Region& region = Region::from(env, info[0]);
  const napi_value options = info[1];
  const Geometry& geometry = region.geometry();
  module_kept_ = module_of(env).shared();
  module_ = module_kept_.get();
  if (module_->ended) throw_code("", "the environment is shutting down");
  MemberOptions member;
  member.section = static_cast<uint32_t>(
      to_integer(env, property(env, options, "section"), "the section", 0, int64_t{geometry.sections} - 1));
  member.peer_id = to_u32(env, property(env, options, "peerId"), "the peer id");
  const Bytes uuid = to_bytes(env, property(env, options, "uuid"), "the uuid");
  if (uuid.length != sizeof member.uuid) throw_range("the uuid must have 16 bytes");
  std::memcpy(member.uuid, uuid.data, sizeof member.uuid);
  member.mode = to_mode(env, property(env, options, "mode"));
  member.doorbell =
      static_cast<int>(to_integer(env, property(env, options, "doorbell"), "the doorbell", -1, INT32_MAX));
  member.vector = static_cast<uint32_t>(to_integer(env, property(env, options, "vector"), "the vector", 0, kMaxVector));
  const napi_value device = property(env, options, "device");
  if (type_of(env, device) != napi_undefined) member.ringer = Device::from(env, device).ringer();
  static constexpr const char* kNames[3] = {"onReady", "onControl", "onPeer"};
  napi_value functions = nullptr;
  check(napi_create_object(env, &functions));
  for (int i = 0; i < 3; ++i) {
    const napi_value function = to_function(env, property(env, options, kNames[i]), kNames[i]);
    check(napi_set_named_property(env, functions, kNames[i], function));
    check(napi_create_reference(env, function, 0, &callbacks_[i]));
  }
  const napi_value words = ready_.array(env, napi_uint32_array);
  const napi_property_descriptor properties[] = {
      {"ready", nullptr, nullptr, nullptr, nullptr, words, napi_enumerable, nullptr},
      {"callbacks", nullptr, nullptr, nullptr, nullptr, functions, napi_default, nullptr},
  };
  check(napi_define_properties(env, info.This(), 2, properties));
  member_ = std::make_shared<Member>(*module_, region.mapping(), geometry, member, this, ready_.get());
  member_->start();
  module_->members.insert(member_.get());
  keep(true);
}

Peer::~Peer() {
  shut();
  for (napi_ref callback : callbacks_) {
    if (callback != nullptr) napi_delete_reference(Env(), callback);
  }
}

// Also from the garbage collector: no JavaScript here.
void Peer::shut() {
  if (!member_) return;
  module_->members.erase(member_.get());
  member_->close();
}

// A ref'd peer is a root, as an open socket is. (Ref and Unref of ObjectWrap count.)
void Peer::keep(bool alive) {
  if (alive == kept_) return;
  kept_ = alive;
  if (alive) {
    Ref();
  } else {
    Unref();
  }
}

EndEntry* Peer::own_end(uint32_t id) const {
  EndEntry* end = module_->ends.find(id);
  return end != nullptr && end->owner == member_.get() ? end : nullptr;
}

napi_value Peer::section(napi_env env, const Napi::CallbackInfo&) { return make_u32(env, member_->section()); }
napi_value Peer::incarnation(napi_env env, const Napi::CallbackInfo&) { return make_u32(env, member_->incarnation()); }

napi_value Peer::set_doorbell(napi_env env, const Napi::CallbackInfo& info) {
  const uint32_t peer_id = to_u32(env, info[0], "the peer id");
  const uint32_t vector = static_cast<uint32_t>(to_integer(env, info[1], "the vector", 0, kMaxVector));
  const int fd = static_cast<int>(to_integer(env, info[2], "the descriptor", 0, INT32_MAX));
  if (!member_->closed()) member_->set_doorbell(peer_id, vector, fd);
  return undefined(env);
}

napi_value Peer::clear_doorbell(napi_env env, const Napi::CallbackInfo& info) {
  member_->clear_doorbell(to_u32(env, info[0], "the peer id"));
  return undefined(env);
}

napi_value Peer::set_mode(napi_env env, const Napi::CallbackInfo& info) {
  member_->set_mode(to_mode(env, info[0]));
  return undefined(env);
}

napi_value Peer::set_polling(napi_env env, const Napi::CallbackInfo& info) {
  member_->set_polling(to_bool(env, info[0], "polling"));
  return undefined(env);
}

napi_value Peer::carry_bells(napi_env env, const Napi::CallbackInfo& info) {
  member_->set_carried(to_u32(env, info[0], "the section"), to_bool(env, info[1], "carried"));
  return undefined(env);
}

napi_value Peer::knock(napi_env env, const Napi::CallbackInfo&) {
  member_->knock();
  return undefined(env);
}

napi_value Peer::remotes(napi_env env, const Napi::CallbackInfo&) {
  const std::vector<RemoteInfo> remotes = member_->remotes();
  napi_value result = nullptr;
  check(napi_create_array_with_length(env, remotes.size(), &result));
  for (size_t i = 0; i < remotes.size(); ++i) {
    check(napi_set_element(env, result, static_cast<uint32_t>(i), remote_object(env, remotes[i])));
  }
  return result;
}

napi_value Peer::send_control(napi_env env, const Napi::CallbackInfo& info) {
  const uint32_t section = to_u32(env, info[0], "the section");
  const Bytes message = to_bytes(env, info[1], "the message");
  if (message.length == 0 || message.length > kMaxControl) {
    throw_range("a control message has 1 to " + std::to_string(kMaxControl) + " bytes");
  }
  return make_bool(env, member_->send_control(section, message.data, static_cast<uint32_t>(message.length)));
}

napi_value Peer::create_end(napi_env env, const Napi::CallbackInfo& info) {
  const uint32_t section = to_u32(env, info[0], "the section");
  const uint32_t capacity = static_cast<uint32_t>(to_integer(env, info[1], "the capacity", kMinCapacity, kMaxCapacity));
  if (!is_power_of_two(capacity)) throw_range("the capacity must be a power of two");
  const uint32_t send_from = to_u32(env, info[2], "the first sequence number to send");
  const uint32_t receive_from = to_u32(env, info[3], "the first sequence number to receive");
  const EndEntry& end = member_->create_end(section, capacity, send_from, receive_from);
  const RingOffer& offer = end.core.offer();
  return ObjectBuilder(env)
      .number("id", end.id)
      .set("offer", ObjectBuilder(env)
                        .number("ringOffset", static_cast<double>(offer.ring_offset))
                        .number("capacity", offer.capacity)
                        .number("tag", offer.tag)
                        .number("readerOffset", static_cast<double>(offer.reader_offset))
                        .number("bell", offer.bell)
                        .object())
      .object();
}

napi_value Peer::attach_end(napi_env env, const Napi::CallbackInfo& info) {
  EndEntry* end = own_end(to_u32(env, info[0], "the end"));
  if (end == nullptr) throw_code("ERR_VMRING_CLOSED", "this end does not exist any more");
  const napi_value from = info[1];
  RingOffer offer;
  offer.ring_offset = static_cast<uint64_t>(
      to_integer(env, property(env, from, "ringOffset"), "ringOffset", 0, kMaxOffset));
  offer.capacity = to_u32(env, property(env, from, "capacity"), "capacity");
  offer.tag = to_u32(env, property(env, from, "tag"), "tag");
  offer.reader_offset = static_cast<uint64_t>(
      to_integer(env, property(env, from, "readerOffset"), "readerOffset", 0, kMaxOffset));
  offer.bell = to_u32(env, property(env, from, "bell"), "bell");
  member_->attach_end(*end, offer);
  return undefined(env);
}

napi_value Peer::alloc_large(napi_env env, const Napi::CallbackInfo& info) {
  EndEntry* end = own_end(to_u32(env, info[0], "the end"));
  const int64_t length = to_integer(env, info[1], "the length", 0, kMaxOffset);
  if (end == nullptr || end->lost() || length == 0) return make_int(env, -1);
  const uint64_t offset = member_->alloc_large(*end, static_cast<uint64_t>(length));
  return make_number(env, offset == 0 ? -1 : static_cast<double>(end->own_base + offset));
}

napi_value Peer::commit_large(napi_env env, const Napi::CallbackInfo& info) {
  EndEntry* end = own_end(to_u32(env, info[0], "the end"));
  const int64_t offset = to_integer(env, info[1], "the offset", 0, kMaxOffset);
  const int64_t length = to_integer(env, info[2], "the length", 0, kMaxOffset);
  if (end == nullptr) return make_int(env, status::closed);
  return make_int(env, member_->commit_large(*end, static_cast<uint64_t>(offset) - end->own_base,
                                             static_cast<uint64_t>(length)));
}

napi_value Peer::free_large(napi_env env, const Napi::CallbackInfo& info) {
  EndEntry* end = own_end(to_u32(env, info[0], "the end"));
  const int64_t offset = to_integer(env, info[1], "the offset", 0, kMaxOffset);
  if (end != nullptr) member_->free_large(*end, static_cast<uint64_t>(offset) - end->own_base);
  return undefined(env);
}

napi_value Peer::counters(napi_env env, const Napi::CallbackInfo&) {
  const Member::Counters& counters = member_->counters();
  return ObjectBuilder(env)
      .number("doorbells", static_cast<double>(counters.doorbells))
      .number("suppressed", static_cast<double>(member_->suppressed()))
      .number("sleeps", static_cast<double>(counters.sleeps))
      .number("wakeups", static_cast<double>(counters.wakeups))
      .number("muted", static_cast<double>(counters.muted))
      .number("rescued", static_cast<double>(member_->rescued()))
      .number("sectionBytes", static_cast<double>(member_->memory().size()))
      .number("freeBytes", static_cast<double>(member_->memory().free_bytes()))
      .number("largestFree", static_cast<double>(member_->memory().largest()))
      .object();
}

napi_value Peer::ref(napi_env env, const Napi::CallbackInfo&) {
  if (!member_->closed()) {
    member_->set_ref(true);
    keep(true);
  }
  return undefined(env);
}

napi_value Peer::unref(napi_env env, const Napi::CallbackInfo&) {
  member_->set_ref(false);
  keep(false);
  return undefined(env);
}

napi_value Peer::detach(napi_env env, const Napi::CallbackInfo&) {
  member_->detach();
  return undefined(env);
}

napi_value Peer::close(napi_env env, const Napi::CallbackInfo&) {
  shut();
  keep(false);
  return undefined(env);
}

template <class Make>
void Peer::tell(size_t which, Make arguments) noexcept {
  if (module_->ended) return;
  const napi_env env = Env();
  const HandleScope scope(env);
  try {
    const Napi::Object self = Value(); // alive until the callback has returned
    napi_value function = nullptr, values[3] = {};
    if (self.IsEmpty() || napi_get_reference_value(env, callbacks_[which], &function) != napi_ok) return;
    if (function == nullptr) return;
    const size_t count = arguments(env, values);
    module_->call(function, count, values);
  } catch (...) {
    // The environment is ending, or there is no memory for an argument; there is nobody to tell.
  }
}

void Peer::on_ready(uint32_t count) {
  tell(0, [&](napi_env env, napi_value* values) {
    values[0] = make_u32(env, count);
    return size_t{1};
  });
}

void Peer::on_control(uint32_t section, uint32_t incarnation, const uint8_t* bytes, uint32_t length) {
  tell(1, [&](napi_env env, napi_value* values) {
    values[0] = make_u32(env, section);
    values[1] = make_u32(env, incarnation);
    values[2] = make_bytes(env, bytes, length);
    return size_t{3};
  });
}

void Peer::on_peer(PeerEvent event, const RemoteInfo& peer) {
  tell(2, [&](napi_env env, napi_value* values) {
    values[0] = make_u32(env, static_cast<uint32_t>(event));
    values[1] = remote_object(env, peer);
    return size_t{2};
  });
}

} // namespace vmring::addon
