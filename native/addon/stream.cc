// Glue only: the sockets are native/linux/stream_socket.*, their objects stream.hpp.
#include "addon/stream.hpp"

namespace vmring::os {
namespace {

constexpr int64_t largest_u32 = 0xffffffff;

// ------------------------------------------------------------------------------------------------------------ arguments

// A whole number from `least` to `most` under that name; `otherwise` when it is not given.
int64_t field(Arguments& arguments, napi_value object, const char* name, int64_t least, int64_t most, int64_t otherwise) {
  napi_value value = nullptr;
  napi_valuetype type = napi_undefined;
  double given = 0;
  if (!arguments.ok || object == nullptr) return otherwise;
  napi_get_named_property(arguments.env, object, name, &value);
  if (value != nullptr) napi_typeof(arguments.env, value, &type);
  if (type == napi_undefined) return otherwise;
  const std::string what = std::string("the ") + name + " must be a whole number from " + std::to_string(least) + " to " +
                           std::to_string(most);
  if (type != napi_number || napi_get_value_double(arguments.env, value, &given) != napi_ok) {
    arguments.wrong(what.c_str());
  } else if (!(given >= static_cast<double>(least) && given <= static_cast<double>(most)) ||
             given != static_cast<double>(static_cast<int64_t>(given))) {
    arguments.out_of_range(what.c_str());
  } else {
    return static_cast<int64_t>(given);
  }
  return otherwise;
}

bool has(napi_env env, napi_value object, const char* name) {
  bool found = false;
  return napi_has_named_property(env, object, name, &found) == napi_ok && found;
}

// { path } or { cid, port }.
StreamAddress address_argument(Arguments& arguments, size_t index) {
  constexpr const char* what = "the address must be { path } or { cid, port }";
  StreamAddress address;
  napi_valuetype type = napi_undefined;
  if (arguments.ok && index < arguments.count) napi_typeof(arguments.env, arguments.values[index], &type);
  if (type != napi_object) {
    arguments.wrong(what);
    return address;
  }
  napi_value object = arguments.values[index];
  if (has(arguments.env, object, "path")) {
    napi_value path = nullptr;
    napi_get_named_property(arguments.env, object, "path", &path);
    if (path != nullptr) address.path = arguments.text(path);
    if (address.path.empty()) arguments.wrong("the path must not be empty");
  } else if (has(arguments.env, object, "cid") && has(arguments.env, object, "port")) {
    address.vsock = true;
    address.cid = static_cast<uint32_t>(field(arguments, object, "cid", 0, largest_u32, 0));
    address.port = static_cast<uint32_t>(field(arguments, object, "port", 0, largest_u32, 0));
  } else {
    arguments.wrong(what);
  }
  return address;
}

napi_value options_argument(Arguments& arguments, size_t index) {
  napi_valuetype type = napi_undefined;
  if (arguments.ok && index < arguments.count) napi_typeof(arguments.env, arguments.values[index], &type);
  if (type != napi_undefined && type != napi_object) arguments.wrong("the options must be an object");
  return type == napi_object ? arguments.values[index] : nullptr;
}

StreamSocket::Target uint8_argument(Arguments& arguments, napi_value value, const char* what) {
  StreamSocket::Target bytes;
  if (arguments.ok && (value == nullptr || !bytes_of(arguments.env, value, &bytes))) arguments.wrong(what);
  return bytes;
}

// -------------------------------------------------------------------------------------------------------------- methods

napi_value stream_start(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  auto* self = unwrap<JsStream>(arguments);
  napi_value handlers = arguments.handlers(0);
  if (self != nullptr && handlers != nullptr) self->start(handlers);
  return nullptr;
}

napi_value stream_read_into(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  auto* self = unwrap<JsStream>(arguments);
  if (self == nullptr) return nullptr;
  napi_value target = arguments.count > 0 ? arguments.values[0] : nullptr;
  const auto bytes = uint8_argument(arguments, target, "the target must be a Uint8Array");
  if (arguments.ok && bytes.length == 0) arguments.out_of_range("the target must have room for a byte");
  if (arguments.ok) self->read_into(target);
  return nullptr;
}

napi_value stream_pause(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  if (auto* self = unwrap<JsStream>(arguments)) self->pause();
  return nullptr;
}

napi_value stream_write(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  auto* self = unwrap<JsStream>(arguments);
  if (self == nullptr) return nullptr;
  uint32_t count = 0;
  constexpr const char* what = "an array of Uint8Arrays is needed";
  if (arguments.count < 1 || napi_get_array_length(env, arguments.values[0], &count) != napi_ok) arguments.wrong(what);
  std::vector<napi_value> chunks;
  std::vector<iovec> parts;
  if (arguments.ok) {
    chunks.reserve(count);
    parts.reserve(count);
  }
  for (uint32_t i = 0; arguments.ok && i < count; ++i) {
    napi_value chunk = nullptr;
    napi_get_element(env, arguments.values[0], i, &chunk);
    const auto bytes = uint8_argument(arguments, chunk, what);
    if (bytes.length == 0) continue;
    chunks.push_back(chunk);
    parts.push_back({.iov_base = bytes.data, .iov_len = bytes.length});
  }
  return arguments.ok ? number(env, static_cast<double>(self->write(chunks, parts))) : nullptr;
}

napi_value stream_end(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  if (auto* self = unwrap<JsStream>(arguments)) self->end();
  return nullptr;
}

napi_value stream_reset(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  if (auto* self = unwrap<JsStream>(arguments)) self->reset();
  return nullptr;
}

template <napi_value (*make)(napi_env, const JsStream&)>
napi_value stream_get(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  auto* self = unwrap<JsStream>(arguments);
  return self == nullptr ? nullptr : make(env, *self);
}

napi_value get_family(napi_env env, const JsStream& self) { return string(env, self.vsock() ? "vsock" : "unix"); }
napi_value get_local(napi_env env, const JsStream& self) { return local_value(env, self.local()); }
napi_value get_remote(napi_env env, const JsStream& self) {
  const StreamPeer& peer = self.peer();
  if (self.vsock()) return numbers_object(env, {{"cid", peer.cid}, {"port", peer.port}});
  return numbers_object(env, {{"uid", peer.uid}, {"gid", peer.gid}, {"pid", peer.pid}});
}
napi_value get_queued(napi_env env, const JsStream& self) { return number(env, static_cast<double>(self.queued())); }
napi_value get_read(napi_env env, const JsStream& self) { return number(env, static_cast<double>(self.bytes_read())); }
napi_value get_written(napi_env env, const JsStream& self) { return number(env, static_cast<double>(self.bytes_written())); }

napi_value listener_local(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  auto* self = unwrap<JsStreamListener>(arguments);
  return self == nullptr ? nullptr : local_value(env, self->local());
}

// ------------------------------------------------------------------------------------------------------------ functions

napi_value stream_connect(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const StreamAddress address = address_argument(arguments, 0);
  napi_value handlers = arguments.handlers(1);
  napi_value given = options_argument(arguments, 2);
  const StreamOptions options = {
      .limit = static_cast<uint32_t>(field(arguments, given, "timeout", 0, INT32_MAX, 0)),
      .buffer = static_cast<uint64_t>(field(arguments, given, "buffer", 0, INT32_MAX, 0)),
  };
  if (!arguments.ok) return nullptr;
  return JsStream::connect(static_cast<OsState*>(arguments.data), handlers, address, options);
}

napi_value stream_listen(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const StreamAddress address = address_argument(arguments, 0);
  napi_value given = options_argument(arguments, 1);
  napi_value handlers = arguments.handlers(2);
  const auto backlog = static_cast<int>(field(arguments, given, "backlog", 0, INT32_MAX, 0));
  const auto mode = static_cast<unsigned>(field(arguments, given, "mode", 0, 0777, 0600));
  const auto buffer = static_cast<uint64_t>(field(arguments, given, "buffer", 0, INT32_MAX, 0));
  int fd = static_cast<int>(field(arguments, given, "fd", 0, INT32_MAX, -1));
  if (!arguments.ok) return nullptr;
  OsError error;
  const bool own = fd < 0;
  if (own) fd = open_stream_listener(address, mode, backlog, buffer, &error);
  if (fd < 0) return throw_os(env, error);
  napi_value object = JsStreamListener::create(static_cast<OsState*>(arguments.data), handlers, fd,
                                               own ? address.path : std::string(), &error);
  return object == nullptr ? throw_os(env, error) : object;
}

napi_value vsock_cid(napi_env env, napi_callback_info) {
  const int64_t cid = vsock_local_cid();
  if (cid >= 0) return number(env, static_cast<double>(cid));
  return throw_os(env, {.code = static_cast<int>(cid), .syscall = "ioctl", .address = "/dev/vsock"});
}

}  // namespace

void init_streams(OsState* state, napi_value exports) {
  state->stream_class = define_class(state, "NativeStream",
                                     {
                                         method("start", stream_start, state),
                                         method("readInto", stream_read_into, state),
                                         method("pause", stream_pause, state),
                                         method("write", stream_write, state),
                                         method("end", stream_end, state),
                                         method("reset", stream_reset, state),
                                         getter("family", stream_get<get_family>, state),
                                         getter("local", stream_get<get_local>, state),
                                         getter("remote", stream_get<get_remote>, state),
                                         getter("queued", stream_get<get_queued>, state),
                                         getter("bytesRead", stream_get<get_read>, state),
                                         getter("bytesWritten", stream_get<get_written>, state),
                                     });
  state->stream_listener_class =
      define_class(state, "NativeStreamListener", {getter("local", listener_local, state)});
  const napi_property_descriptor functions[] = {
      method("streamConnect", stream_connect, state),
      method("streamListen", stream_listen, state),
      method("vsockLocalCid", vsock_cid, state),
  };
  napi_define_properties(state->env, exports, sizeof(functions) / sizeof(functions[0]), functions);
}

}  // namespace vmring::os
