// Glue only: the sockets are native/linux/fd_socket.*, the handshake is native/linux/ivshmem_client.hpp.
#include "os.hpp"

#include <sys/eventfd.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "addon/os_sockets.hpp"
#include "addon/os_values.hpp"
#include "linux/fd_socket.hpp"

#ifndef VMRING_VERSION
#define VMRING_VERSION "0.1.0"
#endif
#ifndef VMRING_SANITIZE
#define VMRING_SANITIZE "none"
#endif

namespace vmring::os {
namespace {

// -------------------------------------------------------------------------------------------------------------- methods

napi_value construct(napi_env env, napi_callback_info info) { return Arguments(env, info).self; }

napi_value method_close(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  if (auto* self = unwrap<Wrapper>(arguments)) self->close();
  return nullptr;
}

template <bool keep>
napi_value method_ref(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  auto* self = unwrap<Wrapper>(arguments);
  if (self != nullptr && self->is_open()) self->ref_native(keep);
  return nullptr;
}

napi_value socket_send(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  auto* self = unwrap<JsSocket>(arguments);
  if (self == nullptr) return nullptr;
  const int64_t value = arguments.integer(0, "the message must be a number");
  const int fd = arguments.descriptor(1);
  return arguments.ok ? boolean(env, self->send(value, fd)) : nullptr;
}

napi_value socket_want_writable(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  if (auto* self = unwrap<JsSocket>(arguments)) self->want_writable();
  return nullptr;
}

napi_value client_stage(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  auto* self = unwrap<JsClient>(arguments);
  return self == nullptr ? nullptr : string(env, self->stage());
}

// ------------------------------------------------------------------------------------------------------------ functions

napi_value unix_listen(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const std::string path = arguments.path(0);
  const auto mode = static_cast<mode_t>(arguments.integer(1, "the mode must be a number"));
  const auto gid = static_cast<gid_t>(arguments.integer(2, "the group id must be a number"));
  if (!arguments.ok) return nullptr;
  OsError error;
  const int fd = open_unix_listener(path.c_str(), mode & 0777, gid, &error);
  return fd < 0 ? throw_os(env, error) : number(env, fd);
}

napi_value fd_listen(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const int fd = arguments.descriptor(0);
  napi_value handlers = arguments.handlers(1);
  if (!arguments.ok) return nullptr;
  OsError error;
  napi_value object = JsListener::create(static_cast<OsState*>(arguments.data), handlers, fd, &error);
  return object == nullptr ? throw_os(env, error) : object;
}

napi_value ivshmem_connect(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const std::string path = arguments.path(0);
  napi_value handlers = arguments.handlers(1);
  if (!arguments.ok) return nullptr;
  OsError error;
  napi_value object = JsClient::create(static_cast<OsState*>(arguments.data), handlers, path, &error);
  return object == nullptr ? throw_os(env, error) : object;
}

napi_value make_eventfd(napi_env env, napi_callback_info) {
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return fd < 0 ? throw_os(env, {.code = -errno, .syscall = "eventfd"}) : number(env, fd);
}

napi_value signal_eventfd(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const int fd = arguments.descriptor(0);
  if (!arguments.ok) return nullptr;
  const uint64_t one = 1;
  ssize_t written;
  do {
    written = ::write(fd, &one, sizeof(one));
  } while (written < 0 && errno == EINTR);
  // A counter at its limit is a bell that has been rung.
  if (written < 0 && errno != EAGAIN) return throw_os(env, {.code = -errno, .syscall = "write"});
  return nullptr;
}

napi_value close_descriptor(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const int fd = arguments.descriptor(0);
  if (!arguments.ok || fd < 0) return nullptr;
  // Linux releases the number even when close reports EINTR.
  if (::close(fd) != 0 && errno != EINTR) return throw_os(env, {.code = -errno, .syscall = "close"});
  return nullptr;
}

// -------------------------------------------------------------------------------------------------------- set-up and end

void end_environment(OsState* state) {
  napi_remove_async_cleanup_hook(state->cleanup);
  delete state;
}

void on_environment_end(napi_async_cleanup_hook_handle, void* data) {
  auto* state = static_cast<OsState*>(data);
  state->ending = true;
  while (!state->open.empty()) (*state->open.begin())->close();
  napi_async_destroy(state->env, state->context);
  for (napi_ref reference : {state->socket_class, state->listener_class, state->client_class, state->stream_class,
                             state->stream_listener_class}) {
    napi_delete_reference(state->env, reference);
  }
  // Sockets closed a moment ago may still be on their way through the loop.
  if (state->users.live == 0) {
    end_environment(state);
  } else {
    state->users.data = state;
    state->users.drained = [](void* argument) { end_environment(static_cast<OsState*>(argument)); };
  }
}

}  // namespace

napi_ref define_class(OsState* state, const char* name, std::initializer_list<napi_property_descriptor> extra) {
  std::vector<napi_property_descriptor> properties = {
      method("close", method_close, state),
      method("ref", method_ref<true>, state),
      method("unref", method_ref<false>, state),
  };
  properties.insert(properties.end(), extra);
  napi_value constructor = nullptr;
  napi_ref reference = nullptr;
  napi_define_class(state->env, name, NAPI_AUTO_LENGTH, construct, state, properties.size(), properties.data(), &constructor);
  napi_create_reference(state->env, constructor, 1, &reference);
  return reference;
}

}  // namespace vmring::os

void init_os(napi_env env, napi_value exports) {
  using namespace vmring::os;
  auto* state = new OsState;
  state->env = env;
  napi_get_uv_event_loop(env, &state->loop);
  napi_async_init(env, nullptr, string(env, "vmring"), &state->context);
  state->socket_class = define_class(
      state, "FdSocket", {method("send", socket_send, state), method("wantWritable", socket_want_writable, state)});
  state->listener_class = define_class(state, "FdListener", {});
  state->client_class = define_class(state, "IvshmemSocket", {method("stage", client_stage, state)});
  napi_add_async_cleanup_hook(env, on_environment_end, state, &state->cleanup);

#if defined(__x86_64__)
  const char* arch = "x64";
#elif defined(__aarch64__)
  const char* arch = "arm64";
#else
#error "vmring supports x86-64 and arm64"
#endif
  napi_value build_info = nullptr;
  napi_create_object(env, &build_info);
  napi_set_named_property(env, build_info, "version", string(env, VMRING_VERSION));
  napi_set_named_property(env, build_info, "sanitizer", string(env, VMRING_SANITIZE));
  napi_set_named_property(env, build_info, "arch", string(env, arch));

  const napi_property_descriptor functions[] = {
      method("unixListen", unix_listen, state),
      method("fdListen", fd_listen, state),
      method("ivshmemConnect", ivshmem_connect, state),
      method("eventfd", make_eventfd, state),
      method("eventfdSignal", signal_eventfd, state),
      method("closeFd", close_descriptor, state),
      {"buildInfo", nullptr, nullptr, nullptr, nullptr, build_info, napi_enumerable, nullptr},
  };
  napi_define_properties(env, exports, sizeof(functions) / sizeof(functions[0]), functions);
  init_streams(state, exports);
}
