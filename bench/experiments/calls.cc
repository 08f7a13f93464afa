// What a call of a Node-API function is made of: each of these does one thing more than the one before.
//   g++ -O2 -shared -fPIC -I "$(dirname "$(dirname "$(readlink -f "$(which node)")")")/include/node" bench/experiments/calls.cc -o calls.node
//   node bench/experiments/calls.mjs calls.node
#include <node_api.h>

#include <cstdint>

namespace {

double sum = 0;
int data = 0;

napi_value nothing(napi_env, napi_callback_info) { return nullptr; }

napi_value behind(napi_env env, napi_callback_info info) {
  void* found = nullptr;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &found);
  sum += found != nullptr;
  return nullptr;
}

napi_value argument_of(napi_env env, napi_callback_info info) {
  napi_value argument = nullptr;
  size_t count = 1;
  napi_get_cb_info(env, info, &count, &argument, nullptr, nullptr);
  return argument;
}

napi_value number(napi_env env, napi_callback_info info) {
  uint32_t value = 0;
  napi_get_value_uint32(env, argument_of(env, info), &value);
  sum += value;
  return nullptr;
}

napi_value result(napi_env env, napi_callback_info info) {
  uint32_t value = 0;
  napi_get_value_uint32(env, argument_of(env, info), &value);
  napi_value made = nullptr;
  napi_create_uint32(env, value, &made);
  return made;
}

napi_value bytes(napi_env env, napi_callback_info info) {
  void* where = nullptr;
  size_t length = 0;
  napi_typedarray_type type = napi_int8_array;
  napi_get_typedarray_info(env, argument_of(env, info), &type, &length, &where, nullptr, nullptr);
  sum += static_cast<double>(length);
  return nullptr;
}

} // namespace

NAPI_MODULE_INIT() {
  const struct {
    const char* name;
    napi_callback callback;
  } functions[] = {{"nothing", nothing}, {"behind", behind}, {"number", number}, {"result", result}, {"bytes", bytes}};
  for (const auto& each : functions) {
    napi_value function = nullptr;
    napi_create_function(env, each.name, NAPI_AUTO_LENGTH, each.callback, &data, &function);
    napi_set_named_property(env, exports, each.name, function);
  }
  return exports;
}
