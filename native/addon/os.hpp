// Operating-system functions of the addon: sockets that carry descriptors, the ivshmem client, eventfds.
#pragma once

#include <node_api.h>

// Adds the OsFunctions of src/native/types.ts to `exports`. Called once per environment by the module's init.
void init_os(napi_env env, napi_value exports);
