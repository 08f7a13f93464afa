// Ends in private memory, joined back to back: the application's end and, at its far side, whatever copies (a stream).
// The same rings as in a region; only the bell is a list in this process.
#pragma once

#include "addon/end_owner.hpp"
#include "addon/js.hpp"

namespace vmring::addon {

class Module;

class Pairs final : public EndOwner {
 public:
  explicit Pairs(Module& module);

  void ring(EndEntry& end) override;
  // From the event loop: reports what is ready.
  void process();
  bool pending() const { return !active_.empty(); }
  // Has anything come up since the last process()? Then the loop must live long enough to report it.
  bool fresh() const { return fresh_; }

  static void init(napi_env env, napi_value exports);
  void set_callback(napi_env env, napi_value function);
  void end_destroyed(EndEntry& end);

  struct Made {
    EndEntry* near;
    EndEntry* far;
  };
  Made create(uint32_t capacity, uint32_t send_from, uint32_t receive_from);

 private:
  void activated() override;

  Module& module_;
  napi_ref callback_ = nullptr;
  bool fresh_ = false;
  bool processing_ = false;
};

} // namespace vmring::addon
