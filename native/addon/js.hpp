// What the glue needs of Node-API: arguments checked by type and range, results built, errors with codes.
//
// Functions throw C++ exceptions inside and become JavaScript exceptions at one place, `guarded`. Nothing here aborts: a
// worker that is being terminated makes every Node-API call fail, and that is just one more error.
#pragma once

// Thrown from an environment that is shutting down, node-addon-api would abort instead of giving up.
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#include <napi.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "linux/mapping.hpp"

namespace vmring::addon {

enum class ErrorClass { error, type, range };

struct JsError {
  ErrorClass kind;
  std::string code; // empty: none
  std::string message;
};
// A Node-API call failed: an exception is pending already, or the environment is ending.
struct JsPending {};

[[noreturn]] void throw_type(const std::string& message);
[[noreturn]] void throw_range(const std::string& message);
[[noreturn]] void throw_code(const char* code, const std::string& message);

void check(napi_status status);
void raise(napi_env env, const JsError& error) noexcept;
void raise(napi_env env, const SystemError& error) noexcept;

template <class Body>
napi_value guarded(napi_env env, Body&& body) noexcept {
  try {
    return body();
  } catch (const JsPending&) {
    bool pending = false;
    napi_is_exception_pending(env, &pending);
    if (!pending) napi_throw_error(env, nullptr, "the environment is shutting down");
  } catch (const JsError& error) {
    raise(env, error);
  } catch (const SystemError& error) {
    raise(env, error);
  } catch (const EmptyError& error) {
    raise(env, JsError{ErrorClass::error, "ERR_VMRING_REGION_EMPTY", error.what()});
  } catch (const SizeError& error) {
    raise(env, JsError{ErrorClass::error, "ERR_VMRING_REGION_SIZE", error.what()});
  } catch (const std::exception& error) {
    raise(env, JsError{ErrorClass::error, "", error.what()});
  }
  return nullptr;
}

// Arguments of one call, up to N; those not given are undefined.
template <size_t N>
struct Arguments {
  napi_value at[N];
  void* data = nullptr;

  Arguments(napi_env env, napi_callback_info info) {
    size_t count = N;
    check(napi_get_cb_info(env, info, &count, at, nullptr, &data));
  }
  napi_value operator[](size_t i) const { return at[i]; }
};

struct Function {
  const char* name;
  napi_callback callback;
};
// Makes them properties of `object`; `data` is what each is called with.
void export_functions(napi_env env, napi_value object, std::span<const Function> functions, void* data = nullptr);

napi_valuetype type_of(napi_env env, napi_value value);
double to_double(napi_env env, napi_value value, const char* name);
// A number without fraction in [least, most].
int64_t to_integer(napi_env env, napi_value value, const char* name, int64_t least, int64_t most);
uint32_t to_u32(napi_env env, napi_value value, const char* name);
bool to_bool(napi_env env, napi_value value, const char* name);
std::string to_string(napi_env env, napi_value value, const char* name);
napi_value to_function(napi_env env, napi_value value, const char* name);
napi_value property(napi_env env, napi_value object, const char* name);

struct Bytes {
  const uint8_t* data;
  size_t length;
};
Bytes to_bytes(napi_env env, napi_value value, const char* name);

napi_value make_number(napi_env env, double value);
napi_value make_int(napi_env env, int32_t value);
napi_value make_u32(napi_env env, uint32_t value);
napi_value make_bool(napi_env env, bool value);
napi_value make_string(napi_env env, const std::string& value);
napi_value make_bytes(napi_env env, const void* data, size_t length); // a private copy, Uint8Array
napi_value undefined(napi_env env);
napi_value null(napi_env env);

// One ArrayBuffer over memory that `owner` keeps; not transferable.
napi_value external_buffer(napi_env env, void* data, size_t length, std::shared_ptr<void> owner);

class ObjectBuilder {
 public:
  explicit ObjectBuilder(napi_env env) : env_(env) { check(napi_create_object(env, &object_)); }
  ObjectBuilder& set(const char* name, napi_value value) {
    check(napi_set_named_property(env_, object_, name, value));
    return *this;
  }
  ObjectBuilder& number(const char* name, double value) { return set(name, make_number(env_, value)); }
  napi_value object() const { return object_; }

 private:
  napi_env env_;
  napi_value object_ = nullptr;
};

class HandleScope {
 public:
  explicit HandleScope(napi_env env) : env_(env) { napi_open_handle_scope(env, &scope_); }
  HandleScope(const HandleScope&) = delete;
  HandleScope& operator=(const HandleScope&) = delete;
  ~HandleScope() { napi_close_handle_scope(env_, scope_); }

 private:
  napi_env env_;
  napi_handle_scope scope_ = nullptr;
};

} // namespace vmring::addon
