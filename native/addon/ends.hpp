// The functions on ends: raw Node-API, because a message costs a few tens of nanoseconds and a wrapper would be felt.
#pragma once

#include "addon/end_table.hpp"
#include "addon/js.hpp"

namespace vmring::addon {

class Module;

void init_ends(napi_env env, napi_value exports);

// ends_admin.cc
napi_value end_pending(napi_env env, napi_callback_info info);
napi_value end_rewind(napi_env env, napi_callback_info info);
napi_value end_counters(napi_env env, napi_callback_info info);
napi_value end_fault(napi_env env, napi_callback_info info);
napi_value end_idle(napi_env env, napi_callback_info info);
napi_value end_destroy(napi_env env, napi_callback_info info);

// ends_stream.cc
napi_value end_read_bytes(napi_env env, napi_callback_info info);
napi_value end_write_bytes(napi_env env, napi_callback_info info);
napi_value end_write_text(napi_env env, napi_callback_info info);

Module& module_behind(void* data);
// Null: no such end (any more). TypeError when it is not a number.
EndEntry* find_end(Module& module, napi_env env, napi_value id);
int32_t status_of(Send result);
// What stands in the way of sending: 0 nothing, else a status.
int32_t send_obstacle(EndEntry* end);
// One record from the inbox, lent, into `scratch`: its kind, 0, or a status.
int32_t receive_record(Module& module, EndEntry& end);

// For functions that make no sense without the end: throws ERR_VMRING_CLOSED.
EndEntry& need_end(Module& module, napi_env env, napi_value id);

} // namespace vmring::addon
