#include "addon/pairs.hpp"

#include "addon/module.hpp"

namespace vmring::addon {
namespace {

// Two sections without a table of others: identity and directory lines stand empty, then the heap with ring and reader.
Geometry pair_geometry(uint32_t capacity) {
  Geometry g;
  g.sections = 0;
  g.section_offset = 0;
  g.section_size = align_up(heap_offset(0) + ring_bytes(capacity) + sizeof(ReaderBlock), kPage);
  g.size = 2 * g.section_size;
  return g;
}

napi_value create_pair(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<3> arguments(env, info);
    const uint32_t capacity =
        static_cast<uint32_t>(to_integer(env, arguments[0], "the capacity", kMinCapacity, kMaxCapacity));
    if (!is_power_of_two(capacity)) throw_range("the capacity must be a power of two");
    const uint32_t send_from = to_u32(env, arguments[1], "the first sequence number to send");
    const uint32_t receive_from = to_u32(env, arguments[2], "the first sequence number to receive");
    Module& module = *static_cast<Module*>(arguments.data);
    const Pairs::Made made = module.pairs.create(capacity, send_from, receive_from);
    const auto& mapping = made.near->mapping;
    return ObjectBuilder(env)
        .number("near", made.near->id)
        .number("far", made.far->id)
        .set("buffer", external_buffer(env, mapping->data(), mapping->size(), mapping))
        .object();
  });
}

napi_value on_pair_ready(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<1> arguments(env, info);
    static_cast<Module*>(arguments.data)->pairs.set_callback(env, to_function(env, arguments[0], "the callback"));
    return undefined(env);
  });
}

} // namespace

Pairs::Pairs(Module& module) : EndOwner(module.ends), module_(module) {}

void Pairs::init(napi_env env, napi_value exports) {
  Module& module = module_of(env);
  const Function functions[] = {{"createPair", create_pair}, {"onPairReady", on_pair_ready}};
  export_functions(env, exports, functions, &module);
  check(napi_set_named_property(env, exports, "pairReady", module.pair_ready.array(env, napi_uint32_array)));
}

void Pairs::set_callback(napi_env env, napi_value function) {
  napi_ref next = nullptr;
  check(napi_create_reference(env, function, 1, &next));
  if (callback_ != nullptr) napi_delete_reference(env, callback_);
  callback_ = next;
}

Pairs::Made Pairs::create(uint32_t capacity, uint32_t send_from, uint32_t receive_from) {
  const Geometry g = pair_geometry(capacity);
  const auto mapping = Mapping::anonymous(g.size);
  const SectionView views[2] = {SectionView(mapping->data(), g, 0), SectionView(mapping->data(), g, 1)};
  EndEntry* made[2] = {nullptr, nullptr};
  for (int i = 0; i < 2; ++i) {
    SectionAllocator memory(g.heap_begin(), g.section_size);
    const auto offer = vmring::End<A>::allocate(views[i], memory, capacity, static_cast<uint32_t>(i + 1), 0);
    if (!offer) throw_range("the capacity must be a power of two from 4096 to 2^30");
    auto entry = std::make_unique<EndEntry>(mapping, views[i], *offer, i == 0 ? send_from : receive_from,
                                            i == 0 ? receive_from : send_from);
    entry->is_private = true;
    entry->owner = this;
    made[i] = table_.add(std::move(entry));
    if (made[i] == nullptr) {
      if (i == 1) table_.remove(made[0]->id);
      throw_range("this process has too many channel ends");
    }
  }
  for (int i = 0; i < 2; ++i) {
    made[i]->partner = made[1 - i];
    made[i]->core.attach(views[1 - i], made[1 - i]->core.offer());
    module_.loop.hold();
  }
  return {made[0], made[1]};
}

void Pairs::end_destroyed(EndEntry& end) {
  if (end.partner != nullptr) end.partner->partner = nullptr;
  module_.loop.release();
}

void Pairs::ring(EndEntry& end) {
  if (end.partner != nullptr) activate(*end.partner);
}

void Pairs::activated() {
  if (fresh_) return;
  fresh_ = true;
  module_.loop.kick();
}

void Pairs::process() {
  if (processing_ || active_.empty()) return;
  fresh_ = false;
  const uint32_t count = collect(module_.pair_ready.get(), kReadyPairs);
  if (count == 0 || callback_ == nullptr || module_.ended) return;
  const napi_env env = module_.env;
  const HandleScope scope(env);
  napi_value function = nullptr, argument = nullptr;
  if (napi_get_reference_value(env, callback_, &function) != napi_ok || function == nullptr) return;
  if (napi_create_uint32(env, count, &argument) != napi_ok) return;
  processing_ = true;
  module_.call(function, 1, &argument);
  processing_ = false;
}

} // namespace vmring::addon
