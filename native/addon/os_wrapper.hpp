// What every JavaScript object over a socket has in common.
//
// Lifetimes: an object is held by a strong reference for as long as its socket is open, so the native half goes with the
// garbage collector only after close. An environment that ends closes every socket and waits for libuv.
#pragma once

#include <node_api.h>

#include <initializer_list>
#include <type_traits>
#include <unordered_set>
#include <vector>

#include "addon/os_values.hpp"
#include "linux/fd_socket.hpp"

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
  napi_ref stream_class = nullptr;
  napi_ref stream_listener_class = nullptr;
  std::unordered_set<Wrapper*> open;
  LoopUsers users;
  bool ending = false;
};

// The JavaScript object of an open socket or listener, and the handlers that it calls.
class Wrapper {
 public:
  explicit Wrapper(OsState* state) : state_(state) {}
  virtual ~Wrapper() = default;

  // Makes the object, wraps this into it and holds both it and the handlers (null: none yet). Null with an exception
  // pending on failure.
  napi_value attach(napi_ref class_ref, napi_value handlers) {
    napi_env env = state_->env;
    napi_value constructor = nullptr;
    napi_value object = nullptr;
    napi_get_reference_value(env, class_ref, &constructor);
    if (napi_new_instance(env, constructor, 0, nullptr, &object) != napi_ok) return nullptr;
    const auto finalize = [](napi_env, void* data, void*) { delete static_cast<Wrapper*>(data); };
    if (napi_wrap(env, object, this, finalize, nullptr, nullptr) != napi_ok) return nullptr;
    napi_create_reference(env, object, 1, &self_);
    set_handlers(handlers);
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
    self_ = nullptr;
    set_handlers(nullptr);
  }

  virtual void ref_native(bool keep_loop_alive) = 0;
  bool is_open() const { return self_ != nullptr; }

 protected:
  virtual void close_native() = 0;

  void set_handlers(napi_value handlers) {
    if (handlers_ != nullptr) napi_delete_reference(state_->env, handlers_);
    handlers_ = nullptr;
    if (handlers != nullptr) napi_create_reference(state_->env, handlers, 1, &handlers_);
  }

  // Calls handlers[name](...arguments) from the loop. `make` fills the arguments inside the handle scope. False: JavaScript
  // does not run here any more (a worker that is being terminated), and the handler was not called. A handler may close
  // the object, and then it is held only until this returns.
  template <size_t N, class Make>
  bool call(const char* name, Make make) {
    napi_env env = state_->env;
    napi_handle_scope scope;
    if (handlers_ == nullptr || state_->ending || napi_open_handle_scope(env, &scope) != napi_ok) return false;
    [[maybe_unused]] napi_value held = object();
    napi_value handlers = nullptr;
    napi_get_reference_value(env, handlers_, &handlers);
    const bool runs = call_on<N>(handlers, name, static_cast<Make&&>(make));
    napi_close_handle_scope(env, scope);
    return runs;
  }

  template <size_t N, class Make>
  bool call_on(napi_value handlers, const char* name, Make make) {
    napi_env env = state_->env;
    napi_value function = nullptr;
    napi_value arguments[N == 0 ? 1 : N] = {};
    const bool runs = !state_->ending && handlers != nullptr && napi_get_named_property(env, handlers, name, &function) == napi_ok;
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
    return runs;
  }

  // The last call: the object is closed before the handler runs. `make` gets the object, to hand it over.
  template <size_t N, class Make>
  void call_closed(Make make) {
    napi_env env = state_->env;
    napi_handle_scope scope;
    if (napi_open_handle_scope(env, &scope) != napi_ok) return;
    napi_value self = object();
    napi_value handlers = nullptr;
    if (handlers_ != nullptr) napi_get_reference_value(env, handlers_, &handlers);
    close();
    call_on<N>(handlers, "onClose", [&](napi_env e, napi_value* arguments) { make(e, self, arguments); });
    napi_close_handle_scope(env, scope);
  }

  static napi_value error_or_null(napi_env env, const OsError* error) {
    return error != nullptr ? os_error(env, *error) : null_value(env);
  }

  OsState* state_;
  napi_ref self_ = nullptr;
  napi_ref handlers_ = nullptr;
};

// ---------------------------------------------------------------------------------------------------- classes of objects

// Methods of a napi class check their receiver's class; null only for an object that somebody made with `new`.
template <class T>
T* unwrap(const Arguments& arguments) {
  void* data = nullptr;
  if (!arguments.ok || napi_unwrap(arguments.env, arguments.self, &data) != napi_ok) {
    napi_throw_type_error(arguments.env, "ERR_INVALID_THIS", "not an open socket of vmring");
    return nullptr;
  }
  return static_cast<T*>(static_cast<Wrapper*>(data));
}

inline napi_property_descriptor method(const char* name, napi_callback callback, void* data) {
  return {name, nullptr, callback, nullptr, nullptr, nullptr, napi_default_method, data};
}

inline napi_property_descriptor getter(const char* name, napi_callback callback, void* data) {
  return {name, nullptr, nullptr, callback, nullptr, nullptr, napi_enumerable, data};
}

// A class with close, ref, unref and what is given.
napi_ref define_class(OsState* state, const char* name, std::initializer_list<napi_property_descriptor> extra);

// stream.cc
void init_streams(OsState* state, napi_value exports);

}  // namespace vmring::os
