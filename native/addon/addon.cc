// Entry point: one Module per environment, and what it exports (src/native/types.ts is the contract).
#include "addon/bench.hpp"
#include "addon/device.hpp"
#include "addon/ends.hpp"
#include "addon/module.hpp"
#include "addon/os.hpp"
#include "addon/peer.hpp"
#include "addon/region.hpp"

namespace vmring::addon {
namespace {

napi_value init(napi_env env, napi_value exports) {
  return guarded(env, [&] {
    auto* module = new std::shared_ptr<Module>(std::make_shared<Module>(env));
    const napi_status status = napi_set_instance_data(
        env, module, [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<Module>*>(data); }, nullptr);
    if (status != napi_ok) {
      delete module;
      throw JsPending{};
    }
    (*module)->open();
    Region::init(env, exports);
    Peer::init(env, exports);
    Device::init(env, exports);
    Pairs::init(env, exports);
    init_ends(env, exports);
    init_os(env, exports);
    init_bench(env, exports);
    return exports;
  });
}

} // namespace
} // namespace vmring::addon

NAPI_MODULE_INIT() { return vmring::addon::init(env, exports); }
