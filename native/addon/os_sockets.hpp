// The JavaScript objects over native/linux/fd_socket.hpp.
#pragma once

#include <unistd.h>

#include <string>

#include "addon/os_wrapper.hpp"
#include "linux/fd_socket.hpp"
#include "linux/ivshmem_client.hpp"

namespace vmring::os {

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
    call_closed<2>([error](napi_env env, napi_value self, napi_value* arguments) {
      arguments[0] = self;
      arguments[1] = error_or_null(env, error);
    });
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
    self->listener_ = FdListener::adopt(state->loop, &state->users, fd, true, self, error);
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
      call_closed<2>([&step](napi_env env, napi_value self, napi_value* arguments) {
        arguments[0] = self;
        arguments[1] = make_fault(env, step);
      });
    }
  }

  static napi_value make_fault(napi_env env, const IvshmemStep& step) {
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
    call_closed<2>([error](napi_env env, napi_value self, napi_value* arguments) {
      arguments[0] = self;
      arguments[1] = error_or_null(env, error);
    });
  }
  void close_native() override {
    if (socket_ != nullptr) socket_->close();
    socket_ = nullptr;
  }

  FdSocket* socket_ = nullptr;
  IvshmemClient machine_;
};

}  // namespace vmring::os
