// Functions on ends that are not on the path of a message.
#include "addon/ends.hpp"
#include "addon/member.hpp"
#include "addon/module.hpp"

namespace vmring::addon {
namespace {

// One record of the own outbox as JavaScript gets it: copied. It stands in shared memory, so it is trusted as little as
// anything else there.
napi_value pending_record(napi_env env, const EndEntry& end, const Record& record, const SectionView& own) {
  const uint8_t* bytes = record.payload;
  uint64_t length = record.length;
  uint64_t total = 0;
  if (record.kind == Kind::large) {
    LargeDescriptor descriptor = {};
    if (record.length == sizeof descriptor) A::read_bytes(&descriptor, record.payload, sizeof descriptor);
    const bool inside = descriptor.offset >= own.heap_begin() && descriptor.offset <= own.size() &&
                        descriptor.length <= own.size() - descriptor.offset;
    if (!inside) throw_code("ERR_VMRING_PROTOCOL", "somebody else wrote into this peer's outbox");
    bytes = end.mapping->data() + end.own_base + descriptor.offset;
    length = descriptor.length;
  } else if (record.extended && length >= sizeof total) {
    A::read_bytes(&total, bytes, sizeof total);
    if (total > uint64_t{1} << 53) throw_code("ERR_VMRING_PROTOCOL", "somebody else wrote into this peer's outbox");
    bytes += sizeof total;
    length -= sizeof total;
  }
  return ObjectBuilder(env)
      .number("kind", static_cast<uint32_t>(record.kind))
      .number("total", static_cast<double>(total))
      .set("bytes", make_bytes(env, bytes, length))
      .object();
}

} // namespace

napi_value end_pending(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<2> arguments(env, info);
    EndEntry& end = need_end(module_behind(arguments.data), env, arguments[0]);
    const uint32_t from = to_u32(env, arguments[1], "the sequence number");
    if (end.lost()) throw_code("ERR_VMRING_REGION_LOST", "the memory of the region is gone, and with it the outbox");
    napi_value result = nullptr;
    check(napi_create_array(env, &result));
    uint32_t count = 0;
    const bool whole = end.core.tx().pending([&](const Record& record) {
      if (static_cast<int32_t>(record.sequence - from) < 0) return; // delivered already
      check(napi_set_element(env, result, count++, pending_record(env, end, record, end.core.own())));
    });
    if (!whole) throw_code("ERR_VMRING_PROTOCOL", "somebody else wrote into this peer's outbox");
    return result;
  });
}

napi_value end_rewind(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<1> arguments(env, info);
    EndEntry& end = need_end(module_behind(arguments.data), env, arguments[0]);
    if (!end.is_private) throw_code("ERR_VMRING_NOT_SUPPORTED", "only an end in private memory can be read again");
    end.core.rx().rewind();
    if (end.owner != nullptr) end.owner->activate(end);
    return undefined(env);
  });
}

napi_value end_counters(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<1> arguments(env, info);
    EndEntry& end = need_end(module_behind(arguments.data), env, arguments[0]);
    return ObjectBuilder(env)
        .number("sent", end.core.tx().sequence())
        .number("remoteNext", end.core.tx().remote_next())
        .number("remoteReleased", end.core.tx().remote_released())
        .number("next", end.core.rx().next())
        .number("released", end.core.rx().released())
        .set("readable", make_bool(env, !end.stopped && end.core.rx().readable()))
        .number("sentBytes", static_cast<double>(end.sent_bytes))
        .number("receivedBytes", static_cast<double>(end.received_bytes))
        .number("leasedBytes", end.core.rx().lent_bytes())
        .number("doorbells", static_cast<double>(end.doorbells))
        .number("suppressed", static_cast<double>(end.suppressed))
        .object();
  });
}

napi_value end_fault(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<1> arguments(env, info);
    EndEntry& end = need_end(module_behind(arguments.data), env, arguments[0]);
    const char* words = end.lost() ? "the memory of the region is gone" : end.fault();
    return make_string(env, words != nullptr ? words : "nothing is wrong");
  });
}

napi_value end_idle(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<1> arguments(env, info);
    EndEntry& end = need_end(module_behind(arguments.data), env, arguments[0]);
    return make_bool(env, end.core.rx().lent_records() == 0 && end.core.large_in().empty());
  });
}

napi_value end_destroy(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<1> arguments(env, info);
    Module& module = module_behind(arguments.data);
    EndEntry* end = module.ends.find(to_u32(env, arguments[0], "the end"));
    if (end == nullptr) return undefined(env);
    if (end->is_private) {
      module.pairs.end_destroyed(*end);
    } else if (end->owner != nullptr) {
      static_cast<Member*>(end->owner)->free_end(*end);
    }
    module.ends.remove(end->id);
    return undefined(env);
  });
}

} // namespace vmring::addon
