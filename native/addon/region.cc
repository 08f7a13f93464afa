#include "addon/region.hpp"

#include <sys/random.h>
#include <unistd.h>

#include <cerrno>

#include "addon/module.hpp"

namespace vmring::addon {
namespace {

using A = StdAtomics;

[[noreturn]] void throw_header(Header header, const Mapping& mapping) {
  switch (header) {
    case Header::blank:
    case Header::magic:
      throw_code("ERR_VMRING_REGION_MAGIC", header == Header::blank
                                                ? "the memory is blank: nobody has formatted it as a vmring region yet"
                                                : "the memory does not hold a vmring region");
    case Header::version:
      throw_code("ERR_VMRING_REGION_VERSION", "the region was formatted by a version of vmring with another layout");
    case Header::feature:
      throw_code("ERR_VMRING_REGION_FEATURE", "the region uses a feature that this version of vmring does not know");
    case Header::geometry:
      throw_code("ERR_VMRING_REGION_GEOMETRY", "the header of the region describes a layout that cannot be");
    case Header::truncated:
      throw_code("ERR_VMRING_REGION_TRUNCATED", "the region was larger when it was formatted: only " +
                                                    std::to_string(mapping.size()) + " bytes of it are left");
    case Header::size:
    default:
      throw_code("ERR_VMRING_REGION_SIZE",
                 "the size of the memory (" + std::to_string(mapping.size()) +
                     " bytes) does not fit the region: a power of two of at least 1 MiB, as the header says, "
                     "with room for every section");
  }
}

// `make` maps the memory; the object is constructed by JavaScript's rules, so that `instanceof` and lifetimes are ordinary.
template <class Make>
napi_value construct(napi_env env, Make make) {
  Module& module = module_of(env);
  napi_value constructor = nullptr, result = nullptr;
  check(napi_get_reference_value(env, module.region_class, &constructor));
  module.new_region = make();
  const napi_status status = napi_new_instance(env, constructor, 0, nullptr, &result);
  module.new_region = nullptr;
  check(status);
  return result;
}

napi_value create(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<2> arguments(env, info);
    const std::string name = to_string(env, arguments[0], "the name");
    const int64_t size = to_integer(env, arguments[1], "the size", 0, int64_t{1} << 40);
    return construct(env, [&] { return Mapping::create(name, static_cast<uint64_t>(size)); });
  });
}

napi_value from_fd(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<1> arguments(env, info);
    const int64_t fd = to_integer(env, arguments[0], "the descriptor", 0, INT32_MAX);
    return construct(env, [&] { return Mapping::from_fd(static_cast<int>(fd)); });
  });
}

napi_value open(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<2> arguments(env, info);
    const std::string path = to_string(env, arguments[0], "the path");
    int64_t size = 0;
    if (type_of(env, arguments[1]) != napi_undefined) {
      size = to_integer(env, arguments[1], "the size", 0, int64_t{1} << 40);
      if (size == 0) throw SizeError("a region is a power of two of at least 1 MiB, not 0 bytes");
    }
    return construct(env, [&] { return Mapping::open(path, static_cast<uint64_t>(size)); });
  });
}

} // namespace

void random_bytes(uint8_t* out, size_t length) {
  while (length != 0) {
    const ssize_t got = getrandom(out, length, 0);
    if (got < 0) {
      if (errno == EINTR) continue;
      throw SystemError(errno, "getrandom");
    }
    out += got;
    length -= static_cast<size_t>(got);
  }
}

uint32_t random_nonce() {
  uint32_t value = 0;
  while (value == 0) random_bytes(reinterpret_cast<uint8_t*>(&value), sizeof value);
  return value;
}

template <napi_value (Region::*Method)(napi_env, const Napi::CallbackInfo&)>
Napi::Value Region::method(const Napi::CallbackInfo& info) {
  const napi_env env = info.Env();
  return Napi::Value(env, guarded(env, [&] { return (this->*Method)(env, info); }));
}

void Region::init(napi_env env, napi_value exports) {
  Napi::Function constructor = DefineClass(
      env, "Region",
      {
          InstanceAccessor<&Region::method<&Region::buffer>>("buffer"),
          InstanceAccessor<&Region::method<&Region::size>>("size"),
          InstanceAccessor<&Region::method<&Region::fd>>("fd"),
          InstanceAccessor<&Region::method<&Region::lost>>("lost"),
          InstanceAccessor<&Region::method<&Region::blank>>("blank"),
          InstanceMethod<&Region::method<&Region::format>>("format"),
          InstanceMethod<&Region::method<&Region::format_together>>("formatTogether"),
          InstanceMethod<&Region::method<&Region::describe>>("geometry"),
          InstanceMethod<&Region::method<&Region::read_entry>>("readEntry"),
          InstanceMethod<&Region::method<&Region::write_entry>>("writeEntry"),
          InstanceMethod<&Region::method<&Region::beat>>("beat"),
          InstanceMethod<&Region::method<&Region::claim_entry>>("claimEntry"),
          InstanceMethod<&Region::method<&Region::release_entry>>("releaseEntry"),
          InstanceMethod<&Region::method<&Region::read_identity>>("readIdentity"),
          InstanceMethod<&Region::method<&Region::close>>("close"),
      });
  const Function factories[] = {{"create", create}, {"fromFd", from_fd}, {"open", open}};
  export_functions(env, constructor, factories);
  check(napi_create_reference(env, constructor, 1, &module_of(env).region_class));
  check(napi_set_named_property(env, exports, "Region", constructor));
}

Region& Region::from(napi_env env, napi_value value) {
  napi_value constructor = nullptr;
  check(napi_get_reference_value(env, module_of(env).region_class, &constructor));
  bool is = false;
  void* wrapped = nullptr;
  if (napi_instanceof(env, value, constructor, &is) != napi_ok || !is || napi_unwrap(env, value, &wrapped) != napi_ok ||
      wrapped == nullptr) {
    throw_type("a Region is needed");
  }
  return *static_cast<Region*>(wrapped);
}

napi_value Region::wrap(napi_env env, std::shared_ptr<Mapping> mapping) {
  return construct(env, [&] { return std::move(mapping); });
}

Region::Region(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<Region>(info), mapping_(std::exchange(module_of(info.Env()).new_region, nullptr)) {
  if (!mapping_) throw Napi::TypeError::New(info.Env(), "a Region is made by Region.create, fromFd or open");
}

Region::~Region() {
  if (buffer_ != nullptr) napi_delete_reference(Env(), buffer_);
}

const Geometry& Region::geometry() {
  if (mapping_->lost()) throw_code("ERR_VMRING_REGION_LOST", "the region is closed, or its memory is gone");
  if (!geometry_) {
    Geometry checked;
    const Header header = read_geometry<A>(mapping_->data(), mapping_->size(), checked);
    if (header != Header::ok) throw_header(header, *mapping_);
    geometry_ = checked;
  }
  return *geometry_;
}

uint32_t Region::section_argument(napi_env env, napi_value value) {
  return static_cast<uint32_t>(to_integer(env, value, "the section", 0, int64_t{geometry().sections} - 1));
}

EntryBlock* Region::entry(uint32_t section) {
  return reinterpret_cast<EntryBlock*>(mapping_->data() + geometry().entry_at(section));
}

napi_value Region::buffer(napi_env env, const Napi::CallbackInfo&) {
  napi_value result = nullptr;
  if (buffer_ != nullptr) {
    check(napi_get_reference_value(env, buffer_, &result));
    return result;
  }
  result = external_buffer(env, mapping_->data(), mapping_->size(), mapping_);
  check(napi_create_reference(env, result, 1, &buffer_));
  return result;
}

napi_value Region::size(napi_env env, const Napi::CallbackInfo&) {
  return make_number(env, static_cast<double>(mapping_->size()));
}
napi_value Region::fd(napi_env env, const Napi::CallbackInfo&) { return make_int(env, mapping_->fd()); }
napi_value Region::lost(napi_env env, const Napi::CallbackInfo&) { return make_bool(env, mapping_->lost()); }

// Memory that nobody has formatted, or that somebody has begun to: zeros, or what formatting writes, where the header would be.
napi_value Region::blank(napi_env env, const Napi::CallbackInfo&) {
  const uint8_t* base = mapping_->data();
  if (mapping_->lost()) return make_bool(env, false);
  const bool open = A::load_acquire<Site::read_magic>(reinterpret_cast<const uint64_t*>(base)) == 0;
  constexpr uint64_t kBehind = sizeof(HeaderBlock);
  const bool begun = open && may_format<A>(base, mapping_->size()) && is_zero<A>(base + kBehind, kHeaderLength - kBehind);
  return make_bool(env, begun && !mapping_->lost());
}

napi_value Region::format_together(napi_env env, const Napi::CallbackInfo& info) {
  const auto sections = static_cast<uint32_t>(to_integer(env, info[0], "sections", 1, kMaxSections));
  if (mapping_->lost()) throw_code("ERR_VMRING_REGION_LOST", "the region is closed, or its memory is gone");
  uint8_t uuid[16];
  random_bytes(uuid, sizeof uuid);
  const Header header = vmring::format_together<A>(mapping_->data(), mapping_->size(), sections, uuid);
  if (header != Header::ok) throw_header(header, *mapping_);
  geometry_.reset();
  return undefined(env);
}

napi_value Region::format(napi_env env, const Napi::CallbackInfo& info) {
  const napi_value options = info[0];
  const int64_t sections = to_integer(env, property(env, options, "sections"), "sections", 1, kMaxSections);
  const uint32_t daemon = to_u32(env, property(env, options, "daemonIncarnation"), "daemonIncarnation");
  if (mapping_->lost()) throw_code("ERR_VMRING_REGION_LOST", "the region is closed, or its memory is gone");
  uint8_t uuid[16];
  random_bytes(uuid, sizeof uuid);
  const Header header = format_region<A>(mapping_->data(), mapping_->size(), static_cast<uint32_t>(sections), uuid,
                                         daemon == 0, daemon);
  if (header != Header::ok) throw_header(header, *mapping_);
  geometry_.reset();
  return undefined(env);
}

napi_value Region::describe(napi_env env, const Napi::CallbackInfo&) {
  const Geometry& g = geometry();
  return ObjectBuilder(env)
      .number("major", g.major)
      .number("minor", g.minor)
      .set("uuid", make_bytes(env, g.uuid, sizeof g.uuid))
      .set("plain", make_bool(env, g.plain))
      .number("daemonIncarnation", g.daemon_incarnation)
      .number("size", static_cast<double>(g.size))
      .number("sections", g.sections)
      .number("sectionOffset", static_cast<double>(g.section_offset))
      .number("sectionSize", static_cast<double>(g.section_size))
      .object();
}

napi_value Region::read_entry(napi_env env, const Napi::CallbackInfo& info) {
  Entry out;
  if (!vmring::read_entry<A>(entry(section_argument(env, info[0])), out)) return null(env);
  return ObjectBuilder(env)
      .number("state", static_cast<uint32_t>(out.state))
      .number("peerId", out.peer_id)
      .number("vectors", out.vectors)
      .number("generation", out.generation)
      .object();
}

napi_value Region::write_entry(napi_env env, const Napi::CallbackInfo& info) {
  const uint32_t section = section_argument(env, info[0]);
  const napi_value from = info[1];
  Entry value;
  value.state = static_cast<EntryState>(to_integer(env, property(env, from, "state"), "state", 0, 2));
  value.peer_id = to_u32(env, property(env, from, "peerId"), "peerId");
  value.vectors = to_u32(env, property(env, from, "vectors"), "vectors");
  value.generation = to_u32(env, property(env, from, "generation"), "generation");
  vmring::write_entry<A>(entry(section), value);
  return undefined(env);
}

napi_value Region::beat(napi_env env, const Napi::CallbackInfo&) {
  geometry();
  auto* header = reinterpret_cast<HeaderBlock*>(mapping_->data());
  A::store_relaxed(&header->daemon_heartbeat, A::load_relaxed(&header->daemon_heartbeat) + 1);
  return undefined(env);
}

napi_value Region::claim_entry(napi_env env, const Napi::CallbackInfo& info) {
  const Geometry& g = geometry();
  if (!g.plain) throw_code("ERR_VMRING_NOT_SUPPORTED", "a daemon owns this region: it gives out the entries");
  const int64_t wanted = to_integer(env, info[0], "the section", -1, int64_t{g.sections} - 1);
  const bool take_over = to_bool(env, info[1], "takeOver");
  const uint32_t claim = random_nonce();
  const uint32_t first = wanted < 0 ? 0 : static_cast<uint32_t>(wanted);
  const uint32_t end = wanted < 0 ? g.sections : first + 1;
  for (uint32_t section = first; section < end; ++section) {
    // Taking over needs a name: "the first" must never evict anybody.
    if (!vmring::claim_entry<A>(entry(section), claim, take_over && wanted >= 0)) continue;
    Entry before;
    vmring::read_entry<A>(entry(section), before);
    vmring::write_entry<A>(entry(section), {EntryState::joined, section, 1, before.generation + 1});
    return make_int(env, static_cast<int32_t>(section));
  }
  return make_int(env, -1);
}

napi_value Region::release_entry(napi_env env, const Napi::CallbackInfo& info) {
  const uint32_t section = section_argument(env, info[0]);
  if (!geometry().plain) throw_code("ERR_VMRING_NOT_SUPPORTED", "a daemon owns this region: it gives out the entries");
  Entry before;
  vmring::read_entry<A>(entry(section), before);
  vmring::write_entry<A>(entry(section), {EntryState::free, 0, 0, before.generation});
  vmring::unclaim_entry<A>(entry(section));
  return undefined(env);
}

napi_value Region::read_identity(napi_env env, const Napi::CallbackInfo& info) {
  const SectionView view(mapping_->data(), geometry(), section_argument(env, info[0]));
  Identity out;
  if (!vmring::read_identity<A>(view.identity(), out)) return null(env);
  return ObjectBuilder(env)
      .set("uuid", make_bytes(env, out.uuid, sizeof out.uuid))
      .number("incarnation", out.incarnation)
      .number("state", static_cast<uint32_t>(out.state))
      .number("heartbeat", static_cast<double>(A::load_relaxed(view.heartbeat())))
      .number("peerId", out.peer_id)
      .number("vector", out.vector)
      .number("pid", out.pid)
      .object();
}

napi_value Region::close(napi_env env, const Napi::CallbackInfo&) {
  mapping_->close();
  return undefined(env);
}

} // namespace vmring::addon
