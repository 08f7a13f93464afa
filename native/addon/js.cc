#include "addon/js.hpp"

#include <uv.h>

#include <cmath>
#include <cstring>

namespace vmring::addon {

void throw_type(const std::string& message) { throw JsError{ErrorClass::type, "ERR_INVALID_ARG_TYPE", message}; }
void throw_range(const std::string& message) { throw JsError{ErrorClass::range, "ERR_OUT_OF_RANGE", message}; }
void throw_code(const char* code, const std::string& message) { throw JsError{ErrorClass::error, code, message}; }

void check(napi_status status) {
  if (status != napi_ok) throw JsPending{};
}

void raise(napi_env env, const JsError& error) noexcept {
  const char* code = error.code.empty() ? nullptr : error.code.c_str();
  switch (error.kind) {
    case ErrorClass::type: napi_throw_type_error(env, code, error.message.c_str()); break;
    case ErrorClass::range: napi_throw_range_error(env, code, error.message.c_str()); break;
    case ErrorClass::error: napi_throw_error(env, code, error.message.c_str()); break;
  }
}

void raise(napi_env env, const SystemError& error) noexcept {
  try {
    char name[32], words[128];
    uv_err_name_r(-error.number, name, sizeof name);
    uv_strerror_r(-error.number, words, sizeof words);
    std::string message = std::string(name) + ": " + words + ", " + error.syscall;
    if (!error.path.empty()) message += " '" + error.path + "'";
    napi_value object = nullptr;
    check(napi_create_error(env, make_string(env, name), make_string(env, message), &object));
    check(napi_set_named_property(env, object, "errno", make_int(env, -error.number)));
    check(napi_set_named_property(env, object, "syscall", make_string(env, error.syscall)));
    if (!error.path.empty()) check(napi_set_named_property(env, object, "path", make_string(env, error.path)));
    napi_throw(env, object);
  } catch (...) {
    napi_throw_error(env, nullptr, error.what());
  }
}

void export_functions(napi_env env, napi_value object, std::span<const Function> functions, void* data) {
  for (const Function& each : functions) {
    napi_value function = nullptr;
    check(napi_create_function(env, each.name, NAPI_AUTO_LENGTH, each.callback, data, &function));
    check(napi_set_named_property(env, object, each.name, function));
  }
}

napi_valuetype type_of(napi_env env, napi_value value) {
  napi_valuetype type = napi_undefined;
  check(napi_typeof(env, value, &type));
  return type;
}

double to_double(napi_env env, napi_value value, const char* name) {
  double number = 0;
  if (napi_get_value_double(env, value, &number) != napi_ok) throw_type(std::string(name) + " must be a number");
  return number;
}

int64_t to_integer(napi_env env, napi_value value, const char* name, int64_t least, int64_t most) {
  const double number = to_double(env, value, name);
  if (!(number >= static_cast<double>(least) && number <= static_cast<double>(most)) || number != std::floor(number)) {
    throw_range(std::string(name) + " must be an integer from " + std::to_string(least) + " to " + std::to_string(most));
  }
  return static_cast<int64_t>(number);
}

uint32_t to_u32(napi_env env, napi_value value, const char* name) {
  const double number = to_double(env, value, name);
  // Numbers of every message come through here: no call of floor().
  const auto whole = number >= 0 && number <= 4294967295.0 ? static_cast<uint32_t>(number) : 0;
  if (static_cast<double>(whole) != number) return static_cast<uint32_t>(to_integer(env, value, name, 0, 0xffffffff));
  return whole;
}

bool to_bool(napi_env env, napi_value value, const char* name) {
  bool result = false;
  if (napi_get_value_bool(env, value, &result) != napi_ok) throw_type(std::string(name) + " must be true or false");
  return result;
}

std::string to_string(napi_env env, napi_value value, const char* name) {
  size_t length = 0;
  if (napi_get_value_string_utf8(env, value, nullptr, 0, &length) != napi_ok) {
    throw_type(std::string(name) + " must be a string");
  }
  std::string result(length, '\0');
  check(napi_get_value_string_utf8(env, value, result.data(), length + 1, &length));
  if (result.find('\0') != std::string::npos) throw_type(std::string(name) + " must not contain zero bytes");
  return result;
}

napi_value to_function(napi_env env, napi_value value, const char* name) {
  if (type_of(env, value) != napi_function) throw_type(std::string(name) + " must be a function");
  return value;
}

napi_value property(napi_env env, napi_value object, const char* name) {
  const napi_valuetype type = type_of(env, object);
  if (type != napi_object && type != napi_function) throw_type(std::string("an object with ") + name + " is needed");
  napi_value value = nullptr;
  check(napi_get_named_property(env, object, name, &value));
  return value;
}

Bytes to_bytes(napi_env env, napi_value value, const char* name) {
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  const napi_status status = napi_get_typedarray_info(env, value, &type, &length, &data, nullptr, nullptr);
  if (status != napi_ok || (type != napi_uint8_array && type != napi_uint8_clamped_array)) {
    throw_type(std::string(name) + " must be a Uint8Array");
  }
  return {static_cast<const uint8_t*>(data), length};
}

napi_value make_number(napi_env env, double value) {
  napi_value result = nullptr;
  check(napi_create_double(env, value, &result));
  return result;
}
napi_value make_int(napi_env env, int32_t value) {
  napi_value result = nullptr;
  check(napi_create_int32(env, value, &result));
  return result;
}
napi_value make_u32(napi_env env, uint32_t value) {
  napi_value result = nullptr;
  check(napi_create_uint32(env, value, &result));
  return result;
}
napi_value make_bool(napi_env env, bool value) {
  napi_value result = nullptr;
  check(napi_get_boolean(env, value, &result));
  return result;
}
napi_value make_string(napi_env env, const std::string& value) {
  napi_value result = nullptr;
  check(napi_create_string_utf8(env, value.data(), value.size(), &result));
  return result;
}
napi_value make_bytes(napi_env env, const void* data, size_t length) {
  void* copy = nullptr;
  napi_value buffer = nullptr, result = nullptr;
  check(napi_create_arraybuffer(env, length, &copy, &buffer));
  if (length != 0) std::memcpy(copy, data, length);
  check(napi_create_typedarray(env, napi_uint8_array, length, buffer, 0, &result));
  return result;
}
napi_value undefined(napi_env env) {
  napi_value result = nullptr;
  check(napi_get_undefined(env, &result));
  return result;
}
napi_value null(napi_env env) {
  napi_value result = nullptr;
  check(napi_get_null(env, &result));
  return result;
}

napi_value external_buffer(napi_env env, void* data, size_t length, std::shared_ptr<void> owner) {
  auto* kept = new std::shared_ptr<void>(std::move(owner));
  napi_value result = nullptr;
  const napi_status status = napi_create_external_arraybuffer(
      env, data, length, [](napi_env, void*, void* hint) { delete static_cast<std::shared_ptr<void>*>(hint); }, kept,
      &result);
  if (status == napi_ok) return result;
  delete kept;
  if (status == napi_no_external_buffers_allowed) {
    throw_code("ERR_VMRING_NO_EXTERNAL_BUFFERS",
               "this runtime does not let an addon lend its memory to JavaScript (Electron's memory cage); "
               "run vmring in a plain Node.js process");
  }
  throw JsPending{};
}

} // namespace vmring::addon
