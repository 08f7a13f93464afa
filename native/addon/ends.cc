#include "addon/ends.hpp"

#include "addon/member.hpp"
#include "addon/module.hpp"

namespace vmring::addon {
namespace {

constexpr uint32_t kTotalSize = 8; // a fragmented message begins with its total length
constexpr double kLongestWait = 2'147'483'647;

// Kind and total of a record that is to be published, checked as end_send and end_commit take them.
Kind kind_argument(napi_env env, napi_value number, napi_value total_value, double& total) {
  const Kind kind = static_cast<Kind>(to_u32(env, number, "the kind"));
  total = to_double(env, total_value, "the total length");
  if (kind != Kind::data && kind != Kind::frag && kind != Kind::frag_last && kind != Kind::fin) {
    throw_range("the kind is DATA, FRAG, FRAG_LAST or FIN");
  }
  if (!(total >= 0 && total <= 9007199254740992.0)) throw_range("the total length must be at least 0");
  if (total > 0 && kind != Kind::frag && kind != Kind::frag_last) throw_range("only a fragment has a total length");
  return kind;
}

napi_value end_send(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<4> arguments(env, info);
    EndEntry* end = find_end(module_behind(arguments.data), env, arguments[0]);
    const Bytes bytes = to_bytes(env, arguments[1], "the message");
    double total = 0;
    const Kind kind = kind_argument(env, arguments[2], arguments[3], total);
    const bool first = total > 0;
    if (const int32_t obstacle = send_obstacle(end)) return make_int(env, obstacle);
    Producer<A>& outbox = end->core.tx();
    if (bytes.length > inline_limit(outbox.capacity())) return make_int(env, status::too_large);
    const uint32_t length = static_cast<uint32_t>(bytes.length);
    if (!first) {
      const Send result = outbox.send(bytes.data, length, kind, false);
      if (result != Send::ok) return make_int(env, status_of(result));
    } else {
      uint8_t* payload = nullptr;
      const Send result = outbox.reserve(length + kTotalSize, payload);
      if (result != Send::ok) return make_int(env, status_of(result));
      const uint64_t whole = static_cast<uint64_t>(total);
      A::write_bytes(payload, &whole, sizeof whole);
      if (length != 0) A::write_bytes(payload + kTotalSize, bytes.data, length);
      outbox.commit(length + kTotalSize, kind, true);
    }
    if (kind == Kind::fin) end->fin_sent = true;
    end->sent_bytes += length;
    end->owner->published(*end);
    return make_int(env, status::ok);
  });
}

napi_value end_reserve(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<2> arguments(env, info);
    EndEntry* end = find_end(module_behind(arguments.data), env, arguments[0]);
    const double wanted = to_double(env, arguments[1], "the length");
    if (!(wanted >= 0 && wanted == static_cast<double>(static_cast<uint64_t>(wanted)))) {
      throw_range("the length must be an integer of at least 0");
    }
    if (const int32_t obstacle = send_obstacle(end)) return make_int(env, obstacle);
    Producer<A>& outbox = end->core.tx();
    if (wanted > inline_limit(outbox.capacity())) return make_int(env, status::too_large);
    const uint32_t length = static_cast<uint32_t>(wanted);
    uint8_t* payload = nullptr;
    const Send result = outbox.reserve(length, payload);
    if (result != Send::ok) return make_int(env, status_of(result));
    end->reserved = length;
    end->reserved_at = static_cast<uint64_t>(payload - end->mapping->data());
    return make_number(env, static_cast<double>(end->reserved_at));
  });
}

napi_value end_commit(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<4> arguments(env, info);
    EndEntry* end = find_end(module_behind(arguments.data), env, arguments[0]);
    const double given = to_double(env, arguments[1], "the length");
    double total = 0;
    Kind kind = Kind::data;
    if (type_of(env, arguments[2]) != napi_undefined) kind = kind_argument(env, arguments[2], arguments[3], total);
    if (const int32_t obstacle = send_obstacle(end)) return make_int(env, obstacle);
    Producer<A>& outbox = end->core.tx();
    if (!outbox.leased()) return make_int(env, status::lease);
    if (!(given >= 0 && given <= end->reserved)) throw_range("the length is larger than what was reserved");
    const uint32_t length = static_cast<uint32_t>(given);
    const bool first = total > 0;
    if (first && length < kTotalSize) throw_range("the total length stands in the first 8 bytes");
    if (first) {
      const uint64_t whole = static_cast<uint64_t>(total);
      A::write_bytes(end->mapping->data() + end->reserved_at, &whole, sizeof whole);
    }
    const Send result = outbox.commit(length, kind, first);
    if (result != Send::ok) return make_int(env, status_of(result));
    if (kind == Kind::fin) end->fin_sent = true;
    end->sent_bytes += first ? length - kTotalSize : length;
    end->owner->published(*end);
    return make_int(env, status::ok);
  });
}

napi_value end_abort(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<1> arguments(env, info);
    EndEntry* end = find_end(module_behind(arguments.data), env, arguments[0]);
    if (end == nullptr) return make_int(env, status::closed);
    return make_int(env, status_of(end->core.tx().abort()));
  });
}

// As receive_record(), waiting up to `timeout` ms.
int32_t receive_wait(Module& module, EndEntry& end, double timeout) {
  const int32_t result = receive_record(module, end);
  // Private ends: whoever fills them is on this thread, so waiting would be in vain.
  if (result != status::none || !(timeout > 0) || end.is_private || end.stopped) return result;
  const double milliseconds = timeout < kLongestWait ? timeout : kLongestWait;
  static_cast<Member*>(end.owner)->wait(end, static_cast<uint64_t>(milliseconds * 1e6));
  return receive_record(module, end);
}

napi_value end_receive(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<1> arguments(env, info);
    Module& module = module_behind(arguments.data);
    EndEntry* end = find_end(module, env, arguments[0]);
    return make_int(env, end == nullptr ? status::closed : receive_record(module, *end));
  });
}

napi_value end_receive_wait(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<2> arguments(env, info);
    Module& module = module_behind(arguments.data);
    EndEntry* end = find_end(module, env, arguments[0]);
    const double timeout = to_double(env, arguments[1], "the timeout");
    if (!(timeout >= 0)) throw_range("the timeout must be at least 0 ms");
    return make_int(env, end == nullptr ? status::closed : receive_wait(module, *end, timeout));
  });
}

// ---- once per message. Each argument and each result of a Node-API call costs as much as the empty call; so these have none: what they
// need stands in words that JavaScript has written, and what comes of it too.

enum Hot : uint32_t { kHotEnd, kHotLength, kHotResult };
enum Scratch : uint32_t { kScratchTimeout = 4 };

template <class Body>
napi_value hot(napi_env env, Body body) {
  Module* module = Module::current();
  if (module == nullptr) return nullptr; // JavaScript has set the result for that
  return guarded(env, [&]() -> napi_value {
    int32_t* words = module->hot.get();
    EndEntry* end = module->ends.find(static_cast<uint32_t>(words[kHotEnd]));
    words[kHotResult] = end == nullptr ? status::closed : body(*module, *end);
    return nullptr;
  });
}

int32_t send_staged(Module& module, EndEntry& end) {
  if (const int32_t obstacle = send_obstacle(&end)) return obstacle;
  const uint32_t length = static_cast<uint32_t>(module.hot.get()[kHotLength]);
  Producer<A>& outbox = end.core.tx();
  if (length > kStaging || length > inline_limit(outbox.capacity())) return status::too_large;
  const Send result = outbox.send(module.staging.get(), length, Kind::data, false);
  if (result != Send::ok) return status_of(result);
  end.sent_bytes += length;
  end.owner->published(end);
  return status::ok;
}

napi_value hot_send(napi_env env, napi_callback_info) { return hot(env, send_staged); }

napi_value hot_receive(napi_env env, napi_callback_info) {
  return hot(env, [](Module& module, EndEntry& end) {
    module.take_many_releases();
    return receive_record(module, end);
  });
}

napi_value hot_receive_wait(napi_env env, napi_callback_info) {
  return hot(env, [](Module& module, EndEntry& end) {
    module.take_many_releases();
    return receive_wait(module, end, module.scratch.get()[kScratchTimeout]);
  });
}

napi_value end_release(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<2> arguments(env, info);
    EndEntry* end = find_end(module_behind(arguments.data), env, arguments[0]);
    const uint32_t sequence = to_u32(env, arguments[1], "the sequence number");
    if (end == nullptr) return make_int(env, 0);
    if (!end->core.release(sequence)) return make_int(env, 0);
    if (end->owner != nullptr) end->owner->released(*end);
    return make_int(env, 1);
  });
}

napi_value end_want_space(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<2> arguments(env, info);
    EndEntry* end = find_end(module_behind(arguments.data), env, arguments[0]);
    const uint32_t length = to_u32(env, arguments[1], "the length");
    if (end == nullptr || end->owner == nullptr) return make_bool(env, false);
    if (length > max_payload(end->core.tx().capacity())) throw_range("no message of that length can ever fit the ring");
    if (end->core.tx().want_space(length)) {
      end->want_space = kNoLength;
      return make_bool(env, true);
    }
    end->want_space = length;
    end->owner->activate(*end);
    return make_bool(env, false);
  });
}

napi_value end_stop_reading(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<1> arguments(env, info);
    EndEntry& end = need_end(module_behind(arguments.data), env, arguments[0]);
    end.stopped = true;
    if (end.owner != nullptr) end.owner->publish_released(end);
    return make_u32(env, end.core.rx().next());
  });
}

napi_value end_want_readable(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<2> arguments(env, info);
    EndEntry* end = find_end(module_behind(arguments.data), env, arguments[0]);
    const bool wanted = to_bool(env, arguments[1], "wanted");
    if (end != nullptr) {
      end->want_readable = wanted;
      if (wanted && end->owner != nullptr) end->owner->activate(*end);
    }
    return undefined(env);
  });
}

} // namespace

Module& module_behind(void* data) { return *static_cast<Module*>(data); }

EndEntry* find_end(Module& module, napi_env env, napi_value id) {
  module.take_releases();
  uint32_t value = 0;
  if (napi_get_value_uint32(env, id, &value) != napi_ok) throw_type("the end must be a number");
  return module.ends.find(value);
}

int32_t status_of(Send result) {
  switch (result) {
    case Send::ok: return status::ok;
    case Send::full: return status::would_block;
    case Send::too_large: return status::too_large;
    case Send::lease: return status::lease;
    case Send::fault: break;
  }
  return status::fault;
}

int32_t send_obstacle(EndEntry* end) {
  if (end == nullptr || end->owner == nullptr || end->fin_sent) return status::closed;
  if (end->lost()) return status::lost;
  if (end->fault() != nullptr) return status::fault;
  return 0;
}

int32_t receive_record(Module& module, EndEntry& end) {
  if (end.lost()) return status::lost;
  if (end.owner == nullptr) return status::closed;
  if (end.stopped) return status::none;
  if (end.broken != nullptr) return status::fault;
  Record record;
  switch (end.core.rx().poll(record)) {
    case Poll::none:
      // Nothing left: the sender may be waiting for what was given back.
      module.take_releases();
      end.owner->publish_released(end);
      return end.lost() ? status::lost : status::none;
    case Poll::fault: return end.lost() ? status::lost : status::fault;
    case Poll::record: break;
  }
  end.parked = false;
  end.owner->taken();
  const uint8_t* base = end.mapping->data();
  uint64_t offset = static_cast<uint64_t>(record.payload - base);
  uint64_t length = record.length;
  uint64_t total = 0;
  if (record.kind == Kind::large) {
    LargeDescriptor descriptor;
    if (!end.core.large_in().accept(record, descriptor)) {
      end.broken = "a large message that does not lie in the sender's section";
      return status::fault;
    }
    offset = static_cast<uint64_t>(end.core.remote().base() - base) + descriptor.offset;
    length = descriptor.length;
  } else if (record.extended) {
    if ((record.kind != Kind::frag && record.kind != Kind::frag_last) || length < kTotalSize) {
      end.broken = "a first fragment without a total length";
      return status::fault;
    }
    A::read_bytes(&total, record.payload, sizeof total);
    if (total == 0 || total > uint64_t{1} << 53) {
      end.broken = "a fragmented message of impossible length";
      return status::fault;
    }
    offset += kTotalSize;
    length -= kTotalSize;
  }
  end.received_bytes += length;
  double* scratch = module.scratch.get();
  scratch[0] = static_cast<double>(offset);
  scratch[1] = static_cast<double>(length);
  scratch[2] = record.sequence;
  scratch[3] = static_cast<double>(total);
  return static_cast<int32_t>(record.kind);
}

EndEntry& need_end(Module& module, napi_env env, napi_value id) {
  EndEntry* end = find_end(module, env, id);
  if (end == nullptr) throw_code("ERR_VMRING_CLOSED", "this end does not exist any more");
  return *end;
}

void init_ends(napi_env env, napi_value exports) {
  Module& module = module_of(env);
  const Function functions[] = {
      {"endSend", end_send},
      {"endReserve", end_reserve},
      {"endCommit", end_commit},
      {"endAbort", end_abort},
      {"endReadBytes", end_read_bytes},
      {"endWriteBytes", end_write_bytes},
      {"endWriteText", end_write_text},
      {"endReceive", end_receive},
      {"endReceiveWait", end_receive_wait},
      {"endRelease", end_release},
      {"endWantSpace", end_want_space},
      {"endStopReading", end_stop_reading},
      {"endWantReadable", end_want_readable},
      {"endPending", end_pending},
      {"endRewind", end_rewind},
      {"endCounters", end_counters},
      {"endFault", end_fault},
      {"endIdle", end_idle},
      {"endDestroy", end_destroy},
      {"hotSend", hot_send},
      {"hotReceive", hot_receive},
      {"hotReceiveWait", hot_receive_wait},
  };
  export_functions(env, exports, functions, &module);
  check(napi_set_named_property(env, exports, "scratch", module.scratch.array(env, napi_float64_array)));
  check(napi_set_named_property(env, exports, "hot", module.hot.array(env, napi_int32_array)));
  check(napi_set_named_property(env, exports, "staging", module.staging.array(env, napi_uint8_array)));
  check(napi_set_named_property(env, exports, "releases", module.releases.array(env, napi_uint32_array)));
}

} // namespace vmring::addon
