// Values, errors and checked arguments for the glue in os.cc.
#pragma once

#include <node_api.h>
#include <uv.h>

#include <cstdint>
#include <string>

#include "linux/fd_socket.hpp"

namespace vmring::os {

inline napi_value number(napi_env env, double value) {
  napi_value result = nullptr;
  napi_create_double(env, value, &result);
  return result;
}

inline napi_value boolean(napi_env env, bool value) {
  napi_value result = nullptr;
  napi_get_boolean(env, value, &result);
  return result;
}

inline napi_value string(napi_env env, const std::string& value) {
  napi_value result = nullptr;
  napi_create_string_utf8(env, value.data(), value.size(), &result);
  return result;
}

inline napi_value null_value(napi_env env) {
  napi_value result = nullptr;
  napi_get_null(env, &result);
  return result;
}

inline napi_value error_value(napi_env env, const std::string& code, const std::string& message) {
  napi_value result = nullptr;
  napi_create_error(env, string(env, code), string(env, message), &result);
  return result;
}

// code, errno, syscall, address, port: as Node's own system errors.
inline napi_value os_error(napi_env env, const OsError& error) {
  const std::string code = uv_err_name(error.code);
  std::string message = code + ": " + (error.text != nullptr ? error.text : uv_strerror(error.code)) + ", " + error.syscall;
  if (!error.address.empty()) {
    message += " '" + error.address + (error.port >= 0 ? ":" + std::to_string(error.port) : "") + "'";
  }
  napi_value result = error_value(env, code, message);
  napi_set_named_property(env, result, "errno", number(env, error.code));
  napi_set_named_property(env, result, "syscall", string(env, error.syscall));
  if (!error.address.empty()) napi_set_named_property(env, result, "address", string(env, error.address));
  if (error.port >= 0) napi_set_named_property(env, result, "port", number(env, static_cast<double>(error.port)));
  return result;
}

inline napi_value throw_os(napi_env env, const OsError& error) {
  napi_throw(env, os_error(env, error));
  return nullptr;
}

// The arguments of a call, checked as they are taken; once one is wrong an exception is pending and `ok` stays false.
struct Arguments {
  napi_env env;
  napi_value self = nullptr;
  napi_value values[4] = {};
  size_t count = 4;
  void* data = nullptr;
  bool ok = true;

  Arguments(napi_env e, napi_callback_info info) : env(e) {
    ok = napi_get_cb_info(env, info, &count, values, &self, &data) == napi_ok;
  }
  void wrong(const char* what) {
    if (ok) napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", what);
    ok = false;
  }
  void out_of_range(const char* what) {
    if (ok) napi_throw_range_error(env, "ERR_OUT_OF_RANGE", what);
    ok = false;
  }
  int64_t integer(size_t index, const char* what) {
    int64_t value = 0;
    if (!ok) return value;
    napi_valuetype type = napi_undefined;
    if (index < count) napi_typeof(env, values[index], &type);
    if (type != napi_number || napi_get_value_int64(env, values[index], &value) != napi_ok) wrong(what);
    return value;
  }
  int descriptor(size_t index) {
    const int64_t value = integer(index, "the descriptor must be a number");
    if (ok && (value < -1 || value > INT32_MAX)) wrong("the descriptor is out of range");
    return static_cast<int>(value);
  }
  bool truth(size_t index) {
    bool value = false;
    if (ok && (index >= count || napi_get_value_bool(env, values[index], &value) != napi_ok)) wrong("a boolean is needed");
    return value;
  }
  std::string path(size_t index) {
    if (ok && index >= count) wrong("the path must be a string");
    return ok ? text(values[index]) : std::string();
  }
  // A path somewhere in an argument.
  std::string text(napi_value given) {
    size_t length = 0;
    std::string value;
    if (!ok) return value;
    if (napi_get_value_string_utf8(env, given, nullptr, 0, &length) != napi_ok) {
      wrong("the path must be a string");
      return value;
    }
    value.resize(length);
    napi_get_value_string_utf8(env, given, value.data(), length + 1, &length);
    if (value.find('\0') != std::string::npos) wrong("the path must not contain a zero byte");
    return value;
  }
  napi_value handlers(size_t index) {
    napi_valuetype type = napi_undefined;
    if (ok && index < count) napi_typeof(env, values[index], &type);
    if (ok && type != napi_object) wrong("an object of handlers is needed");
    return ok ? values[index] : nullptr;
  }
};

}  // namespace vmring::os
