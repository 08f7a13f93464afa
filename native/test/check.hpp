// The smallest test runner that serves: one source file per program, a line per test, "N passed, M failed" last.
//
//   TEST(ring_is_empty_at_first) { CHECK(ring.empty()); CHECK_EQ(ring.size(), 0u); REQUIRE(ring.open()); }
//
// CHECK notes a failure and goes on, from any thread; REQUIRE ends the test, on the test's own thread only. A test that
// hangs is ended, with the whole program, by an alarm: nothing behind it would run, so nothing is claimed about it.
// Arguments are parts of names: only tests that contain one of them run.
#pragma once

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace check {

struct Case {
  const char* name;
  void (*body)();
};
inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}
struct Registered {
  Registered(const char* name, void (*body)()) { cases().push_back({name, body}); }
};
struct Abandoned {};

inline std::atomic<int> failures{0}; // of the test that runs
inline const char* current = "";
inline int passed = 0;
inline int failed = 0;
// VMRING_TEST_SECONDS: for tests that are told to take long.
inline unsigned seconds_per_test() {
  const char* text = getenv("VMRING_TEST_SECONDS");
  return text ? static_cast<unsigned>(atoi(text)) : 90;
}

inline void fail(const char* file, int line, const std::string& what) {
  const int count = ++failures;
  if (count <= 20) fprintf(stdout, "  %s:%d: %s\n", file, line, what.c_str());
  if (count == 20) fprintf(stdout, "  … further failures of this test are counted only\n");
}

template <class T>
std::string text(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return std::to_string(static_cast<long long>(value));
  } else if constexpr (std::is_same_v<T, uint8_t> || std::is_same_v<T, int8_t>) {
    return std::to_string(static_cast<int>(value));
  } else if constexpr (requires(std::ostream& out) { out << value; }) {
    std::ostringstream out;
    out << value;
    return out.str();
  } else {
    return "(a value)";
  }
}

// The second operand is often a literal: signedness is not what a test is about.
template <class T, class U>
bool same(const T& a, const U& b) {
  if constexpr (std::integral<T> && std::integral<U> && !std::is_same_v<T, bool> && !std::is_same_v<U, bool>) {
    return std::cmp_equal(a, b);
  } else {
    return a == b;
  }
}

template <class T, class U>
void equal(const T& a, const U& b, const char* words, const char* file, int line) {
  if (!same(a, b)) fail(file, line, std::string(words) + ": " + text(a) + " is not " + text(b));
}

inline void hung(int) {
  char line[200];
  const int length = snprintf(line, sizeof line, "  hangs: %s\nFAILED %s\n%d passed, %d failed\n", current, current, passed,
                              failed + 1);
  if (write(1, line, static_cast<size_t>(length)) < 0) _exit(2);
  _exit(1);
}

inline bool chosen(const char* name, int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (strstr(name, argv[i])) return true;
  }
  return argc < 2;
}

} // namespace check

#define TEST(name)                                                   \
  static void name();                                                \
  static const ::check::Registered check_registered_##name{#name, name}; \
  static void name()
#define CHECK(condition)                                                       \
  do {                                                                         \
    if (!(condition)) ::check::fail(__FILE__, __LINE__, "not true: " #condition); \
  } while (0)
#define CHECK_EQ(a, b) ::check::equal((a), (b), #a " = " #b, __FILE__, __LINE__)
#define REQUIRE(condition)                                               \
  do {                                                                   \
    if (!(condition)) {                                                  \
      ::check::fail(__FILE__, __LINE__, "not true (ends the test): " #condition); \
      throw ::check::Abandoned{};                                        \
    }                                                                    \
  } while (0)

#if !defined(VMRING_CHECK_NO_MAIN)
int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  signal(SIGALRM, ::check::hung);
  for (const ::check::Case& test : ::check::cases()) {
    if (!::check::chosen(test.name, argc, argv)) continue;
    ::check::current = test.name;
    ::check::failures = 0;
    alarm(::check::seconds_per_test());
    try {
      test.body();
    } catch (const ::check::Abandoned&) {
    } catch (const std::exception& error) {
      ::check::fail(__FILE__, __LINE__, std::string("an exception: ") + error.what());
    }
    alarm(0);
    const bool good = ::check::failures == 0;
    good ? ++::check::passed : ++::check::failed;
    printf("%s %s\n", good ? "ok" : "FAILED", test.name);
  }
  printf("%d passed, %d failed\n", ::check::passed, ::check::failed);
  return ::check::failed == 0 ? 0 : 1;
}
#endif // VMRING_CHECK_NO_MAIN: a fuzz target has a main() of its own
