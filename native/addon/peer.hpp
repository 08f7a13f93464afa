// Peer: a Member with its JavaScript face. While it is ref'd the object lives; unref'd and forgotten, it is closed by the
// garbage collector.
#pragma once

#include "addon/js.hpp"
#include "addon/member.hpp"
#include "addon/module.hpp"

namespace vmring::addon {

class Peer final : public Napi::ObjectWrap<Peer>, public MemberListener {
 public:
  static void init(napi_env env, napi_value exports);

  explicit Peer(const Napi::CallbackInfo& info);
  ~Peer() override;

 private:
  template <napi_value (Peer::*Method)(napi_env, const Napi::CallbackInfo&)>
  Napi::Value method(const Napi::CallbackInfo& info);

  void construct(napi_env env, const Napi::CallbackInfo& info);
  napi_value section(napi_env env, const Napi::CallbackInfo& info);
  napi_value incarnation(napi_env env, const Napi::CallbackInfo& info);
  napi_value set_doorbell(napi_env env, const Napi::CallbackInfo& info);
  napi_value clear_doorbell(napi_env env, const Napi::CallbackInfo& info);
  napi_value set_mode(napi_env env, const Napi::CallbackInfo& info);
  napi_value set_polling(napi_env env, const Napi::CallbackInfo& info);
  napi_value carry_bells(napi_env env, const Napi::CallbackInfo& info);
  napi_value knock(napi_env env, const Napi::CallbackInfo& info);
  napi_value remotes(napi_env env, const Napi::CallbackInfo& info);
  napi_value send_control(napi_env env, const Napi::CallbackInfo& info);
  napi_value create_end(napi_env env, const Napi::CallbackInfo& info);
  napi_value attach_end(napi_env env, const Napi::CallbackInfo& info);
  napi_value alloc_large(napi_env env, const Napi::CallbackInfo& info);
  napi_value commit_large(napi_env env, const Napi::CallbackInfo& info);
  napi_value free_large(napi_env env, const Napi::CallbackInfo& info);
  napi_value counters(napi_env env, const Napi::CallbackInfo& info);
  napi_value ref(napi_env env, const Napi::CallbackInfo& info);
  napi_value unref(napi_env env, const Napi::CallbackInfo& info);
  napi_value detach(napi_env env, const Napi::CallbackInfo& info);
  napi_value close(napi_env env, const Napi::CallbackInfo& info);

  void on_ready(uint32_t count) override;
  void on_control(uint32_t section, uint32_t incarnation, const uint8_t* bytes, uint32_t length) override;
  void on_peer(PeerEvent event, const RemoteInfo& peer) override;

  // Calls one of the callbacks with what `arguments` makes; a failing environment makes it do nothing.
  template <class Make>
  void tell(size_t which, Make arguments) noexcept;
  void keep(bool alive);
  // The end behind an id, if it is this peer's; null otherwise.
  EndEntry* own_end(uint32_t id) const;
  void shut();

  Module* module_ = nullptr;
  std::shared_ptr<Module> module_kept_;
  std::shared_ptr<Member> member_;
  SharedWords<uint32_t> ready_{2 * kReadyPairs};
  // Weak: the functions live as long as the Peer's own object, which holds them in a property. Strong ones would keep
  // everything that they close over, and so the Peer itself, for ever.
  napi_ref callbacks_[3] = {};
  bool kept_ = false;
};

} // namespace vmring::addon
