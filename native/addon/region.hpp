// Region: a mapping as JavaScript sees it, with the private copy of its geometry.
#pragma once

#include <optional>

#include "addon/js.hpp"
#include "core/region.hpp"
#include "core/section.hpp"

namespace vmring::addon {

class Region : public Napi::ObjectWrap<Region> {
 public:
  static void init(napi_env env, napi_value exports);
  // The Region behind a JavaScript value; TypeError for anything else.
  static Region& from(napi_env env, napi_value value);
  // A new Region over a mapping.
  static napi_value wrap(napi_env env, std::shared_ptr<Mapping> mapping);

  explicit Region(const Napi::CallbackInfo& info);
  ~Region() override;

  const std::shared_ptr<Mapping>& mapping() const { return mapping_; }
  // Checked at the first call, remembered afterwards.
  const Geometry& geometry();

 private:
  template <napi_value (Region::*Method)(napi_env, const Napi::CallbackInfo&)>
  Napi::Value method(const Napi::CallbackInfo& info);

  napi_value buffer(napi_env env, const Napi::CallbackInfo& info);
  napi_value size(napi_env env, const Napi::CallbackInfo& info);
  napi_value fd(napi_env env, const Napi::CallbackInfo& info);
  napi_value lost(napi_env env, const Napi::CallbackInfo& info);
  napi_value blank(napi_env env, const Napi::CallbackInfo& info);
  napi_value format(napi_env env, const Napi::CallbackInfo& info);
  napi_value format_together(napi_env env, const Napi::CallbackInfo& info);
  napi_value describe(napi_env env, const Napi::CallbackInfo& info);
  napi_value read_entry(napi_env env, const Napi::CallbackInfo& info);
  napi_value write_entry(napi_env env, const Napi::CallbackInfo& info);
  napi_value beat(napi_env env, const Napi::CallbackInfo& info);
  napi_value claim_entry(napi_env env, const Napi::CallbackInfo& info);
  napi_value release_entry(napi_env env, const Napi::CallbackInfo& info);
  napi_value read_identity(napi_env env, const Napi::CallbackInfo& info);
  napi_value close(napi_env env, const Napi::CallbackInfo& info);

  uint32_t section_argument(napi_env env, napi_value value);
  EntryBlock* entry(uint32_t section);

  std::shared_ptr<Mapping> mapping_;
  std::optional<Geometry> geometry_;
  napi_ref buffer_ = nullptr;
};

// From getrandom; never 0.
uint32_t random_nonce();
void random_bytes(uint8_t* out, size_t length);

} // namespace vmring::addon
