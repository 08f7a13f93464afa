#pragma once

#include <node_api.h>

namespace vmring::addon {

void init_bench(napi_env env, napi_value exports);

} // namespace vmring::addon
