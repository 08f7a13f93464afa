// The JavaScript objects over native/linux/fd_socket.hpp.
//
// Lifetimes: an object is held by a strong reference for as long as its socket is open, so the native half goes with the
// garbage collector only after close. An environment that ends closes every socket and waits for libuv.
#pragma once

#include <node_api.h>
#include <unistd.h>

#include <string>
#include <type_traits>
#include <unordered_set>

#include "addon/os_values.hpp"
#include "linux/fd_socket.hpp"
#include "linux/ivshmem_client.hpp"

namespace vmring::os {

class Wrapper;

// What one environment (main thread or worker) holds. Lives until the last libuv handle of the environment is closed.
struct OsState {
  napi_env env = nullptr;
  uv_loop_t* loop = nullptr;
  napi_async_context context = nullptr;
  napi_async_cleanup_hook_handle cleanup = nullptr;
  napi_ref socket_class = nullptr;
  napi_ref listener_class = nullptr;
  napi_ref client_class = nullptr;
  std::unordered_set<Wrapper*> open;
  LoopUsers users;
  bool ending = false;
};

// The JavaScript object of an open socket or listener, and the handlers that it calls.
class Wrapper {
 public:
  explicit Wrapper(OsState* state) : state_(state) {}
  virtual ~Wrapper() = default;

  // Makes the object, wraps this into it and holds both it and the handlers. Null with an exception pending on failure.
  napi_value attach(napi_ref class_ref, napi_value handlers) {
    napi_env env = state_->env;
    napi_value constructor = nullptr;
    napi_value object = nullptr;
    napi_get_reference_value(env, class_ref, &constructor);
    if (napi_new_instance(env, constructor, 0, nullptr, &object) != napi_ok) return nullptr;
    const auto finalize = [](napi_env, void* data, void*) { delete static_cast<Wrapper*>(data); };
    if (napi_wrap(env, object, this, finalize, nullptr, nullptr) != napi_ok) return nullptr;
    napi_create_reference(env, object, 1, &self_);
    napi_create_reference(env, handlers, 1, &handlers_);
    state_->open.insert(this);
    return object;
  }

  napi_value object() const {
    napi_value result = nullptr;
    napi_get_reference_value(state_->env, self_, &result);
    return result;
  }

  // Ends all calls; the garbage collector has the object from here on.
  void close() {
    if (self_ == nullptr) return;
    state_->open.erase(this);
    close_native();
    napi_delete_reference(state_->env, self_);
    napi_delete_reference(state_->env, handlers_);
    self_ = handlers_ = nullptr;
  }

  virtual void ref_native(bool keep_loop_alive) = 0;
  bool is_open() const { return self_ != nullptr; }

 protected:
  virtual void close_native() = 0;

  // Calls handlers[name](...arguments) from the loop. `make` fills the arguments inside the handle scope. False: JavaScript
  // does not run here any more (a worker that is being terminated), and the handler was not called.
  template <size_t N, class Make>
  bool call(const char* name, Make make) {
    return call_on(handlers_, name, static_cast<Make&&>(make), std::integral_constant<size_t, N>{});
  }

  template <class Make, size_t N>
  bool call_on(napi_ref handlers_ref, const char* name, Make make, std::integral_constant<size_t, N>) {
    napi_env env = state_->env;
    napi_handle_scope scope;
    if (state_->ending || napi_open_handle_scope(env, &scope) != napi_ok) return false;
    napi_value handlers = nullptr;
    napi_value function = nullptr;
    napi_value arguments[N] = {};
    napi_get_reference_value(env, handlers_ref, &handlers);
    const bool runs = handlers != nullptr && napi_get_named_property(env, handlers, name, &function) == napi_ok;
    if (runs) {
      make(env, arguments);
      napi_make_callback(env, state_->context, handlers, function, N, arguments, nullptr);
    }
    // What a handler throws becomes an uncaught exception, as from any other callback of Node's.
    bool pending = false;
    napi_value exception = nullptr;
    if (napi_is_exception_pending(env, &pending) == napi_ok && pending &&
        napi_get_and_clear_last_exception(env, &exception) == napi_ok) {
      napi_fatal_exception(env, exception);
    }
    napi_close_handle_scope(env, scope);
    return runs;
  }

  // The last call: the object is closed before the handler runs, and still handed to it.
  void call_closed(napi_value (*make_error)(napi_env, const void*), const void* error) {
    napi_env env = state_->env;
    napi_handle_scope scope;
    if (napi_open_handle_scope(env, &scope) != napi_ok) return;
    napi_value self = object();
    napi_value handlers = nullptr;
    napi_get_reference_value(env, handlers_, &handlers);
    napi_ref keep = nullptr;
    napi_create_reference(env, handlers, 1, &keep);
    close();
    call_on(keep, "onClose", [&](napi_env e, napi_value* arguments) {
      arguments[0] = self;
      arguments[1] = error != nullptr ? make_error(e, error) : null_value(e);
    }, std::integral_constant<size_t, 2>{});
    napi_delete_reference(env, keep);
    napi_close_handle_scope(env, scope);
  }

  static napi_value make_os_error(napi_env env, const void* error) { return os_error(env, *static_cast<const OsError*>(error)); }

  OsState* state_;
  napi_ref self_ = nullptr;
  napi_ref handlers_ = nullptr;
};

// ------------------------------------------------------------------------------------ the daemon's side of a connection

class JsSocket final : public Wrapper, public FdSocket::Delegate {
 public:
  using Wrapper::Wrapper;

  // Takes over `fd`. Null and an OsError when libuv refuses it.
  static JsSocket* accept(OsState* state, napi_value handlers, int fd, OsError* error) {
    auto* self = new JsSocket(state);
    self->socket_ = FdSocket::adopt(state->loop, &state->users, fd, FdSocket::Role::server, self, error);
    if (self->socket_ == nullptr) {
      delete self;
      return nullptr;
    }
    napi_value object = self->attach(state->socket_class, handlers);
    if (object == nullptr) {
      self->socket_->close();
      delete self;
      *error = {.code = UV_ENOMEM, .syscall = "accept"};
      return nullptr;
    }
    napi_set_named_property(state->env, object, "uid", number(state->env, self->socket_->uid()));
    napi_set_named_property(state->env, object, "pid", number(state->env, self->socket_->pid()));
    return self;
  }

  bool send(int64_t value, int fd) { return is_open() && socket_->send(value, fd); }
  void want_writable() {
    if (is_open()) socket_->want_writable();
  }
  void ref_native(bool keep) override { socket_->ref(keep); }

 private:
  void on_message(int64_t, int fd) override {
    if (fd >= 0) ::close(fd);
  }
  void on_writable() override {
    call<1>("onWritable", [this](napi_env, napi_value* arguments) { arguments[0] = object(); });
  }
  void on_close(const OsError* error) override {
    socket_ = nullptr;
    call_closed(make_os_error, error);
  }
  void close_native() override {
    if (socket_ != nullptr) socket_->close();
    socket_ = nullptr;
  }

  FdSocket* socket_ = nullptr;
};

class JsListener final : public Wrapper, public FdListener::Delegate {
 public:
  using Wrapper::Wrapper;

  static napi_value create(OsState* state, napi_value handlers, int fd, OsError* error) {
    auto* self = new JsListener(state);
    self->listener_ = FdListener::adopt(state->loop, &state->users, fd, self, error);
    if (self->listener_ == nullptr) {
      delete self;
      return nullptr;
    }
    napi_value object = self->attach(state->listener_class, handlers);
    if (object != nullptr) return object;
    self->listener_->close();
    delete self;
    *error = {.code = UV_ENOMEM, .syscall = "listen"};
    return nullptr;
  }

  void ref_native(bool keep) override { listener_->ref(keep); }

 private:
  void on_connection(int fd) override {
    napi_env env = state_->env;
    napi_handle_scope scope;
    if (state_->ending || napi_open_handle_scope(env, &scope) != napi_ok) {
      ::close(fd);
      return;
    }
    napi_value handlers = nullptr;
    napi_get_reference_value(env, handlers_, &handlers);
    OsError error;
    JsSocket* socket = JsSocket::accept(state_, handlers, fd, &error);
    if (socket == nullptr) {
      on_refused(error);
    } else {
      call<1>("onConnection", [socket](napi_env, napi_value* arguments) { arguments[0] = socket->object(); });
    }
    napi_close_handle_scope(env, scope);
  }
  void on_refused(const OsError& error) override {
    call<1>("onRefused", [&error](napi_env e, napi_value* arguments) { arguments[0] = os_error(e, error); });
  }
  void close_native() override { listener_->close(); }

  FdListener* listener_ = nullptr;
};

// ------------------------------------------------------------------------------------------------------ the client side

class JsClient final : public Wrapper, public FdSocket::Delegate {
 public:
  using Wrapper::Wrapper;

  static napi_value create(OsState* state, napi_value handlers, const std::string& path, OsError* error) {
    auto* self = new JsClient(state);
    self->socket_ = FdSocket::connect(state->loop, &state->users, path.c_str(), self, error);
    if (self->socket_ == nullptr) {
      delete self;
      return nullptr;
    }
    napi_value object = self->attach(state->client_class, handlers);
    if (object != nullptr) return object;
    self->socket_->close();
    delete self;
    *error = {.code = UV_ENOMEM, .syscall = "connect", .address = path};
    return nullptr;
  }

  void ref_native(bool keep) override { socket_->ref(keep); }
  const char* stage() const {
    switch (machine_.stage()) {
      case IvshmemClient::Stage::version: return "version";
      case IvshmemClient::Stage::id: return "id";
      case IvshmemClient::Stage::memory: return "memory";
      case IvshmemClient::Stage::own_vector: return "vector";
      case IvshmemClient::Stage::ready: return "ready";
      case IvshmemClient::Stage::broken: break;
    }
    return "broken";
  }

 private:
  void on_message(int64_t value, int fd) override {
    const IvshmemStep step = machine_.feed(value, fd >= 0);
    bool taken = false;
    if (step.event == IvshmemEvent::memory) {
      taken = call<1>("onMemory", [&](napi_env env, napi_value* arguments) { arguments[0] = number(env, fd); });
    } else if (step.event == IvshmemEvent::vector) {
      taken = call<4>("onVector", [&](napi_env env, napi_value* arguments) {
        arguments[0] = number(env, step.peer);
        arguments[1] = number(env, step.vector);
        arguments[2] = number(env, fd);
        arguments[3] = boolean(env, step.own);
      });
    }
    if (fd >= 0 && !taken) ::close(fd);
    if (step.event == IvshmemEvent::own_id) {
      call<1>("onId", [&](napi_env env, napi_value* arguments) { arguments[0] = number(env, step.peer); });
    } else if (step.event == IvshmemEvent::left) {
      call<1>("onLeave", [&](napi_env env, napi_value* arguments) { arguments[0] = number(env, step.peer); });
    } else if (step.event == IvshmemEvent::fault) {
      call_closed(make_fault, &step);
    }
  }

  static napi_value make_fault(napi_env env, const void* data) {
    const auto& step = *static_cast<const IvshmemStep*>(data);
    const std::string value = std::to_string(step.value);
    if (step.fault == IvshmemFault::version) {
      return error_value(env, "ERR_VMRING_SERVER_VERSION", "the server speaks ivshmem protocol version " + value + ", this is version 0");
    }
    if (step.fault == IvshmemFault::no_fd) {
      return error_value(env, "ERR_VMRING_SERVER_NO_FD", "the server sent " + value + " without the descriptor that belongs to it");
    }
    return error_value(env, "ERR_VMRING_SERVER_PROTOCOL", "the server sent " + value + ", which has no meaning here");
  }

  void on_writable() override {}
  void on_close(const OsError* error) override {
    socket_ = nullptr;
    call_closed(make_os_error, error);
  }
  void close_native() override {
    if (socket_ != nullptr) socket_->close();
    socket_ = nullptr;
  }

  FdSocket* socket_ = nullptr;
  IvshmemClient machine_;
};

}  // namespace vmring::os
