// Device: an ivshmem device of this guest as JavaScript sees it. It owns registers, interrupts and the descriptors of vfio;
// the memory is a Region of its own (property `region`).
#pragma once

#include <uv.h>

#include "addon/js.hpp"
#include "addon/member.hpp"
#include "linux/vfio.hpp"

namespace vmring::addon {

class Device : public Napi::ObjectWrap<Device> {
 public:
  static void init(napi_env env, napi_value exports);
  // The Device behind a JavaScript value; TypeError for anything else.
  static Device& from(napi_env env, napi_value value);

  explicit Device(const Napi::CallbackInfo& info);
  ~Device() override;

  // Null for a device without doorbells.
  std::shared_ptr<Ringer> ringer() const;
  // Lets go of everything but the memory. Also from the garbage collector and at the end of the environment.
  void shut();

 private:
  struct Open; // the device itself, shared with the Members that ring with it
  struct Request {
    uv_poll_t poll;
    Device* device;
    Module* module;
    int fd; // a duplicate: the poll handle must outlive neither its own nor the device's
  };
  template <napi_value (Device::*Method)(napi_env, const Napi::CallbackInfo&)>
  Napi::Value method(const Napi::CallbackInfo& info);
  static napi_value list(napi_env env, napi_callback_info info);
  template <bool Vfio>
  static napi_value open(napi_env env, napi_callback_info info);

  napi_value vector(napi_env env, const Napi::CallbackInfo& info);
  napi_value detach(napi_env env, const Napi::CallbackInfo& info);
  napi_value close(napi_env env, const Napi::CallbackInfo& info);

  napi_value fill(napi_env env, Napi::Object self);
  void watch_request();
  void stop_watching();
  void requested();

  Module* module_ = nullptr;
  std::shared_ptr<Module> module_kept_;
  std::shared_ptr<Open> open_;
  Request* request_ = nullptr;
};

} // namespace vmring::addon
