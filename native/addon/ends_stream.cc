// Ends as streams of bytes, for sockets: as many records as there are, in one call.
#include "addon/ends.hpp"
#include "addon/module.hpp"

namespace vmring::addon {
namespace {

constexpr uint32_t kRecordsPerCall = 4096;
constexpr size_t kMostPerUnit = 3; // UTF-8 bytes of a UTF-16 unit

struct Range {
  size_t from, to;
};

Range to_range(napi_env env, napi_value from, napi_value to, size_t length) {
  const double first = to_double(env, from, "the beginning");
  const double last = to_double(env, to, "the end");
  if (!(first >= 0 && first <= last && last <= static_cast<double>(length))) throw_range("outside of the bytes");
  return {static_cast<size_t>(first), static_cast<size_t>(last)};
}

uint32_t most_per_record(EndEntry& end, napi_env env, napi_value limit) {
  const uint32_t most = to_u32(env, limit, "the longest message");
  const uint32_t inline_most = inline_limit(end.core.tx().capacity());
  return most < inline_most ? most : inline_most;
}

} // namespace

// (id, target, at, end): copies records to `target` from `at` and gives them back; returns where it stopped. scratch[5]: 0, or
// the kind of the record that came next and is none of this, or a status; it is lent as by endReceive. scratch[6]: the records.
napi_value end_read_bytes(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<4> arguments(env, info);
    Module& module = module_behind(arguments.data);
    EndEntry* end = find_end(module, env, arguments[0]);
    const Bytes target = to_bytes(env, arguments[1], "the target");
    auto [at, stop] = to_range(env, arguments[2], arguments[3], target.length);
    double* scratch = module.scratch.get();
    int32_t kind = end == nullptr ? status::closed : status::none;
    uint32_t records = 0;
    while (end != nullptr && at < stop && records < kRecordsPerCall) {
      kind = receive_record(module, *end);
      if (kind != static_cast<int32_t>(Kind::data) || scratch[1] > static_cast<double>(stop - at)) break;
      const size_t length = static_cast<size_t>(scratch[1]);
      uint8_t* to = const_cast<uint8_t*>(target.data) + at;
      A::read_bytes(to, end->mapping->data() + static_cast<size_t>(scratch[0]), length);
      at += length;
      ++records;
      kind = status::none;
      end->core.release(static_cast<uint32_t>(scratch[2]));
      if (end->owner != nullptr) end->owner->released(*end);
    }
    scratch[5] = kind;
    scratch[6] = records;
    return make_number(env, static_cast<double>(at));
  });
}

// (id, bytes, at, longest): sends bytes from `at` on in records of that length at most, as far as there is room; returns where
// it stopped, or a status.
napi_value end_write_bytes(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<4> arguments(env, info);
    EndEntry* end = find_end(module_behind(arguments.data), env, arguments[0]);
    const Bytes bytes = to_bytes(env, arguments[1], "the bytes");
    const double from = to_double(env, arguments[2], "the beginning");
    if (!(from >= 0 && from <= static_cast<double>(bytes.length))) throw_range("outside of the bytes");
    if (const int32_t obstacle = send_obstacle(end)) return make_int(env, obstacle);
    const uint32_t most = most_per_record(*end, env, arguments[3]);
    size_t at = static_cast<size_t>(from);
    while (at < bytes.length) {
      const uint32_t length = bytes.length - at < most ? static_cast<uint32_t>(bytes.length - at) : most;
      const Send result = end->core.tx().send(bytes.data + at, length, Kind::data, false);
      if (result == Send::full) break;
      if (result != Send::ok) return make_int(env, status_of(result));
      at += length;
      end->sent_bytes += length;
      end->owner->published(*end);
    }
    return make_number(env, static_cast<double>(at));
  });
}

// (id, string, utf8, longest): sends a string as one record, written where it is read; returns its length in bytes, or a status:
// TOO_LARGE when it may be longer than that.
napi_value end_write_text(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<4> arguments(env, info);
    EndEntry* end = find_end(module_behind(arguments.data), env, arguments[0]);
    const bool utf8 = to_bool(env, arguments[2], "utf8");
    if (const int32_t obstacle = send_obstacle(end)) return make_int(env, obstacle);
    size_t units = 0;
    if (napi_get_value_string_latin1(env, arguments[1], nullptr, 0, &units) != napi_ok) throw_type("the text must be a string");
    const size_t room = (utf8 ? units * kMostPerUnit : units) + 1; // Node-API puts a zero behind
    if (units == 0 || room > most_per_record(*end, env, arguments[3])) return make_int(env, status::too_large);
    uint8_t* payload = nullptr;
    Producer<A>& outbox = end->core.tx();
    const Send result = outbox.reserve(static_cast<uint32_t>(room), payload);
    if (result != Send::ok) return make_int(env, status_of(result));
    size_t length = 0;
    const napi_status written =
        utf8 ? napi_get_value_string_utf8(env, arguments[1], reinterpret_cast<char*>(payload), room, &length)
             : napi_get_value_string_latin1(env, arguments[1], reinterpret_cast<char*>(payload), room, &length);
    if (written != napi_ok) {
      outbox.abort();
      check(written);
    }
    outbox.commit(static_cast<uint32_t>(length), Kind::data, false);
    end->sent_bytes += length;
    end->owner->published(*end);
    return make_number(env, static_cast<double>(length));
  });
}

} // namespace vmring::addon
