// What `vmring bench` needs of the machine: its floors, and one checksum for all transports.
#include "addon/bench.hpp"

#include "addon/js.hpp"
#include "addon/module.hpp"
#include "core/record.hpp"
#include "linux/floor.hpp"
#include "linux/watchdog.hpp"

namespace vmring::addon {
namespace {

constexpr uint64_t kMostNanoseconds = 600'000'000'000;
constexpr uint32_t kMostBytes = 1u << 30;
constexpr int64_t kMostProcessors = 1023; // cpu_set_t

napi_value bench_checksum(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<2> arguments(env, info);
    const Bytes bytes = to_bytes(env, arguments[0], "the bytes");
    const double offset = to_double(env, arguments[1], "the offset");
    if (!(offset >= 0 && offset <= 9007199254740992.0)) throw_range("the offset must be at least 0");
    return make_u32(env, floor::checksum(bytes.data, bytes.length, static_cast<uint64_t>(offset)));
  });
}

napi_value bench_pin(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<1> arguments(env, info);
    floor::pin(static_cast<int>(to_integer(env, arguments[0], "the processor", 0, kMostProcessors)));
    return undefined(env);
  });
}

napi_value bench_floor(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Arguments<7> arguments(env, info);
    const auto integer = [&](size_t i, const char* name, int64_t least, int64_t most) {
      return to_integer(env, arguments[i], name, least, most);
    };
    const auto kind = static_cast<floor::Kind>(integer(0, "the kind", 0, 4));
    floor::Setup setup{};
    setup.cpu[0] = static_cast<int>(integer(1, "the processor", -1, kMostProcessors));
    setup.cpu[1] = static_cast<int>(integer(2, "the processor", -1, kMostProcessors));
    setup.nanoseconds = static_cast<uint64_t>(integer(3, "the duration", 1, kMostNanoseconds));
    setup.gap = static_cast<uint64_t>(integer(4, "the gap", 0, kMostNanoseconds));
    setup.size = static_cast<uint32_t>(integer(5, "the size", 1, kMostBytes));
    setup.footprint = static_cast<uint32_t>(integer(6, "the footprint", kMinCapacity, kMostBytes));
    const bool power = (setup.footprint & (setup.footprint - 1)) == 0;
    if (!power || (kind == floor::Kind::ring && setup.size > max_payload(setup.footprint))) {
      throw_range("the footprint must be a power of two in which a message of that size fits twice");
    }
    return make_number(env, floor::measure(kind, setup));
  });
}

thread_local double* clock_word = nullptr; // kept by the array that JavaScript sees

// performance.now() without what Node puts around it: two of these stand around each round trip.
napi_value bench_clock(napi_env, napi_callback_info) {
  if (clock_word != nullptr) *clock_word = static_cast<double>(steady_nanoseconds()) / 1e6;
  return nullptr;
}

napi_value bench_hypervisor(napi_env env, napi_callback_info) {
  return guarded(env, [&] { return make_string(env, floor::hypervisor()); });
}

} // namespace

void init_bench(napi_env env, napi_value exports) {
  const Function functions[] = {
      {"benchChecksum", bench_checksum},
      {"benchPin", bench_pin},
      {"benchFloor", bench_floor},
      {"benchHypervisor", bench_hypervisor},
      {"benchClock", bench_clock},
  };
  export_functions(env, exports, functions);
  const SharedWords<double> word(1);
  check(napi_set_named_property(env, exports, "benchTime", word.array(env, napi_float64_array)));
  clock_word = word.get();
}

} // namespace vmring::addon
