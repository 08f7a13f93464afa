#include "addon/module.hpp"

#include <mutex>

#include "addon/device.hpp"
#include "addon/member.hpp"

namespace vmring::addon {

// Handles must have closed before the event loop of a worker is destroyed, so the cleanup is an asynchronous one: it is
// over when the last handle has said so.
Module::Module(napi_env environment) : env(environment) {}

constinit std::atomic<Module*> Module::only_ = nullptr;
constinit thread_local Module* Module::current_ = nullptr;

void Module::open() {
  current_ = this;
  {
    // A second environment is another thread. From here on it finds null, which nothing undoes; the first thread finds itself either way.
    static std::mutex mutex;
    static bool first = true;
    const std::lock_guard lock(mutex);
    only_ = first ? this : nullptr;
    first = false;
  }
  loop.open(env);
  napi_value name = make_string(env, "vmring");
  check(napi_async_init(env, nullptr, name, &context_));
  check(napi_add_async_cleanup_hook(
      env,
      [](napi_async_cleanup_hook_handle handle, void* data) {
        auto* module = static_cast<Module*>(data);
        module->cleanup_ = handle;
        module->shut();
      },
      this, &cleanup_));
}

void Module::shut() {
  if (ended) return;
  ended = true;
  current_ = nullptr;
  Module* self = this;
  only_.compare_exchange_strong(self, nullptr);
  while (!members.empty()) {
    Member* member = *members.begin();
    members.erase(members.begin());
    member->close();
  }
  while (!devices.empty()) (*devices.begin())->shut();
  loop.shut();
  handle_closed();
}

void Module::handle_closed() {
  if (!ended || loop.open_handles() != 0 || cleanup_ == nullptr) return;
  napi_remove_async_cleanup_hook(std::exchange(cleanup_, nullptr));
}

void Module::take_noted_releases() {
  uint32_t* words = releases.get();
  const uint32_t count = words[0] < kReleases ? words[0] : kReleases;
  words[0] = 0;
  for (uint32_t i = 0; i < count;) {
    const uint32_t id = words[1 + 2 * i];
    EndEntry* end = ends.find(id);
    bool any = false;
    for (; i < count && words[1 + 2 * i] == id; ++i) any |= end != nullptr && end->core.release(words[2 + 2 * i]);
    if (any && end->owner != nullptr) end->owner->released(*end);
  }
}

void Module::call(napi_value function, size_t count, const napi_value* arguments) noexcept {
  if (ended) return;
  napi_value global = nullptr, result = nullptr;
  if (napi_get_global(env, &global) != napi_ok) return;
  if (napi_make_callback(env, context_, global, function, count, arguments, &result) == napi_ok) return;
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) != napi_ok || !pending) return; // the environment is ending
  napi_value error = nullptr;
  if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
}

Module& module_of(napi_env env) {
  void* data = nullptr;
  if (napi_get_instance_data(env, &data) != napi_ok || data == nullptr) throw JsPending{};
  return **static_cast<std::shared_ptr<Module>*>(data);
}

} // namespace vmring::addon
