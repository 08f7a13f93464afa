// The functions on ends: raw Node-API, because a message costs a few tens of nanoseconds and a wrapper would be felt.
#pragma once

#include "addon/js.hpp"

namespace vmring::addon {

class Module;
struct EndEntry;

void init_ends(napi_env env, napi_value exports);

// ends_admin.cc
napi_value end_pending(napi_env env, napi_callback_info info);
napi_value end_rewind(napi_env env, napi_callback_info info);
napi_value end_counters(napi_env env, napi_callback_info info);
napi_value end_fault(napi_env env, napi_callback_info info);
napi_value end_idle(napi_env env, napi_callback_info info);
napi_value end_destroy(napi_env env, napi_callback_info info);

// For functions that make no sense without the end: throws ERR_VMRING_CLOSED.
EndEntry& need_end(Module& module, napi_env env, napi_value id);

} // namespace vmring::addon
