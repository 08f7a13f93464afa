#include "addon/device.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <thread>
#include <vector>

#include "addon/module.hpp"
#include "addon/region.hpp"

namespace vmring::addon {

struct Device::Open final : Ringer {
  PciDevice info;
  std::unique_ptr<VfioDevice> vfio; // null: through sysfs, or let go of
  Registers registers;              // sysfs only
  int lock = -1;                    // sysfs only
  std::shared_ptr<Mapping> memory;
  uint32_t position = 0;
  uint32_t vectors = 0; // armed here
  bool silent = false;  // armed, but no interrupt comes
  double speed = 0;
  bool through_vfio = false;

  ~Open() override { release(); }

  bool ring(uint32_t peer_id, uint32_t vector) noexcept override {
    if (vfio) {
      vfio->ring(peer_id, vector);
      return true;
    }
    if (!registers) return false;
    registers.ring(peer_id, vector);
    return true;
  }

  void release() {
    vfio.reset();
    registers = Registers();
    if (lock >= 0) ::close(lock);
    lock = -1;
  }
};

namespace {

constexpr double kLargest = 9007199254740991.0; // of whole numbers that a double holds

const char* code_of(DeviceFault fault) {
  switch (fault) {
    case DeviceFault::absent: return "ERR_VMRING_DEVICE_ABSENT";
    case DeviceFault::not_ivshmem: return "ERR_VMRING_DEVICE_TYPE";
    case DeviceFault::other_driver: return "ERR_VMRING_DEVICE_DRIVER";
    case DeviceFault::no_vfio: return "ERR_VMRING_NO_VFIO";
    case DeviceFault::no_iommu: return "ERR_VMRING_NO_IOMMU";
    case DeviceFault::not_viable: return "ERR_VMRING_DEVICE_GROUP";
    case DeviceFault::interrupts: return "ERR_VMRING_INTERRUPT_REMAPPING";
    case DeviceFault::busy: return "ERR_VMRING_DEVICE_BUSY";
    case DeviceFault::permission: return "ERR_VMRING_DEVICE_PERMISSION";
    case DeviceFault::lockdown: return "ERR_VMRING_LOCKDOWN";
    case DeviceFault::no_vectors: return "ERR_VMRING_NO_VECTORS";
    case DeviceFault::system: break;
  }
  return "ERR_VMRING_DEVICE";
}

// Everything that stands in the C++ error; src/peer/device.ts makes a sentence with a cure of it.
[[noreturn]] void throw_device(napi_env env, const DeviceError& error) {
  napi_value object = nullptr;
  check(napi_create_error(env, make_string(env, code_of(error.fault)), make_string(env, error.what()), &object));
  check(napi_set_named_property(env, object, "path", make_string(env, error.path)));
  if (error.number != 0) {
    check(napi_set_named_property(env, object, "errno", make_int(env, -error.number)));
    check(napi_set_named_property(env, object, "syscall", make_string(env, error.syscall)));
  }
  check(napi_set_named_property(env, object, "detail", make_string(env, error.detail)));
  check(napi_set_named_property(env, object, "pid", make_int(env, error.owner)));
  check(napi_throw(env, object));
  throw JsPending{};
}

template <class Body>
napi_value with_devices(napi_env env, Body&& body) noexcept {
  return guarded(env, [&]() -> napi_value {
    try {
      return body();
    } catch (const DeviceError& error) {
      throw_device(env, error);
    }
  });
}

} // namespace

template <napi_value (Device::*Method)(napi_env, const Napi::CallbackInfo&)>
Napi::Value Device::method(const Napi::CallbackInfo& info) {
  const napi_env env = info.Env();
  return Napi::Value(env, with_devices(env, [&] { return (this->*Method)(env, info); }));
}

void Device::init(napi_env env, napi_value exports) {
  Napi::Function constructor = DefineClass(env, "Device",
                                           {
                                               InstanceMethod<&Device::method<&Device::vector>>("vector"),
                                               InstanceMethod<&Device::method<&Device::detach>>("detach"),
                                               InstanceMethod<&Device::method<&Device::close>>("close"),
                                           });
  const Function functions[] = {{"list", list}, {"openVfio", open<true>}, {"openSysfs", open<false>}};
  export_functions(env, constructor, functions);
  check(napi_create_reference(env, constructor, 1, &module_of(env).device_class));
  check(napi_set_named_property(env, exports, "Device", constructor));
}

Device& Device::from(napi_env env, napi_value value) {
  napi_value constructor = nullptr;
  check(napi_get_reference_value(env, module_of(env).device_class, &constructor));
  bool is = false;
  void* wrapped = nullptr;
  if (napi_instanceof(env, value, constructor, &is) != napi_ok || !is || napi_unwrap(env, value, &wrapped) != napi_ok ||
      wrapped == nullptr) {
    throw_type("a Device is needed");
  }
  return *static_cast<Device*>(wrapped);
}

Device::Device(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Device>(info) {}

Device::~Device() { shut(); }

std::shared_ptr<Ringer> Device::ringer() const {
  return open_ && open_->info.interrupts ? std::shared_ptr<Ringer>(open_) : nullptr;
}

napi_value Device::list(napi_env env, napi_callback_info) {
  return with_devices(env, [&] {
    const std::vector<PciDevice> devices = find_ivshmem();
    napi_value result = nullptr;
    check(napi_create_array_with_length(env, devices.size(), &result));
    for (size_t i = 0; i < devices.size(); ++i) {
      const PciDevice& device = devices[i];
      const napi_value object = ObjectBuilder(env)
                                    .set("address", make_string(env, device.address))
                                    .set("driver", make_string(env, device.driver))
                                    .set("interrupts", make_bool(env, device.interrupts))
                                    .number("memoryBytes", static_cast<double>(device.memory_bytes))
                                    .number("iommuGroup", device.iommu_group)
                                    .number("revision", device.revision)
                                    .object();
      check(napi_set_element(env, result, static_cast<uint32_t>(i), object));
    }
    return result;
  });
}

template <bool Vfio>
napi_value Device::open(napi_env env, napi_callback_info info) {
  return with_devices(env, [&] {
    const Arguments<1> arguments(env, info);
    const std::string address = to_string(env, arguments[0], "the address");
    auto opened = std::make_shared<Open>();
    Bar memory;
    if constexpr (Vfio) {
      opened->through_vfio = true;
      opened->vfio = VfioDevice::open(address);
      opened->info = opened->vfio->device();
      // Armed before anybody can know that we are here: QEMU drops what comes earlier.
      if (opened->vfio->vectors() != 0) opened->vfio->arm();
      opened->silent = opened->vfio->vectors() != 0 && !opened->vfio->heard();
      opened->vectors = opened->silent ? 0 : opened->vfio->vectors();
      opened->position = opened->vfio->position();
      memory = opened->vfio->map_memory();
    } else {
      SysfsDevice device = SysfsDevice::open(address);
      opened->lock = device.lock;
      opened->info = device.device;
      opened->registers = std::move(device.registers);
      if (opened->registers) opened->position = opened->registers.position();
      memory = std::move(device.memory);
    }
    opened->memory = Mapping::adopt(memory.data(), memory.size());
    memory.release();
    opened->speed = read_speed(opened->memory->data(), opened->memory->size());

    napi_value constructor = nullptr, self = nullptr;
    check(napi_get_reference_value(env, module_of(env).device_class, &constructor));
    check(napi_new_instance(env, constructor, 0, nullptr, &self));
    Device& device = from(env, self);
    device.open_ = std::move(opened);
    return device.fill(env, Napi::Object(env, self));
  });
}

napi_value Device::fill(napi_env env, Napi::Object self) {
  module_kept_ = module_of(env).shared();
  module_ = module_kept_.get();
  module_->devices.insert(this);
  const std::pair<const char*, napi_value> properties[] = {
      {"region", Region::wrap(env, open_->memory)},
      {"kind", make_string(env, open_->through_vfio ? "vfio" : "sysfs")},
      {"address", make_string(env, open_->info.address)},
      {"interrupts", make_bool(env, open_->info.interrupts)},
      {"rings", make_bool(env, open_->vfio || open_->registers)},
      {"position", make_u32(env, open_->position)},
      {"vectors", make_u32(env, open_->vectors)},
      {"silent", make_bool(env, open_->silent)},
      {"readSpeed", make_number(env, open_->speed)},
      {"slow", make_bool(env, open_->speed < kSlowMapping)},
  };
  for (const auto& [name, value] : properties) check(napi_set_named_property(env, self, name, value));
  watch_request();
  return self;
}

// The own eventfd of a vector, duplicated: whoever takes it owns it.
napi_value Device::vector(napi_env env, const Napi::CallbackInfo& info) {
  const int64_t index = to_integer(env, info[0], "the vector", 0, INT32_MAX);
  const int fd = open_ && open_->vfio && !open_->silent ? open_->vfio->vector_fd(static_cast<uint32_t>(index)) : -1;
  if (fd < 0) return make_int(env, -1);
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) throw SystemError(errno, "fcntl");
  return make_int(env, copy);
}

// ---- the notice before an unplug

void Device::watch_request() {
  const int fd = open_->vfio ? open_->vfio->request_fd() : -1;
  if (fd < 0) return;
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) throw SystemError(errno, "fcntl");
  auto* request = new Request{{}, this, module_, copy};
  request->poll.data = request;
  if (uv_poll_init(module_->loop.uv(), &request->poll, copy) != 0) {
    ::close(copy);
    delete request;
    return; // unplugging then waits until the peer is closed
  }
  request_ = request;
  module_->loop.handle_opened();
  uv_unref(reinterpret_cast<uv_handle_t*>(&request->poll));
  uv_poll_start(&request->poll, UV_READABLE, [](uv_poll_t* handle, int, int) {
    auto* of = static_cast<Request*>(handle->data);
    uint64_t count = 0;
    if (::read(of->fd, &count, sizeof count) != static_cast<ssize_t>(sizeof count)) return;
    if (of->device != nullptr) of->device->requested();
  });
}

void Device::stop_watching() {
  if (request_ == nullptr) return;
  Request* request = std::exchange(request_, nullptr);
  request->device = nullptr;
  uv_close(reinterpret_cast<uv_handle_t*>(&request->poll), [](uv_handle_t* handle) {
    auto* of = static_cast<Request*>(handle->data);
    Module* module = of->module;
    ::close(of->fd);
    delete of;
    module->loop.handle_closed();
  });
}

// Calls the property `onRequest`, as the event loop calls everything.
void Device::requested() {
  if (module_->ended) return;
  const napi_env env = Env();
  const HandleScope scope(env);
  const Napi::Object self = Value();
  napi_value function = nullptr;
  napi_valuetype type = napi_undefined;
  if (self.IsEmpty() || napi_get_named_property(env, self, "onRequest", &function) != napi_ok) return;
  if (napi_typeof(env, function, &type) != napi_ok || type != napi_function) return;
  module_->call(function, 0, nullptr);
}

// The bytes that are named stay, the device goes.
napi_value Device::detach(napi_env env, const Napi::CallbackInfo& info) {
  if (!open_) return make_bool(env, false);
  std::vector<ByteRange> ranges;
  if (info[0].IsTypedArray() && info[0].As<Napi::TypedArray>().TypedArrayType() == napi_float64_array) {
    const auto numbers = info[0].As<Napi::Float64Array>();
    for (size_t i = 0; i + 1 < numbers.ElementLength(); i += 2) {
      if (numbers[i] < 0 || numbers[i] > kLargest || numbers[i + 1] < 0 || numbers[i + 1] > kLargest) continue;
      ranges.push_back({static_cast<uint64_t>(numbers[i]), static_cast<uint64_t>(numbers[i + 1])});
    }
  }
  const bool kept = open_->memory->detach(ranges);
  if (!kept) open_->memory->close(); // no memory for a copy: reads give zeros, and the device can still go
  // The kernel resets a device as it is closed, which may take seconds. Channels have to move to other paths meanwhile.
  if (open_->vfio) {
    try {
      std::thread([vfio = std::move(open_->vfio)] {}).detach();
    } catch (const std::system_error&) { // no thread: it was closed where it stood
    }
  }
  shut();
  return make_bool(env, kept);
}

napi_value Device::close(napi_env env, const Napi::CallbackInfo&) {
  shut();
  return undefined(env);
}

void Device::shut() {
  stop_watching();
  if (module_ != nullptr) module_->devices.erase(this);
  if (open_) open_->release();
}

} // namespace vmring::addon
